"""Trains the networks of a model, one or several that differ by their seeds."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.state_transition import StateTransitionForPerturbation
from state_hf.training.checkpoints import last_complete_checkpoint
from state_hf.training.perturbation_offsets import fit_perturbation_offsets
from state_hf.training.state_transition_arguments import StateTransitionTrainingArguments
from state_hf.training.state_transition_trainer import PredictionMetrics, StateTransitionTrainer
from state_hf.training.transfer import add_lora, freeze_backbone

logger = logging.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class NetworkTraining:
    """How networks are trained.

    Attributes:
        train_sets: The sets that train them.
        eval_sets: Those that validate them, if any.
        arguments: Arguments of the Trainer; folder and seed are those of the first network.
        freeze: Whether the backbone and the output projection stay as they are.
        lora_rank: Rank of low-rank changes that are trained instead of the backbone; None for all of it.
        callbacks: Callbacks of the Trainer.
        compute_prediction_metrics: See `StateTransitionTrainer`.
    """

    train_sets: PerturbationDataset
    eval_sets: PerturbationDataset | None
    arguments: StateTransitionTrainingArguments
    freeze: bool = False
    lora_rank: int | None = None
    callbacks: Sequence[Any] = ()
    compute_prediction_metrics: PredictionMetrics | None = None

    def train(self, model: StateTransitionForPerturbation, checkpoint: str | None) -> StateTransitionForPerturbation:
        """Train the first network, from a checkpoint on if there is one.

        Returns:
            The trained network: the model, or with `lora_rank` one into which the changes are merged.
        """
        return self._train(model, self.arguments, checkpoint)

    def others(
        self, make: Callable[[], StateTransitionForPerturbation], number: int, *, resume: bool
    ) -> Iterator[StateTransitionForPerturbation]:
        """Train further networks, each with the next seed, and with its checkpoints beside the first one's.

        Args:
            make: Makes a network to train, of random weights that follow the seed of torch.
            number: How many there are in all.
            resume: Whether to go on from their last complete checkpoints.
        """
        for position in range(1, number):
            logger.info(f"network {position + 1} of {number}")
            arguments = copy.copy(self.arguments)
            arguments.seed = self.arguments.seed + position
            arguments.output_dir = str(Path(str(self.arguments.output_dir), f"network-{position + 1}"))
            set_seed(arguments.seed)
            begun = last_complete_checkpoint(arguments.output_dir) if resume else None
            yield self._train(make(), arguments, begun)

    def _train(
        self, model: StateTransitionForPerturbation, arguments: StateTransitionTrainingArguments, checkpoint: str | None
    ) -> StateTransitionForPerturbation:
        if self.freeze:
            freeze_backbone(model)
        rank = self.lora_rank
        trained: Any = model if rank is None else add_lora(model, rank=rank, alpha=2 * rank)
        trainer = StateTransitionTrainer(
            trained,
            arguments,
            train_dataset=self.train_sets,
            eval_dataset=self.eval_sets,
            callbacks=list(self.callbacks),
            compute_prediction_metrics=self.compute_prediction_metrics,
        )
        trainer.train(checkpoint)
        if rank is not None:
            model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        if model.config.use_perturbation_offsets:
            fit_perturbation_offsets(model, self.train_sets)
        return model


__all__ = ["NetworkTraining"]
