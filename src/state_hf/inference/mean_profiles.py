"""The mean cell that a model expects of a perturbation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from state_hf.configuration.advice import Advised
from state_hf.inference.cell_predictor import CellPredictor
from state_hf.inference.control_cells import seeded_stream
from state_hf.inference.prediction_plan import PredictedGroup

# Control cells that the mean is taken over. The difference between two perturbations of the same sets varies little
# from set to set.
_CELLS = 1024


@dataclass(frozen=True, eq=False)
class _Level:
    """What the profiles of a cell type start from.

    Attributes:
        sets: Control cells of every set, (cells, 2) each.
        simulated: (genes,) mean cell that the model predicts for the control perturbation; None for a baseline.
        expected: (genes,) mean cell without a perturbation.
    """

    sets: list[np.ndarray]
    simulated: np.ndarray | None
    expected: np.ndarray


class MeanProfiles:
    """Mean cells of perturbations, without the noise of drawing control cells anew for each.

    A model's effect is the mean over sets of control cells of its prediction, minus its prediction of the control
    perturbation from the same sets: what it gets wrong of the context is in both. A model with a mixed model of its
    screen starts from what that expects, and goes `effect_scale` of the way to the effect: the networks' mean over the
    training contexts, where the model keeps it, and then `interaction_scale` of what the network says of this context
    beyond that is added.

    For others, the effect times `effect_scale` is added to the mean cell without perturbation, of which there are two
    estimates: the mean of the control cells, with the variance of a mean of so many cells, V, and the model's own
    prediction, d away from it in the mean square. They are weighted by d : V, which takes d for the model's squared
    error. Baselines start from the control cells, and are taken as they are.

    Args:
        predictor: What predicts.
    """

    def __init__(self, predictor: CellPredictor) -> None:
        self.predictor = predictor
        vocabulary = predictor.model.vocabulary
        self._control_ids: tuple[int, ...] | None = None
        if vocabulary.control_perturbation is not None and predictor.model.simulates_controls:
            self._control_ids = (vocabulary.perturbation_id(vocabulary.control_perturbation),)
        self._levels: dict[str, _Level] = {}

    def of(self, group: PredictedGroup) -> np.ndarray:
        """(genes,) mean cell of a group, within the range of the scale."""
        model = self.predictor.model
        if model.mixed_effects is not None and model.simulates_controls:
            mean = self._expected(group.cell_type, group.ids)
            if group.ids != self._control_ids:
                mean = mean + self._beyond(group, mean)
            return np.clip(mean, *self.predictor.value_range)
        level = self._level(group.cell_type)
        if level.simulated is None:
            return self._predicted(group, level.sets)
        if group.ids == self._control_ids:
            return level.expected
        # Other families have no scale.
        scale = getattr(model.config, "effect_scale", 1.0)
        return np.clip(level.expected + scale * self._effect(group), *self.predictor.value_range)

    def level(self, cell_type: str) -> np.ndarray:
        """(genes,) mean cell of a cell type without a perturbation, as a mixed model expects it."""
        return self._expected(cell_type, self._control_ids or (-1,))

    def variance(self, group: PredictedGroup) -> np.ndarray:
        """(genes,) variance of the true mean cell of a group around `of`.

        Raises:
            ValueError: The model states no errors.
        """
        check_errors(self.predictor.model)
        model, config = self.predictor.model, self.predictor.model.config
        cells = len(self.predictor.expression.of(group.cell_type))
        cell_type_id = model.cell_type_id(group.cell_type)
        expected: np.ndarray = model.mixed_effects.profile_variances(self._acting(group.ids), cell_type_id, cells)
        average = self._average(group)
        among = 0.0 if average is None else average[1]
        return np.asarray(config.error_scale**2 * expected[0] + config.effect_scale**2 * among)

    def _beyond(self, group: PredictedGroup, mean: np.ndarray) -> np.ndarray | float:
        """(genes,) what the networks add to the mean that the mixed model expects."""
        config = self.predictor.model.config
        scale, of_context = config.effect_scale, config.interaction_scale or 0.0
        if scale == of_context == 0:
            return 0.0
        average = self._average(group)
        effect = self._effect(group) if average is None or of_context > 0 else 0.0
        start = self.level(group.cell_type)
        if average is None:
            return scale * (start + effect - mean)
        return scale * (start + average[0] - mean) + of_context * (effect - average[0])

    def _average(self, group: PredictedGroup) -> tuple[np.ndarray, np.ndarray] | None:
        """Effect of networks over the training contexts and its variance, (genes,); None where it is not known."""
        tables = self.predictor.model.network_effects
        known = None if tables is None else tables(self._acting(group.ids)[0])
        if known is None:
            return None
        average, variance = known
        return np.asarray(average.double().cpu()), np.asarray(variance.double().cpu())

    def _effect(self, group: PredictedGroup) -> np.ndarray:
        """(genes,) effect that the network predicts in the group's cell type."""
        level = self._level(group.cell_type)
        return np.asarray(self._predicted(group, level.sets) - level.simulated)

    def _acting(self, ids: tuple[int, ...]) -> torch.Tensor:
        """(1, combined)."""
        acting: torch.Tensor = self.predictor.model.acting_ids(torch.tensor([ids]))
        return acting

    def _expected(self, cell_type: str, ids: tuple[int, ...]) -> np.ndarray:
        """(genes,) mean cell that the mixed model expects of perturbations in a cell type."""
        model, controls = self.predictor.model, self.predictor.expression
        expected: np.ndarray = model.mixed_effects.profiles(
            self._acting(ids), model.cell_type_id(cell_type), controls.mean(cell_type), len(controls.of(cell_type))
        )
        return expected[0]

    def _level(self, cell_type: str) -> _Level:
        if cell_type not in self._levels:
            self._levels[cell_type] = self._new_level(cell_type)
        return self._levels[cell_type]

    def _new_level(self, cell_type: str) -> _Level:
        predictor = self.predictor
        pool = predictor.features.of(cell_type)
        rng = seeded_stream(predictor.seed, "profile", cell_type)
        dealt = rng.permutation(len(pool))[:_CELLS]
        sets = [pool[rows] for rows in np.array_split(dealt, -(-len(dealt) // predictor.set_size))]
        if self._control_ids is None:
            return _Level(sets, None, np.zeros(0))
        control = PredictedGroup(cell_type, predictor.screens.control, self._control_ids, len(pool))
        simulated = self._predicted(control, sets)
        mean, variance = predictor.expression.mean_and_variance(cell_type)
        noise, distance = variance.sum() / len(pool), np.square(simulated - mean).sum()
        weight = noise / (noise + distance) if noise + distance > 0 else 0.0
        return _Level(sets, simulated, mean + weight * (simulated - mean))

    def _predicted(self, group: PredictedGroup, sets: list[np.ndarray]) -> np.ndarray:
        """(genes,) float64 mean of the cells that the model predicts from sets of control cells."""
        total = sum(
            cells.sum(axis=0, dtype=np.float64) for cells in self.predictor.forward([(group, rows) for rows in sets])
        )
        return np.asarray(total) / sum(map(len, sets))


def check_errors(model: Any) -> None:
    """Raise a ValueError for a model that does not state how far its profiles may be off."""
    # Other families state none.
    if getattr(model.config, "error_scale", None) is None:
        raise ValueError(
            Advised(
                f"the model {model.config.name_or_path!r} does not say how far its mean cells may be off",
                "take one that does: a State Transition model of log1p expression that `state-hf train` made",
            )
        )


__all__ = ["MeanProfiles", "check_errors"]
