"""Matrices that are stored by genes (CSC) are turned once into ones that are stored by cells.

No cell of such a matrix can be read without going through all of it. In memory the turned matrix is a copy; of a file,
it lies in temporary files of about the matrix' own size (TMPDIR), and costs two passes over the matrix.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse
from transformers.utils import logging

from state_hf.data.cells.damage import check_indices, check_starts
from state_hf.data.cells.layouts import CsrLayout, check_number_type, plain_numbers
from state_hf.data.cells.scratch import ScratchFolder

logger = logging.get_logger(__name__)

# Up to so many values (200 MB) it is turned in memory.
_MEMORY_VALUES = 2**24
_READ_VALUES = 2**22


def stored_by_cells(place: str, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> CsrLayout:
    """The same matrix, stored by cells.

    Args:
        place: What messages call the matrix.
        data: (values,) the values: NumPy, HDF5 or Zarr, as the other two.
        indices: (values,) the cell of every value.
        indptr: (genes + 1,) where every gene begins.
        shape: (cells, genes).

    Raises:
        ValueError: The matrix is damaged.
        OSError: There is no room for the temporary files.
    """
    check_number_type(place, data.dtype)
    starts = np.asarray(indptr[:])
    check_starts(place, starts, min(data.shape[0], indices.shape[0]))
    starts = starts.astype(np.int64)
    if starts.shape != (shape[1] + 1,):
        raise ValueError(f"{place} is damaged: its indptr has {len(starts):,} entries for {shape[1]:,} columns")
    if isinstance(data, np.ndarray) or starts[-1] <= _MEMORY_VALUES:
        cells = np.asarray(indices[: starts[-1]])
        check_indices(place, cells, shape[0])
        arrays = (plain_numbers(np.asarray(data[: starts[-1]])), plain_numbers(cells), starts)
        turned = sparse.csc_matrix(arrays, shape=shape).tocsr()
        return CsrLayout(place, turned.data, turned.indices, turned.indptr, shape)
    return _TurnedLayout(place, data, indices, starts, shape)


class _TurnedLayout(CsrLayout):
    """A matrix in temporary files, which go with it; copies in other processes read the same files."""

    is_costly = True

    def __init__(self, place: str, data: Any, indices: Any, starts: np.ndarray, shape: tuple[int, int]) -> None:
        number, dtype = int(starts[-1]), plain_numbers(np.empty(0, dtype=data.dtype)).dtype
        needed = number * (dtype.itemsize + 4)
        logger.warning_once(
            f"{place} is stored by genes (CSC), so it is stored by cells in {needed / 1e9:.1f} GB of temporary files "
            "first. Write it again as CSR to spare that (adata.X = adata.X.tocsr())"
        )
        self._folder = ScratchFolder(needed, f"reading {place}, which is stored by genes,")
        values = np.memmap(self._folder.path / "data", dtype=dtype, mode="w+", shape=(number,))
        genes = np.memmap(self._folder.path / "indices", dtype=np.int32, mode="w+", shape=(number,))
        lengths = np.zeros(shape[0], dtype=np.int64)
        for _, cells in _pieces(place, indices, number, shape[0]):
            lengths += np.bincount(cells, minlength=shape[0])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        free = indptr[:-1].copy()
        for first, cells in _pieces(place, indices, number, shape[0]):
            # Stable, so that the genes of a cell ascend.
            order = np.argsort(cells, kind="stable")
            counts = np.bincount(cells, minlength=shape[0])
            begins = np.cumsum(counts) - counts
            ordered = cells[order]
            places = free[ordered] + np.arange(len(cells)) - begins[ordered]
            values[places] = plain_numbers(np.asarray(data[first : first + len(cells)]))[order]
            genes[places] = np.searchsorted(starts, order + first, side="right") - 1
            free += counts
        self._open(place, dtype, indptr, shape)

    def _open(self, place: str, dtype: np.dtype, indptr: np.ndarray, shape: tuple[int, int]) -> None:
        number = (int(indptr[-1]),)
        values = np.memmap(self._folder.path / "data", dtype=dtype, mode="r", shape=number)
        genes = np.memmap(self._folder.path / "indices", dtype=np.int32, mode="r", shape=number)
        super().__init__(place, np.asarray(values), np.asarray(genes), indptr, shape)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._folder, self.place, self.dtype, self._indptr, self.shape

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._folder, *rest = state
        self._open(*rest)


def _pieces(place: str, indices: Any, number: int, num_cells: int) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, number, _READ_VALUES):
        cells = np.asarray(indices[first : min(first + _READ_VALUES, number)])
        check_indices(place, cells, num_cells)
        yield first, cells.astype(np.int64)


__all__ = ["stored_by_cells"]
