"""The mean cell that a model expects of a perturbation."""

from dataclasses import dataclass

import numpy as np
import torch

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
    screen starts from what that expects, and goes `effect_scale` of the way to the effect.

    For others, the effect times `effect_scale` is added to the mean cell without perturbation, of which there are two
    estimates: the mean of the control cells, with the variance of a mean of so many cells, V, and the model's own
    prediction, d away from it in the mean square. They are weighted by d : V, which takes d for the model's squared
    error. Baselines start from the control cells, and
    are taken as they are.

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
        # Other families have none.
        scale = getattr(self.predictor.model.config, "effect_scale", 1.0)
        if self.predictor.model.mixed_effects is not None and self.predictor.model.simulates_controls:
            profile = self._expected(group, group.ids)
            if scale > 0 and group.ids != self._control_ids:
                start = self._expected(group, self._control_ids or (-1,))
                level = self._level(group.cell_type)
                effect = self._predicted(group, level.sets) - level.simulated
                profile = profile + scale * (start + effect - profile)
            return np.clip(profile, *self.predictor.value_range)
        level = self._level(group.cell_type)
        if level.simulated is None:
            return self._predicted(group, level.sets)
        if group.ids == self._control_ids:
            return level.expected
        effect = self._predicted(group, level.sets) - level.simulated
        return np.clip(level.expected + scale * effect, *self.predictor.value_range)

    def _expected(self, group: PredictedGroup, ids: tuple[int, ...]) -> np.ndarray:
        """(genes,) mean cell that the mixed model expects of perturbations in the group's cell type."""
        model, controls, cell_type = self.predictor.model, self.predictor.expression, group.cell_type
        expected: np.ndarray = model.mixed_effects.profiles(
            model.acting_ids(torch.tensor([ids])),
            model.cell_type_id(cell_type),
            controls.mean(cell_type),
            len(controls.of(cell_type)),
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


__all__ = ["MeanProfiles"]
