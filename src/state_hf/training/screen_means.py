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
    """

    controls: dict[ContextId, np.ndarray]
    perturbed: dict[tuple[ContextId, int], np.ndarray]

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
    counts: dict[tuple[ContextId, int], int] = {}
    for number, screen in enumerate(screens.screens):
        wanted = np.ones(screen.num_cells, dtype=bool)
        if split is not None:
            wanted = split.target_masks(part)[number] | split.control_masks(part)[number]
        rows, cells = np.flatnonzero(wanted), screen.cells.matrix(slot)
        keys = np.stack([screen.cell_types[rows], screen.perturbations[rows]], axis=1)
        groups, codes = np.unique(keys, axis=0, return_inverse=True)
        totals = np.zeros((len(groups), cells.shape[1]))
        step = max(1, _BLOCK_VALUES // max(1, cells.shape[1]))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            values = cells.rows(block).dense(block, len(block))
            members = (np.ones(len(block)), (codes[start : start + step], np.arange(len(block))))
            totals += sparse.csr_array(members, shape=(len(groups), len(block))) @ values
        for (cell_type, perturbation), total, count in zip(groups.tolist(), totals, np.bincount(codes), strict=True):
            key = ((screen.dataset, cell_type), perturbation)
            sums[key] = sums.get(key, 0) + total
            counts[key] = counts.get(key, 0) + int(count)
    means = {key: total / counts[key] for key, total in sums.items()}
    control = screens.control_id
    return ScreenMeans(
        controls={context: mean for (context, perturbation), mean in means.items() if perturbation == control},
        perturbed={key: mean for key, mean in means.items() if key[1] != control},
    )
