"""Counts drawn from predicted expression."""

import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Much more than the rounding of a sum of shares times a depth, and little beside a molecule.
_MARGIN = 1e-6


def draw_counts(expression: np.ndarray, depths: np.ndarray, *, is_log1p: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw whole numbers of molecules for predicted cells.

    A cell's expression, `expm1` of it on the log1p scale, is divided by its sum; the counts are one multinomial draw of
    the cell's depth from these shares. So every cell has exactly its depth, and genes vary as in sampling molecules
    from that cell; variation between cells is that of the predicted cells.

    Args:
        expression: (cells, genes), not negative.
        depths: (cells,) whole numbers: the total counts of every cell.
        is_log1p: Whether `expression` is on the log1p scale.
        rng: Random numbers.

    Returns:
        (cells, genes) float32 of whole numbers. A cell without any predicted expression stays empty, which is logged.
    """
    shares, empty = _shares(expression, is_log1p=is_log1p)
    counts = np.zeros(expression.shape, dtype=np.float32)
    counts[~empty] = rng.multinomial(depths[~empty], shares)
    return counts


def round_counts(expression: np.ndarray, depths: np.ndarray, *, is_log1p: bool, rng: np.random.Generator) -> np.ndarray:
    """Give cells that vary as real ones do the nearest whole numbers of molecules that have their depth.

    `draw_counts` would add the noise of sampling molecules to cells that have it. Here every count is the gene's share
    of the depth, rounded up or down at random so that its expectation is the share (systematic sampling: W. G. Madow,
    Ann. Math. Stat. 20, 333, 1949, with the genes in random order).

    Args:
        expression: (cells, genes), not negative, with the variation of real cells.
        depths: (cells,) whole numbers: the total counts of every cell.
        is_log1p: Whether `expression` is on the log1p scale.
        rng: Random numbers.

    Returns:
        (cells, genes) float32 of whole numbers. A cell without any predicted expression stays empty, which is logged.
    """
    shares, empty = _shares(expression, is_log1p=is_log1p)
    counts = np.zeros(expression.shape, dtype=np.float32)
    order = rng.permutation(expression.shape[1])
    reached = np.cumsum(shares[:, order], axis=1) * depths[~empty, None]
    # Sums that are the depth but for their last bits are the depth, wherever the rounding starts.
    start = np.clip(rng.random((len(reached), 1)), _MARGIN, 1 - _MARGIN)
    counts[np.ix_(~empty, order)] = np.diff(np.floor(reached + start), axis=1, prepend=0)
    return counts


def _shares(expression: np.ndarray, *, is_log1p: bool) -> tuple[np.ndarray, np.ndarray]:
    """(cells that have any, genes) shares of a cell's expression, and (cells,) which have none."""
    weights = expression.astype(np.float64)
    weights = np.expm1(weights) if is_log1p else weights
    totals = weights.sum(axis=1)
    empty = totals <= 0
    if empty.any():
        logger.warning(f"{int(empty.sum())} predicted cells have no expression at all, so they have no counts either")
    return weights[~empty] / totals[~empty, None], empty


__all__ = ["draw_counts", "round_counts"]
