"""How a matrix of cells lies in memory or on disk: dense, or sparse by cells."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from state_hf.data.cells.damage import check_indices, check_starts
from state_hf.data.cells.item_ranges import items_of, join_ranges
from state_hf.data.cells.row_block import RowBlock


def check_number_type(place: str, dtype: Any) -> None:
    """Refuse values that are no real numbers.

    Raises:
        ValueError: They are texts, complex numbers, or records.
    """
    if np.dtype(dtype).kind not in "biuf":
        raise ValueError(f"{place} holds values of the type {dtype}, not real numbers")


def plain_numbers(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that SciPy and compiled loops read: native order, 8 to 64 bits, no half precision."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.view(np.uint8) if values.dtype == np.bool_ else values.astype(np.uint8)
    if kind == "f" and size not in (4, 8):
        return values.astype(np.float32 if size < 4 else np.float64)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


class Layout(ABC):
    """A matrix (cells, columns) whose cells are read by their numbers.

    Attributes:
        place: What messages call it.
        shape: (cells, columns).
        dtype: Type of the values as they are stored.
        bytes_per_cell: Mean size of a cell while it is read.
        is_costly: Whether it is better kept than opened again.
        is_shared: Whether copies in other processes can go on reading; else each opens its own.
    """

    place: str
    shape: tuple[int, int]
    dtype: np.dtype
    bytes_per_cell: float
    is_costly: bool = False
    is_shared: bool = False

    @abstractmethod
    def block(self, start: int, stop: int) -> sparse.csr_matrix | np.ndarray:
        """Cells `start` to `stop`: CSR, or an array where the matrix is dense."""

    @abstractmethod
    def rows(self, rows: np.ndarray) -> RowBlock:
        """Cells by ascending numbers, none twice."""


class CsrLayout(Layout):
    """A matrix stored by cells, whose arrays are sliced, not loaded: NumPy, HDF5 and Zarr arrays all serve."""

    def __init__(self, place: str, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.place, self.shape, self.dtype = place, (int(shape[0]), int(shape[1])), np.dtype(data.dtype)
        check_number_type(place, data.dtype)
        self._data, self._indices, self._indptr = data, indices, indptr
        self._stored = min(data.shape[0], indices.shape[0])
        self.is_shared = isinstance(data, np.ndarray)
        self.bytes_per_cell = data.shape[0] / max(shape[0], 1) * (data.dtype.itemsize + indices.dtype.itemsize)
        if indptr.shape != (self.shape[0] + 1,):
            raise ValueError(
                f"{place} is damaged: its indptr has {indptr.shape[0]:,} entries for {self.shape[0]:,} rows"
            )

    def block(self, start: int, stop: int) -> sparse.csr_matrix:
        indptr = np.asarray(self._indptr[start : stop + 1])
        check_starts(self.place, indptr, self._stored)
        indptr = indptr.astype(np.int64)
        first, last = int(indptr[0]), int(indptr[-1])
        values, columns = np.asarray(self._data[first:last]), np.asarray(self._indices[first:last])
        check_indices(self.place, columns, self.shape[1])
        arrays = (plain_numbers(values), plain_numbers(columns), indptr - first)
        return sparse.csr_matrix(arrays, shape=(stop - start, self.shape[1]))

    @cached_property
    def _starts(self) -> np.ndarray:
        starts = np.asarray(self._indptr[:])
        check_starts(self.place, starts, self._stored)
        return starts.astype(np.int64)

    @cached_property
    def _items(self) -> tuple[Any, Any]:
        return items_of(self._data), items_of(self._indices)

    @cached_property
    def _in_memory(self) -> tuple[np.ndarray, np.ndarray]:
        check_indices(self.place, self._indices, self.shape[1])
        return plain_numbers(self._data), plain_numbers(self._indices)

    def rows(self, rows: np.ndarray) -> RowBlock:
        starts, stops = self._starts[rows], self._starts[rows + 1]
        if isinstance(self._data, np.ndarray):
            return RowBlock(self.place, rows, *self._in_memory, starts, stops, self.shape[1])
        data, indices = self._items
        run_starts, run_stops, places = join_ranges(starts, stops, max(data.gap, indices.gap))
        columns = indices.read(run_starts, run_stops)
        check_indices(self.place, columns, self.shape[1])
        values = plain_numbers(data.read(run_starts, run_stops))
        return RowBlock(
            self.place, rows, values, plain_numbers(columns), places, places + stops - starts, self.shape[1]
        )


class DenseLayout(Layout):
    """A dense matrix: a NumPy, HDF5 or Zarr array (cells, columns)."""

    def __init__(self, place: str, values: Any) -> None:
        check_number_type(place, values.dtype)
        self.place, self.shape, self.dtype = place, (int(values.shape[0]), int(values.shape[1])), np.dtype(values.dtype)
        self._values, self.is_shared = values, isinstance(values, np.ndarray)
        self.bytes_per_cell = values.shape[1] * values.dtype.itemsize * 2

    def block(self, start: int, stop: int) -> np.ndarray:
        return plain_numbers(np.asarray(self._values[start:stop]))

    @cached_property
    def _items(self) -> Any:
        return items_of(self._values)

    def rows(self, rows: np.ndarray) -> RowBlock:
        if isinstance(self._values, np.ndarray):
            return RowBlock(self.place, rows, self._values, None, rows, rows, self.shape[1])
        run_starts, run_stops, places = join_ranges(rows, rows + 1, self._items.gap)
        values = plain_numbers(self._items.read(run_starts, run_stops))
        return RowBlock(self.place, rows, values, None, places, places, self.shape[1])


class TransposedDenseLayout(Layout):
    """A dense matrix stored by features: an HDF5 array (columns, cells), as loom files hold it."""

    def __init__(self, place: str, values: Any) -> None:
        check_number_type(place, values.dtype)
        self.place, self.shape, self.dtype = place, (int(values.shape[1]), int(values.shape[0])), np.dtype(values.dtype)
        self._values = values
        self.bytes_per_cell = values.shape[0] * values.dtype.itemsize * 2

    def block(self, start: int, stop: int) -> np.ndarray:
        return plain_numbers(np.ascontiguousarray(self._values[:, start:stop].T))

    def rows(self, rows: np.ndarray) -> RowBlock:
        gap = (self._values.chunks or (0, 1))[1]
        starts, stops, places = join_ranges(rows, rows + 1, gap)
        blocks = [self.block(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        return RowBlock(self.place, rows, np.concatenate(blocks), None, places, places, self.shape[1])


__all__ = ["CsrLayout", "DenseLayout", "Layout", "TransposedDenseLayout", "check_number_type", "plain_numbers"]
