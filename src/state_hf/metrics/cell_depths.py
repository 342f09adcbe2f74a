"""How many genes the cells of a screen have values of: their depth, whatever the scale of the values."""

import numpy as np

from state_hf.metrics.screen import CellBlock, Screen

_CHUNK_ROWS = 4096


def genes_detected(screen: Screen) -> np.ndarray:
    """Median number of genes above 0 in the cells of each perturbation, control last (P + 1); NaN without cells."""
    codes = np.concatenate([block.codes for block in screen.blocks])
    detected = np.concatenate([_of_rows(block) for block in screen.blocks])
    groups = len(screen.perturbations) + 1
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(groups + 1))
    return np.array([np.median(part) if len(part) else np.nan for part in np.split(detected[order], bounds)[1:-1]])


def _of_rows(block: CellBlock) -> np.ndarray:
    matrix = block.matrix
    if isinstance(matrix, np.ndarray):
        starts = range(0, len(matrix), _CHUNK_ROWS)
        return np.concatenate(
            [np.zeros(0)] + [np.count_nonzero(matrix[start : start + _CHUNK_ROWS], axis=1) for start in starts]
        )
    ends = np.concatenate([[0], np.cumsum(matrix.data != 0)])
    return np.diff(ends[matrix.indptr])


__all__ = ["genes_detected"]
