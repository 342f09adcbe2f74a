"""Cell2Sentence's mark among the configurations: its models are stock causal language models of any kind."""

from typing import ClassVar

from transformers import PreTrainedConfig


class Cell2SentenceConfig(PreTrainedConfig):
    """Registers Cell2Sentence's processor with transformers, which asks for a configuration; no checkpoint has it.

    The model is whatever `AutoModelForCausalLM` loads, with its own `model_type`.
    """

    model_type: ClassVar[str] = "cell2sentence"
