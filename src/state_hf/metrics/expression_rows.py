"""Rows of cells, dense or sparse, in the types that they came in or in the smallest that hold them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from state_hf.metrics import _summary_kernels


@dataclass(frozen=True)
class SparseRows:
    """Sparse rows with strictly increasing indices, as in CSR; unlike scipy's, the indices may have 16 bits.

    Args:
        indptr: Where each row starts, and where the last ends.
        indices: Gene of each value.
        data: The values.
        n_genes: Number of columns.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    n_genes: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and genes."""
        return len(self.indptr) - 1, self.n_genes

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.data.dtype

    def __getitem__(self, rows: np.ndarray) -> "SparseRows":
        lengths = (self.indptr[1:] - self.indptr[:-1])[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[:-1][rows] - indptr[:-1], lengths)
        return SparseRows(indptr, self.indices[places], self.data[places], self.n_genes)


Rows: TypeAlias = SparseRows | np.ndarray


def stack(parts: Sequence[Rows]) -> SparseRows:
    """All rows below each other, as sparse rows."""
    sparse = [part if isinstance(part, SparseRows) else sparse_rows(part) for part in parts]
    lengths = np.concatenate([np.diff(part.indptr) for part in sparse])
    return SparseRows(
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        np.concatenate([part.indices for part in sparse]),
        np.concatenate([part.data for part in sparse]),
        sparse[0].n_genes,
    )


def sparse_rows(matrix: sp.csr_matrix | np.ndarray) -> SparseRows:
    """The rows of a matrix in CSR form; arrays are shared where the matrix already is canonical CSR."""
    rows = sp.csr_matrix(matrix)
    if rows.nnz and (rows.indices.min() < 0 or rows.indices.max() >= rows.shape[1]):
        raise ValueError(f"a sparse matrix of {rows.shape[1]:,} genes has values beyond its last gene: it is damaged")
    canonical = np.empty(rows.shape[0], dtype=np.bool_)
    _summary_kernels.rows_are_canonical(rows.indptr, rows.indices, canonical)
    if not canonical.all():
        rows = rows.copy()
        rows.sum_duplicates()
    return SparseRows(rows.indptr, rows.indices, rows.data, rows.shape[1])


def as_rows(matrix: sp.csr_matrix | np.ndarray) -> Rows:
    """Any matrix as rows; half precision is widened, nothing else is copied without need."""
    if sp.issparse(matrix):
        return sparse_rows(matrix.astype(np.float32) if matrix.dtype == np.float16 else matrix)
    array = np.asarray(matrix)
    return np.ascontiguousarray(array.astype(np.float32) if array.dtype == np.float16 else array)


def compact(rows: Rows, *, integral: bool, largest: float) -> Rows:
    """A copy in the smallest types that hold the rows exactly; dense only where more than half of the values are set.

    Args:
        rows: The rows.
        integral: Whether all values are non-negative whole numbers.
        largest: The largest value.
    """
    dtype = rows.dtype if rows.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    if integral and largest <= np.iinfo(np.uint16).max:
        dtype = np.dtype(np.uint16)
    if isinstance(rows, np.ndarray):
        if np.count_nonzero(rows) > rows.size // 2:
            return rows.astype(dtype)
        rows = sparse_rows(rows)
    indices = rows.indices.astype(np.uint16 if rows.n_genes <= 1 << 16 else np.int32)
    return SparseRows(rows.indptr.astype(np.int64), indices, rows.data.astype(dtype), rows.n_genes)


@dataclass(frozen=True)
class ValueRange:
    """What the values of some rows are.

    Args:
        library: Sum of each row.
        smallest: Smallest value, 0 or below.
        largest: Largest value, 0 or above.
        fraction: Largest fractional part.
        not_finite: Number of values that are NaN or infinite.
    """

    library: np.ndarray
    smallest: float
    largest: float
    fraction: float
    not_finite: int


def value_range(rows: Rows) -> ValueRange:
    """Sum each row and find the extremes of all values, in one pass."""
    library, extremes = np.empty(rows.shape[0]), np.zeros((rows.shape[0], 4))
    if isinstance(rows, np.ndarray):
        indptr = np.arange(rows.shape[0] + 1, dtype=np.int64) * rows.shape[1]
        _summary_kernels.scan_rows(indptr, rows.reshape(-1), library, extremes)
    else:
        _summary_kernels.scan_rows(rows.indptr, rows.data, library, extremes)
    low, high, fraction, bad = extremes.T
    return ValueRange(library, low.min(initial=0.0), high.max(initial=0.0), fraction.max(initial=0.0), int(bad.sum()))
