"""Counts drawn from predicted expression."""

import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)


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
    weights = expression.astype(np.float64)
    weights = np.expm1(weights) if is_log1p else weights
    totals = weights.sum(axis=1)
    empty = totals <= 0
    if empty.any():
        logger.warning(f"{int(empty.sum())} predicted cells have no expression at all, so they have no counts either")
    counts = np.zeros(expression.shape, dtype=np.float32)
    shares = weights[~empty] / totals[~empty, None]
    counts[~empty] = rng.multinomial(depths[~empty], shares)
    return counts


__all__ = ["draw_counts"]
