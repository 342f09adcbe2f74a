"""One pass over an expression matrix, block by block: what its values are and where the first bad one is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

# 128 MB of float64: large enough to hide the reading of a file, small beside any machine's memory.
_BLOCK_VALUES = 2**24


@dataclass
class ValueSummary:
    """What the values of a cells x genes matrix are.

    Args:
        minimum, maximum: Smallest and largest finite value; implicit zeros count. 0 for an empty matrix.
        largest_fraction: Largest distance of a finite value to the nearest integer (0 to 0.5).
        totals: Sum of the finite values of each cell, shape (cells,), float64.
        nonzero: Number of values that are not zero.
        non_finite, negative, fractional: Number of values that are NaN or infinite, below zero, or not an integer.
        first_non_finite, first_negative, first_fractional: (cell, gene, value) of the first such value met, or None.
    """

    minimum: float
    maximum: float
    largest_fraction: float
    totals: np.ndarray
    nonzero: int = 0
    non_finite: int = 0
    negative: int = 0
    fractional: int = 0
    first_non_finite: tuple[int, int, float] | None = None
    first_negative: tuple[int, int, float] | None = None
    first_fractional: tuple[int, int, float] | None = None

    @property
    def median_total(self) -> float:
        """Median of the totals that are not zero; 1 where all are."""
        totals = self.totals[self.totals > 0]
        return float(np.median(totals)) if len(totals) else 1.0


def summarize_values(matrix: Any, *, integer_tolerance: float = 1e-6) -> ValueSummary:
    """Summarise a dense, sparse or backed matrix without making it dense.

    Args:
        matrix: Shape (cells, genes): a NumPy array, a SciPy CSR or CSC matrix, or a backed `X` of AnnData.
        integer_tolerance: A value further than this from the nearest integer is `fractional`.

    Returns:
        The summary. Positions are those of the matrix, in reading order (by gene first for a CSC matrix).

    Raises:
        ValueError: If the values are not real numbers.
    """
    dtype = np.dtype(matrix.dtype)
    if dtype.kind not in "biuf":
        raise ValueError(f"expression values must be real numbers, not {dtype}")
    summary = ValueSummary(np.inf, -np.inf, 0.0, np.zeros(matrix.shape[0]))
    for block, first_row, first_column in _blocks(matrix):
        values = _stored(block)
        if block.shape[0] and block.shape[1] and values.size < block.shape[0] * block.shape[1]:
            summary.minimum, summary.maximum = min(summary.minimum, 0.0), max(summary.maximum, 0.0)
        if not values.size:
            continue
        if dtype.kind == "f":
            block = _note_non_finite(summary, block, first_row, first_column)
            _note_fractional(summary, block, first_row, first_column, integer_tolerance)
        values = _stored(block)
        summary.nonzero += int(np.count_nonzero(values))
        low, high = float(values.min()), float(values.max())
        summary.minimum, summary.maximum = min(summary.minimum, low), max(summary.maximum, high)
        if low < 0:
            count, first = _locate(block, values < 0, first_row, first_column)
            summary.negative += count
            summary.first_negative = summary.first_negative or first
        totals = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        summary.totals[first_row : first_row + block.shape[0]] += totals
    if summary.minimum > summary.maximum:
        summary.minimum = summary.maximum = 0.0
    return summary


def _blocks(matrix: Any) -> Iterator[tuple[Any, int, int]]:
    """Slices along the axis that the matrix is stored by, each with the row and column that it starts at."""
    rows, columns = matrix.shape
    if getattr(matrix, "format", None) == "csc":
        step = max(1, _BLOCK_VALUES // max(rows, 1))
        for start in range(0, columns, step):
            yield matrix[:, start : start + step], 0, start
    else:
        step = max(1, _BLOCK_VALUES // max(columns, 1))
        for start in range(0, rows, step):
            block = matrix[start : start + step]
            yield (block if sparse.issparse(block) else np.asarray(block)), start, 0


def _note_non_finite(summary: ValueSummary, block: Any, first_row: int, first_column: int) -> Any:
    """Record NaN and infinities; returns the block with zeros in their place, so that the rest can be summarised."""
    values = _stored(block)
    bad = ~np.isfinite(values)
    if not bad.any():
        return block
    count, first = _locate(block, bad, first_row, first_column)
    summary.non_finite += count
    summary.first_non_finite = summary.first_non_finite or first
    block = block.copy()
    _stored(block)[bad] = 0
    return block


def _note_fractional(summary: ValueSummary, block: Any, first_row: int, first_column: int, tolerance: float) -> None:
    values = _stored(block)
    distance = np.abs(values - np.rint(values))
    largest = float(distance.max())
    summary.largest_fraction = max(summary.largest_fraction, largest)
    if largest > tolerance:
        count, first = _locate(block, distance > tolerance, first_row, first_column)
        summary.fractional += count
        summary.first_fractional = summary.first_fractional or first


def _locate(block: Any, bad: np.ndarray, first_row: int, first_column: int) -> tuple[int, tuple[int, int, float]]:
    """Number of bad values in a block, and the (row, column, value) of the first in the whole matrix's numbering."""
    first = int(np.flatnonzero(bad)[0])
    if isinstance(block, np.ndarray):
        row, column = divmod(first, block.shape[1])
    else:
        major, minor = int(np.searchsorted(block.indptr, first, side="right")) - 1, int(block.indices[first])
        row, column = (major, minor) if block.format == "csr" else (minor, major)
    return int(bad.sum()), (first_row + row, first_column + column, float(_stored(block).flat[first]))


def _stored(block: Any) -> np.ndarray:
    """The values that a dense or sparse block stores, not copied."""
    return block if isinstance(block, np.ndarray) else block.data
