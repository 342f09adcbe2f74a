"""Training a family's sequence classifier on labelled cells: what is trained, how classes weigh, what is kept."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from state_hf.training.checkpoints import ReadableCheckpointsMixin, load_weights
from state_hf.training.encoded_cells import whole_batch

Trained: TypeAlias = Literal["all", "last", "head", "lora"]
TRAINED: tuple[Trained, ...] = ("all", "last", "head", "lora")
# What works for each way of training; a head alone learns from random numbers, and takes larger steps.
_LEARNING_RATES: dict[str, float] = {"all": 5e-5, "last": 1e-4, "head": 1e-3, "lora": 3e-4}


def label_training_arguments(
    trained: Trained,
    *,
    epochs: float,
    learning_rate: float | None,
    batch_size: int,
    bf16: bool,
    device: Literal["auto", "cpu"],
    seed: int,
) -> TrainingArguments:
    """Arguments of a training of labels, which neither evaluates nor saves in between.

    Args:
        trained: What is trained, which the learning rate goes by where it is None.
        epochs: Passes over the cells.
        learning_rate: Of AdamW, after a tenth of the steps and before it falls.
        batch_size: Cells a step and process.
        bf16: Whether to compute in bfloat16 where that is safe.
        device: "cpu" even if there is a GPU.
        seed: Of the order of the cells.
    """
    return TrainingArguments(
        num_train_epochs=epochs,
        learning_rate=_LEARNING_RATES[trained] if learning_rate is None else learning_rate,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2 * batch_size,
        warmup_steps=0.1,
        weight_decay=0.01,
        bf16=bf16,
        use_cpu=device == "cpu",
        seed=seed,
        report_to="none",
        eval_strategy="no",
        save_total_limit=1,
    )


def choose_trained_weights(
    model: PreTrainedModel, trained: Trained, *, layers: int = 2, lora_rank: int = 8
) -> PreTrainedModel:
    """Leave the gradients of the weights that are to be trained, or put low-rank changes beside them.

    Args:
        model: A classifier with a new or trained head.
        trained: "all" weights (but those that the family keeps fixed), the "last" layers and the head, the "head", or
            "lora": low-rank changes of every linear layer of the encoder, and the head.
        layers: How many last layers.
        lora_rank: Rank of the changes.

    Returns:
        The model, or with "lora" the model wrapped by peft.

    Raises:
        ValueError: The model has fewer layers.
        ImportError: peft is needed and missing.
    """
    if trained == "all":
        return model
    base: Any = model.base_model
    if trained == "lora":
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ImportError("trained='lora' needs peft: pip install 'state-hf[peft]'") from error
        heads = [name for name, _ in model.named_children() if getattr(model, name) is not base]
        linear = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
        config = LoraConfig(
            r=lora_rank,
            lora_alpha=2 * lora_rank,
            target_modules=[f"{model.base_model_prefix}.{name}" for name in linear],
            modules_to_save=[name for name in heads if list(getattr(model, name).parameters())],
        )
        return get_peft_model(model, config)  # type: ignore[return-value]
    base.requires_grad_(False)
    if trained == "last":
        stacks = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
        stack = max(stacks, key=len)
        if not 1 <= layers <= len(stack):
            raise ValueError(f"layers must be from 1 to {len(stack)}, the layers of the model, but is {layers}")
        for layer in list(stack)[-layers:]:
            layer.requires_grad_(True)
    return model


def merged(model: Any) -> PreTrainedModel:
    """The model with its low-rank changes added to the weights that they change."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


class LabelTrainer(ReadableCheckpointsMixin, Trainer):
    """Trains a classifier of cells or tokens, or a regression, on `EncodedCells`.

    Args:
        class_weights: (classes,) weights of the classes' losses; None for equal ones, and for a regression.
        by_class: Whether labels are classes; else numbers.
        scores: From (cells,) labels and (cells,) predictions to named scores, for the validation part.
        **options: Of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        scores: Callable[[np.ndarray, np.ndarray], dict[str, float]],
        class_weights: np.ndarray | None = None,
        by_class: bool = True,
        **options: Any,
    ) -> None:
        self.class_weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.by_class, self.scores = by_class, scores
        super().__init__(
            data_collator=whole_batch,
            compute_metrics=self._scores,
            preprocess_logits_for_metrics=lambda logits, labels: logits[0] if isinstance(logits, tuple) else logits,
            **options,
        )
        self.label_names = ["labels"]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross-entropy of cells or tokens, weighted by class, or mean squared error, in float32."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.logits.float()
        if self.by_class:
            weight = None if self.class_weights is None else self.class_weights.to(logits.device)
            # Of tokens, each is an example.
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight=weight)
        else:
            loss = F.mse_loss(logits.squeeze(-1), labels.float())
        # Only what is scored leaves the model: hidden states would fill the memory.
        return (loss, {"loss": loss, "logits": logits}) if return_outputs else loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        loaded_into = self.model if model is None else model
        if isinstance(loaded_into, PreTrainedModel):
            load_weights(loaded_into, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # Trainer would look for the names of the model's parameters, which may be saved under the original's.
        if isinstance(self.model, PreTrainedModel):
            load_weights(self.model, str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _scores(self, found: Any) -> dict[str, float]:
        logits, labels = np.asarray(found.predictions), np.asarray(found.label_ids)
        return self.scores(labels, logits.argmax(axis=-1) if self.by_class else logits.squeeze(-1))


__all__ = [
    "TRAINED",
    "LabelTrainer",
    "Trained",
    "choose_trained_weights",
    "label_training_arguments",
    "merged",
]
