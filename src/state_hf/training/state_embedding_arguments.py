"""Arguments of pretraining a State Embedding model."""

from dataclasses import dataclass, field
from typing import Any, Literal

from state_hf.training.corpus_arguments import CorpusTrainingArguments


@dataclass
class StateEmbeddingTrainingArguments(CorpusTrainingArguments):
    """`TrainingArguments` with the defaults that State Embedding models are pretrained with, and the objective.

    The objective's fields are those of `ExpressionTargets`; the loss itself is part of the model's configuration.
    """

    per_device_train_batch_size: int = field(default=128, metadata={"help": "Cells a step and device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Cells a step of evaluation."})
    learning_rate: float = field(default=4e-4, metadata={"help": "Peak learning rate of AdamW (original: 1e-5)."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    max_grad_norm: float = field(default=0.8, metadata={"help": "Norm that gradients are clipped to."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Steps of linear warm-up; below 1, their share."})
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "How the learning rate changes."})
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default_factory=lambda: {"min_lr_rate": 0.3}, metadata={"help": "The floor is this share of the peak."}
    )
    expressed_targets: int = field(default=512, metadata={"help": "Expressed target genes a cell."})
    unexpressed_targets: int = field(default=512, metadata={"help": "Unexpressed target genes a cell."})
    shared_targets: int = field(
        default=256, metadata={"help": "Target genes that a step's cells share (original's code: 512; its paper: 256)."}
    )
    views: int = field(default=1, metadata={"help": "Sentences a cell; all but the first of downsampled counts."})
    lowest_share: float = field(default=0.3, metadata={"help": "Smallest share of counts that a view is made of."})
    hidden_share: tuple[float, float] = field(
        default=(0.2, 0.6),
        metadata={"help": "Smallest and largest share of a cell's genes hidden from the model (original: 0 0)."},
    )
    unexpressed_genes: Literal["zero", "below_1"] = field(
        default="zero", metadata={"help": "What unexpressed means; below_1: log1p below 1, as in the original."}
    )
    sentence_length: int | None = field(default=None, metadata={"help": "Tokens of a sentence; default: the model's."})


__all__ = ["StateEmbeddingTrainingArguments"]
