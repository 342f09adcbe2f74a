"""A Trainer for models of sets of cells."""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from state_hf.data.cells.cell_writer import CellWriter, cell_writer
from state_hf.data.screens.perturbation_dataset import PerturbationDataset, SetSampler
from state_hf.modeling.state_transition import StateTransitionPreTrainedModel
from state_hf.training.checkpoints import ReadableCheckpointsMixin, last_complete_checkpoint, load_weights
from state_hf.training.profile_evaluation import ProfileEvaluation
from state_hf.training.state_transition_arguments import StateTransitionTrainingArguments

PredictionMetrics = Callable[[Path, Path], dict[str, float]]
# A disk with so few bytes left is full.
_LITTLE_SPACE = 2**16
# The parts of a model's loss that are logged beside their sum.
_LOSSES = ("distribution_loss", "expression_loss", "batch_loss", "confidence_loss", "regularization_loss")


class StateTransitionTrainer(ReadableCheckpointsMixin, Trainer):
    """Trains a State Transition model on the sets of a `PerturbationDataset`.

    It is a `Trainer`, except for this: every step has the same number of sets, whatever the number of processes, so
    that the sets of a step depend on (seed, epoch, step) alone; the parts of the loss are logged; and an evaluation can
    compare predicted and real cells. With `args.evaluation_profile`, every evaluation logs the metrics of that profile
    on a sample of the validation cells, the same each time, as `eval_vcc2025_mae` and so on; any of them, or
    `eval_vcc2025_overall_score`, can choose the best checkpoint.

    Args:
        model: The model, or one wrapped by PEFT.
        args: The arguments.
        train_dataset: The sets to train on.
        eval_dataset: The sets to validate on.
        compute_prediction_metrics: Called after an evaluation with two .h5ad files, the predicted and the real cells of
            the validation sets, both with the real control cells among them and `perturbation` and `cell_type` in obs.
            What it returns is logged with the prefix "eval_", and can choose the best checkpoint.
        **kwargs: See `Trainer`.

    Raises:
        ValueError: If the datasets' features are not those that the model reads, or the profile does not fit them.
    """

    args: StateTransitionTrainingArguments

    def __init__(
        self,
        model: nn.Module,
        args: StateTransitionTrainingArguments,
        *,
        train_dataset: PerturbationDataset | None = None,
        eval_dataset: PerturbationDataset | None = None,
        compute_prediction_metrics: PredictionMetrics | None = None,
        **kwargs: Any,
    ) -> None:
        for dataset in (train_dataset, eval_dataset):
            if dataset is not None:
                _check_features(model, dataset)
        super().__init__(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        # What tells Trainer that a batch has a loss, which prediction_step asks.
        self.label_names = ["target"]
        self.compute_prediction_metrics = compute_prediction_metrics
        self._loss_sums: dict[str, torch.Tensor] = {}
        self._loss_count = 0
        self._evaluation: ProfileEvaluation | None = None
        if args.evaluation_profile is not None:
            if eval_dataset is None:
                raise ValueError(f"evaluation_profile={args.evaluation_profile!r} needs an eval_dataset.")
            if getattr(getattr(model, "config", None), "gene_decoder", None) == "negative_binomial":
                raise ValueError(
                    f"evaluation_profile={args.evaluation_profile!r} scores log-normalised expression, and this model "
                    "predicts mean counts (gene_decoder='negative_binomial')."
                )
            # Now, so that what does not fit is found before the training.
            self._profile_evaluation(eval_dataset)
        if train_dataset is not None:
            self.add_callback(_EpochOfSets(train_dataset))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the model has written its card with its weights."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        # train_batch_size is that of this process' devices.
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return WholeStepsSampler(dataset, sets_per_step=step)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's signature
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        for name in _LOSSES:
            value = outputs.get(name)
            if value is not None:
                self._loss_sums[name] = self._loss_sums.get(name, 0.0) + value.detach().float()
        self._loss_count += 1
        return (loss, outputs) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:  # noqa: FBT001
        """Train. See `Trainer.train`; but `resume_from_checkpoint=True` passes over checkpoints without an end.

        A process that is killed, or finds the disk full, leaves the checkpoint behind that it was writing.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            folder = Path(str(self.args.output_dir))
            # Writers of weights and of optimizer states say that a write failed, and not always why.
            if "No space left" not in str(error) and shutil.disk_usage(folder).free > _LITTLE_SPACE:
                raise
            unfinished = folder / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(unfinished, ignore_errors=True)
            last = last_complete_checkpoint(folder)
            message = "The disk is full, so the checkpoint was not written: make room and "
            message += f"go on from {last} (resume)" if last else "run again"
            raise OSError(errno.ENOSPC, message, str(unfinished)) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        loaded_into = self.accelerator.unwrap_model(self.model if model is None else model)
        if isinstance(loaded_into, StateTransitionPreTrainedModel):
            load_weights(loaded_into, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, StateTransitionPreTrainedModel) and self.state.best_model_checkpoint is not None:
            load_weights(model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _pop_losses(self, prefix: str) -> dict[str, float]:
        """Means since the last call, over all processes. With one part only, it is the loss itself."""
        sums, count = self._loss_sums, self._loss_count
        self._loss_sums, self._loss_count = {}, 0
        if count == 0 or len(sums) < 2:
            return {}
        names = sorted(sums)
        means = torch.stack([sums[name] / count for name in names])
        means = self.accelerator.reduce(means, reduction="mean")
        return {f"{prefix}{name}": value for name, value in zip(names, means.tolist(), strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._pop_losses(""))
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        # Losses of the training steps since the last log are not part of this evaluation.
        training = self._loss_sums, self._loss_count
        self._loss_sums, self._loss_count = {}, 0
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        metrics: dict[str, float] = output.metrics or {}
        prefix = kwargs.get("metric_key_prefix", "eval")
        metrics.update(self._pop_losses(f"{prefix}_"))
        self._loss_sums, self._loss_count = training
        dataset: Any = dataloader.dataset
        computed = [self._scores(dataset) if self.is_world_process_zero() else {}]
        # Every process has to stop early, or choose a best checkpoint, by the same numbers.
        scores = broadcast_object_list(computed)[0]
        metrics.update({f"{prefix}_{name}": value for name, value in scores.items()})
        return output

    def _scores(self, dataset: PerturbationDataset) -> dict[str, float]:
        scores: dict[str, float] = {}
        if self.args.evaluation_profile is not None:
            evaluation = self._profile_evaluation(dataset)
            scores.update(evaluation(self._predicted_cells, batch_size=self.args.eval_batch_size))
        if self.compute_prediction_metrics is not None:
            scores.update(self._prediction_metrics(dataset, self.compute_prediction_metrics))
        return scores

    def _profile_evaluation(self, dataset: PerturbationDataset) -> ProfileEvaluation:
        if self._evaluation is None or self._evaluation.dataset is not dataset:
            args: Any = self.args
            self._evaluation = ProfileEvaluation(
                dataset, args.evaluation_profile, cells=args.evaluation_cells, seed=args.seed
            )
        return self._evaluation

    def _prediction_metrics(self, dataset: PerturbationDataset, compute: PredictionMetrics) -> dict[str, float]:
        names = dataset.expression_names or dataset.target_names
        names = names or [str(number) for number in range(dataset.output_size)]
        with tempfile.TemporaryDirectory() as folder:
            predicted_path, real_path = Path(folder, "predicted.h5ad"), Path(folder, "real.h5ad")
            with (
                cell_writer(predicted_path, names) as predicted,
                cell_writer(real_path, names) as real,
            ):
                for sets in self._batches(dataset):
                    _write_sets(dataset, sets, self._predicted_cells(sets), predicted, real)
            return compute(predicted_path, real_path)

    def _batches(self, dataset: PerturbationDataset) -> Iterator[dict[str, torch.Tensor]]:
        yield from DataLoader(dataset, batch_size=self.args.eval_batch_size)

    @torch.no_grad()
    def _predicted_cells(self, sets: dict[str, torch.Tensor]) -> np.ndarray:
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        self._set_signature_columns_if_needed()
        inputs = {name: value for name, value in sets.items() if name in (self._signature_columns or ())}
        inputs = {name: value for name, value in inputs.items() if not name.startswith("target")}
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            output = model(**self._prepare_inputs(inputs))
        predicted = output.predicted_cells if output.predicted_expression is None else output.predicted_expression
        return predicted.float().cpu().numpy()


def _write_sets(
    dataset: PerturbationDataset,
    sets: dict[str, torch.Tensor],
    predictions: np.ndarray,
    predicted: CellWriter,
    real: CellWriter,
) -> None:
    screens = dataset.screens
    role = "target" if dataset.expression_names is None else "target_expression"
    for number, perturbation in enumerate(sets["perturbation_ids"].tolist()):
        labels = {
            "perturbation": screens.perturbations[perturbation],
            "cell_type": screens.cell_types[int(sets["cell_type_ids"][number])],
        }
        targets = sets[role][number][sets["target_mask"][number]].numpy()
        cells = predictions[number][sets["cell_mask"][number].numpy()]
        real.add(targets, labels)
        predicted.add(targets if perturbation == screens.control_id else cells, labels)


class WholeStepsSampler(SetSampler):
    """`SetSampler`, whose last step is filled up with the first sets of the order.

    Otherwise the sets of an epoch's last step would depend on the number of processes.

    Args:
        dataset: The dataset.
        sets_per_step: Sets of one optimizer step, over all processes.
    """

    def __init__(self, dataset: PerturbationDataset, *, sets_per_step: int) -> None:
        super().__init__(dataset)
        self.sets_per_step = sets_per_step

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.sets_per_step) * self.sets_per_step

    def __iter__(self) -> Iterator[int]:
        return iter(np.resize(np.fromiter(super().__iter__(), dtype=np.int64), len(self)).tolist())


class _EpochOfSets(TrainerCallback):
    """Tells the dataset the epoch, however many wrappers stand between it and Trainer."""

    def __init__(self, dataset: PerturbationDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


def _check_features(model: nn.Module, dataset: PerturbationDataset) -> None:
    config = getattr(model, "config", None)
    expected = {"input_dim": dataset.input_size, "output_dim": dataset.output_size}
    for name, size in expected.items():
        wanted = getattr(config, name, size)
        if wanted != size:
            raise ValueError(
                f"The dataset's cells have {size:,} features, but the model's {name} is {wanted:,}: choose the slot "
                "that the model reads, or configure the model for this one."
            )


__all__ = ["StateTransitionTrainer", "WholeStepsSampler"]
