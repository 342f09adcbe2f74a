"""Predicted cells as control cells, tilted to the mean that a model predicts."""

from collections.abc import Iterator, Sequence

import numpy as np

from state_hf.configuration.advice import Advised
from state_hf.inference.cell_predictor import CellPredictor, PredictedSet
from state_hf.inference.control_cells import seeded_stream
from state_hf.inference.control_marginals import ControlMarginals
from state_hf.inference.mean_profiles import MeanProfiles
from state_hf.inference.prediction_plan import PredictedGroup

# Most values of a matrix: the control cells that lend their values, and the cells that are made together.
_BLOCK_VALUES = 2**24


class TiltedCells:
    """Makes cells that have a model's mean, and in everything else resemble control cells as much as they can.

    A group's cells are carried by control cells of its cell type, each as often as the others. See `ControlMarginals`
    for what becomes of their values, and `MeanProfiles` for the mean.

    Args:
        predictor: What predicts.

    Raises:
        ValueError: The model does not predict log1p expression.
    """

    def __init__(self, predictor: CellPredictor) -> None:
        if predictor.scale != "log1p":
            raise ValueError(
                Advised(
                    f"emit='tilted' gives control cells the mean of predicted log1p expression, and the model predicts "
                    f"{predictor.scale}",
                    "write its own cells (emit='model')",
                )
            )
        self.predictor, self.profiles = predictor, MeanProfiles(predictor)
        self._most_cells = max(1, _BLOCK_VALUES // len(predictor.genes))
        self._marginals: dict[str, ControlMarginals] = {}

    def run(self, groups: Sequence[PredictedGroup]) -> Iterator[PredictedSet]:
        """Make the cells of groups in their order, in blocks."""
        for group in groups:
            mean = self.profiles.of(group)
            rng = seeded_stream(self.predictor.seed, "tilted", group.cell_type, group.draw_name)
            pool = self.predictor.expression.of(group.cell_type)
            rounds = -(-group.cells // len(pool))
            order = np.concatenate([rng.permutation(len(pool)) for _ in range(rounds)])[: group.cells]
            for rows in np.array_split(order, -(-group.cells // self._most_cells)):
                carriers = self.predictor.expression.read(pool[rows])
                cells = self._of(group.cell_type).draw(carriers, mean, rng)
                yield PredictedSet(group, pool[rows], np.minimum(cells, self.predictor.value_range[1]))

    def _of(self, cell_type: str) -> ControlMarginals:
        if cell_type not in self._marginals:
            pool = self.predictor.expression.of(cell_type)
            rng = seeded_stream(self.predictor.seed, "marginals", cell_type)
            lenders = pool[np.sort(rng.permutation(len(pool))[: self._most_cells])]
            # One cell type at a time: groups come in their order.
            self._marginals = {cell_type: ControlMarginals(self.predictor.expression.read(lenders))}
        return self._marginals[cell_type]


__all__ = ["TiltedCells"]
