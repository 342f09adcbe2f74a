"""Arguments of training a State Transition model."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


@dataclass
class StateTransitionTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the defaults that State Transition models are trained with.

    A batch is a number of sets of cells. The size of a set is the dataset's.
    """

    per_device_train_batch_size: int = field(default=8, metadata={"help": "Sets of cells a step and device."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Sets of cells a step of evaluation."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Learning rate of AdamW."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay of AdamW."})
    max_grad_norm: float = field(default=10.0, metadata={"help": "Norm that gradients are clipped to."})
    max_steps: int = field(default=40_000, metadata={"help": "Training steps."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.accelerator.is_available,
        metadata={"help": "Pin memory; by default where there is a GPU."},
    )
    lr_scheduler_type: str = field(default="constant", metadata={"help": "How the learning rate changes."})
    evaluation_profile: str | None = field(
        default=None,
        metadata={"help": "Profile of the challenge metrics that every evaluation reports, such as vcc2025."},
    )
    evaluation_cells: int = field(
        default=10_000, metadata={"help": "Most real cells that the metrics of the profile are computed with."}
    )


__all__ = ["StateTransitionTrainingArguments"]
