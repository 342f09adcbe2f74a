"""Geneformer's mark among the configurations: its models are stock BERT, and their checkpoints say so."""

from typing import ClassVar

from transformers import BertConfig


class GeneformerConfig(BertConfig):
    """Registers Geneformer's tokenizer with transformers, which asks for a configuration; no checkpoint has it.

    A Geneformer model is a `BertForMaskedLM` (or another class of BERT with a head), with `model_type` "bert".
    """

    model_type: ClassVar[str] = "geneformer"
