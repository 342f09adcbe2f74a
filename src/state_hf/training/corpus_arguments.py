"""Arguments of pretraining on a corpus of cells, whatever the family."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


@dataclass
class CorpusTrainingArguments(TrainingArguments):
    """`TrainingArguments` for a `CellCorpus`, and the average of the weights."""

    remove_unused_columns: bool = field(default=False, metadata={"help": "A corpus has no columns."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.accelerator.is_available,
        metadata={"help": "Pin memory; by default where there is a GPU."},
    )
    average_decay: float | None = field(
        default=None,
        metadata={"help": "Decay a step of the average of the weights, used at evaluation (original: off, or 0.999)."},
    )


__all__ = ["CorpusTrainingArguments"]
