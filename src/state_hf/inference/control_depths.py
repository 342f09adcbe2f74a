"""Whether the control cells that predictions start from are as deep as those that a model learnt from."""

from collections.abc import Sequence

import numpy as np

from state_hf.data.screens.context_depths import FAR_IN_GENES, Depth
from state_hf.inference.control_cells import ControlCells, seeded_stream

_MOST_CELLS = 512


def control_depth_notes(controls: ControlCells, cell_types: Sequence[str], trained: tuple[float, float]) -> list[str]:
    """A sentence for each cell type whose control cells have far fewer or more genes than those of training contexts.

    Args:
        controls: The control cells, of expression.
        cell_types: Cell types that are predicted.
        trained: Least and greatest median number of detected genes of the training contexts' control cells.
    """
    notes = []
    for cell_type in cell_types:
        pool = controls.of(cell_type)
        chosen = np.sort(seeded_stream(0, "depth", cell_type).permutation(len(pool))[:_MOST_CELLS])
        detected = [np.count_nonzero(block > 0, axis=1) for block in controls.blocks(pool[chosen])]
        depth = Depth.of(np.concatenate(detected).astype(np.float64))
        if depth is None or trained[0] <= depth.median <= trained[1]:
            continue
        nearest = min(trained, key=lambda bound: abs(np.log(bound / depth.median)))
        if depth.differs(Depth(nearest, 0.0), FAR_IN_GENES):
            notes.append(
                f"depth of {cell_type!r}: its control cells have {depth.median:,.0f} genes detected each, and those "
                f"that the model learnt from {nearest:,.0f} (x {depth.median / nearest:.2f}; medians). What differs "
                "may be depth: thin the counts of the deeper cells before they are normalised (`state-hf preprocess "
                "--reference-depth N`), or read predictions of this cell type with that in mind"
            )
    return notes


__all__ = ["control_depth_notes"]
