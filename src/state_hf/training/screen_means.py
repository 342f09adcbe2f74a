"""Mean cells of every perturbation and context, in one pass over the files."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from state_hf.data.screens.perturbation_screens import PerturbationScreens
from state_hf.data.screens.split_definition import SplitPart
from state_hf.data.screens.splits import PerturbationSplit

_BLOCK_VALUES = 2**24

# (dataset, cell type id)
ContextId = tuple[str, int]


@dataclass(frozen=True)
class ScreenMeans:
    """Means of the cells of one part of a split.

    Attributes:
        controls: Mean control cell (features,) of every context.
        perturbed: Mean cell (features,) of every (context, perturbation id).
        variances: Variance (features,) of the cells of a context around the means of their perturbations.
        control_cells: Number of control cells of every context.
        cells: Number of cells of every (context, perturbation id).
    """

    controls: dict[ContextId, np.ndarray]
    perturbed: dict[tuple[ContextId, int], np.ndarray]
    variances: dict[ContextId, np.ndarray]
    control_cells: dict[ContextId, int]
    cells: dict[tuple[ContextId, int], int]

    def shifts(self) -> dict[tuple[ContextId, int], np.ndarray]:
        """Perturbed mean minus control mean, (features,), of every (context, perturbation id) that has controls."""
        return {
            (context, perturbation): mean - self.controls[context]
            for (context, perturbation), mean in self.perturbed.items()
            if context in self.controls
        }


def screen_means(
    screens: PerturbationScreens, split: PerturbationSplit | None, *, slot: str, part: SplitPart = "train"
) -> ScreenMeans:
    """Average the cells of one part by context and perturbation.

    Args:
        screens: The labels.
        split: Which cells are of which part; `None` takes all.
        slot: "X", "raw/X", "layers/NAME" or "obsm/NAME".
        part: Which part: the cells that it predicts, and the controls that it draws from.

    Raises:
        ValueError: There is no such slot, or it has values that are not finite.
    """
    sums: dict[tuple[ContextId, int], np.ndarray] = {}
    squares: dict[ContextId, np.ndarray] = {}
    degrees: dict[ContextId, int] = {}
    counts: dict[tuple[ContextId, int], int] = {}
    for number, screen in enumerate(screens.screens):
        wanted = np.ones(screen.num_cells, dtype=bool)
        if split is not None:
            wanted = split.target_masks(part)[number] | split.control_masks(part)[number]
        rows, cells = np.flatnonzero(wanted), screen.cells.matrix(slot)
        keys = np.stack([screen.cell_types[rows], screen.perturbations[rows]], axis=1)
        groups, codes = np.unique(keys, axis=0, return_inverse=True)
        totals, second = np.zeros((2, len(groups), cells.shape[1]))
        step = max(1, _BLOCK_VALUES // max(1, cells.shape[1]))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            values = cells.rows(block).dense(block, len(block))
            entries = (np.ones(len(block)), (codes[start : start + step], np.arange(len(block))))
            members = sparse.csr_array(entries, shape=(len(groups), len(block)))
            totals += members @ values
            second += members @ np.square(values, dtype=np.float64)
        counted = np.bincount(codes, minlength=len(groups))
        for (cell_type, perturbation), total, square, count in zip(
            groups.tolist(), totals, second, counted, strict=True
        ):
            context = (screen.dataset, cell_type)
            key = (context, perturbation)
            sums[key] = sums.get(key, 0) + total
            counts[key] = counts.get(key, 0) + int(count)
            squares[context] = squares.get(context, 0) + square
    means = {key: total / counts[key] for key, total in sums.items()}
    control = screens.control_id
    for (context, perturbation), total in sums.items():
        squares[context] = squares[context] - total * means[context, perturbation]
        degrees[context] = degrees.get(context, 0) + counts[context, perturbation] - 1
    return ScreenMeans(
        controls={context: mean for (context, perturbation), mean in means.items() if perturbation == control},
        perturbed={key: mean for key, mean in means.items() if key[1] != control},
        variances={context: np.maximum(total, 0) / max(degrees[context], 1) for context, total in squares.items()},
        control_cells={
            context: number for (context, perturbation), number in counts.items() if perturbation == control
        },
        cells={key: number for key, number in counts.items() if key[1] != control},
    )
