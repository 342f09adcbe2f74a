"""Geneformer's mark among the configurations: its models are stock BERT, and their checkpoints say so."""

from typing import Any, ClassVar

from transformers import BertConfig

# The published models; of other sizes, those of the smallest one are given here.
_PUBLISHED: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.02,
    "attention_probs_dropout_prob": 0.02,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}


class GeneformerConfig(BertConfig):
    """Registers Geneformer's tokenizer with transformers, which asks for a configuration; no checkpoint has it.

    A Geneformer model is a `BertForMaskedLM` (or another class of BERT with a head), with `model_type` "bert".
    """

    model_type: ClassVar[str] = "geneformer"


def new_bert_config(*, vocab_size: int, pad_token_id: int, **fields: Any) -> BertConfig:
    """The configuration of a new Geneformer: a BERT as the published ones are.

    Args:
        vocab_size: Tokens, special ones included.
        pad_token_id: Id of the padding.
        **fields: What differs from the smallest published model (V1, 10 million parameters).
    """
    return BertConfig(**{**_PUBLISHED, "vocab_size": vocab_size, "pad_token_id": pad_token_id, **fields})
