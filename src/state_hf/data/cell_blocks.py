"""Contiguous blocks of cells, as CSR, from an expression matrix in memory or on disk, whatever its layout.

Only the matrix that is asked for and `var` are read: `obs`, `obsm` and the other layers of a file are never loaded.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from scipy import sparse
from transformers.utils import logging

from state_hf.configuration.file_permissions import check_readable
from state_hf.data.cells.frames import row_names
from state_hf.data.damaged_files import check_indices, check_starts, damage_named, names_in, open_hdf5
from state_hf.data.file_stamps import file_stamp
from state_hf.data.remote_files import is_url, open_url, url_fingerprint
from state_hf.tokenization.cell_matrix import layer_names
from state_hf.tokenization.feature_types import expression_features

logger = logging.get_logger(__name__)

# A CSC matrix is read in windows of cells, each of which costs one pass over the whole matrix: 2**23 values are some
# 400 MB while a window is built, and some 40 passes over a matrix of 200,000 cells.
_CSC_WINDOW_VALUES = 2**23
_CSC_READ_VALUES = 2**22


class CellRows(ABC):
    """Rows of a matrix whose arrays are sliced, not loaded: NumPy, HDF5 and Zarr arrays all serve."""

    shape: tuple[int, int]
    bytes_per_row: float

    @abstractmethod
    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Rows `start` to `stop`."""


class _CsrRows(CellRows):
    def __init__(self, name: str, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.name, self.data, self.indices, self.indptr, self.shape = name, data, indices, indptr, shape
        self.bytes_per_row = data.shape[0] / max(shape[0], 1) * (data.dtype.itemsize + indices.dtype.itemsize)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        indptr = np.asarray(self.indptr[start : stop + 1])
        check_starts(self.name, indptr, min(self.data.shape[0], self.indices.shape[0]))
        indptr = indptr.astype(np.int64)
        first, last = int(indptr[0]), int(indptr[-1])
        values, columns = np.asarray(self.data[first:last]), np.asarray(self.indices[first:last])
        check_indices(self.name, columns, self.shape[1])
        return sparse.csr_matrix((values, columns, indptr - first), shape=(stop - start, self.shape[1]))


class _CscRows(CellRows):
    """Keeps the last window of rows, so blocks that are read in order cost one pass over the matrix a window."""

    def __init__(self, name: str, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.name, self.data, self.indices, self.shape = name, data, indices, shape
        starts = np.asarray(indptr[:])
        check_starts(name, starts, min(data.shape[0], indices.shape[0]))
        self.indptr = starts.astype(np.int64)
        if len(self.indptr) != shape[1] + 1:
            raise ValueError(f"{name} is damaged: its indptr has {len(self.indptr):,} entries for {shape[1]:,} columns")
        self.bytes_per_row = data.shape[0] / max(shape[0], 1) * (data.dtype.itemsize + indices.dtype.itemsize)
        self.window = (0, 0)
        self.values = sparse.csr_matrix((0, shape[1]), dtype=data.dtype)
        self.row_ends: np.ndarray | None = None

    def _pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, self.data.shape[0], _CSC_READ_VALUES):
            rows = np.asarray(self.indices[first : first + _CSC_READ_VALUES])
            check_indices(self.name, rows, self.shape[0])
            yield first, rows

    def _window_stop(self, start: int, stop: int) -> int:
        """The last row of a window from `start` that holds at least the rows to `stop`."""
        if self.row_ends is None:
            lengths = np.zeros(self.shape[0], dtype=np.int64)
            for _, rows in self._pieces():
                lengths += np.bincount(rows, minlength=self.shape[0])
            self.row_ends = np.cumsum(lengths)
        before = self.row_ends[start - 1] if start else 0
        return max(stop, int(np.searchsorted(self.row_ends, before + _CSC_WINDOW_VALUES, side="right")))

    def _load(self, start: int, stop: int) -> None:
        self.window, self.values = (0, 0), sparse.csr_matrix((0, self.shape[1]))  # room for the next one
        all_rows, all_columns, all_values = [], [], []
        for first, rows in self._pieces():
            inside = np.flatnonzero((rows >= start) & (rows < stop))
            values = np.asarray(self.data[first : first + len(rows)])
            all_rows.append((rows[inside] - start).astype(np.int32))
            all_columns.append((np.searchsorted(self.indptr, inside + first, side="right") - 1).astype(np.int32))
            all_values.append(values[inside])
        shape = (stop - start, self.shape[1])
        if all_values:
            places = (np.concatenate(all_rows), np.concatenate(all_columns))
            self.values = sparse.coo_matrix((np.concatenate(all_values), places), shape=shape).tocsr()
        else:
            self.values = sparse.csr_matrix(shape, dtype=self.data.dtype)
        self.window = (start, stop)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        if start < self.window[0] or stop > self.window[1]:
            self._load(start, self._window_stop(start, stop))
        return self.values[start - self.window[0] : stop - self.window[0]]


class _DenseRows(CellRows):
    def __init__(self, values: Any) -> None:
        self.values, self.shape = values, values.shape
        self.bytes_per_row = values.shape[1] * values.dtype.itemsize * 2

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return sparse.csr_matrix(np.asarray(self.values[start:stop]))


class _ViewRows(CellRows):
    """Rows of a view of an AnnData, which as a whole would be copied before its first row is read."""

    def __init__(self, adata: anndata.AnnData, layer: str | None) -> None:
        self.adata, self.layer, self.shape = adata, layer, adata.shape
        self.bytes_per_row = adata.shape[1] * 8.0

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        block = self.adata[start:stop]
        return sparse.csr_matrix(block.X if self.layer is None else block.layers[self.layer])


class _ChosenColumns(CellRows):
    """Some columns of a matrix."""

    def __init__(self, rows: CellRows, columns: np.ndarray) -> None:
        self.rows, self.columns = rows, columns
        self.shape, self.bytes_per_row = (rows.shape[0], len(columns)), rows.bytes_per_row

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return self.rows.read(start, stop)[:, self.columns]


def _rows_of(matrix: Any, name: str) -> CellRows:
    """The reader for a matrix in memory (NumPy, SciPy), a backed one of anndata, or its element in a file."""
    matrix = getattr(matrix, "group", matrix)
    form = getattr(matrix, "format", None)
    if form in ("csr", "csc"):
        kind = _CsrRows if form == "csr" else _CscRows
        return kind(name, matrix.data, matrix.indices, matrix.indptr, matrix.shape)
    if isinstance(matrix, h5py.Group | zarr.Group):
        encoding = matrix.attrs.get("encoding-type")
        if encoding in ("csr_matrix", "csc_matrix"):
            kind = _CsrRows if encoding == "csr_matrix" else _CscRows
            rows, columns = np.asarray(matrix.attrs["shape"]).tolist()
            return kind(name, matrix["data"], matrix["indices"], matrix["indptr"], (rows, columns))
    elif isinstance(matrix, np.ndarray | h5py.Dataset | zarr.Array) and len(matrix.shape) == 2:
        return _DenseRows(matrix)
    raise ValueError(f"{name} is neither a CSR, a CSC nor a dense matrix: {type(matrix).__name__}")


class CellBlocks:
    """The cells of one data set, read block by block: their gene expression, and nothing else that was measured.

    Attributes:
        name: What messages call the data: a file's path, or "the AnnData object".
        matrix_name: The slot that is read: "X", "raw/X" or "layers/NAME".
        var: The genes of that matrix, one row a gene. Features of another type (see `feature_types`) are left out.
        num_cells: Number of cells.
        num_genes: Number of genes.
        bytes_per_cell: Mean size of one cell while it is read.
        reads_blocks: Whether any block of cells is read without going through the rest.
    """

    def __init__(self, name: str, matrix_name: str, rows: CellRows, var: pd.DataFrame, source: Any) -> None:
        if rows.shape[0] == 0:
            raise ValueError(f"{name} has no cells")
        if len(var) != rows.shape[1]:
            raise ValueError(f"{matrix_name} of {name} has {rows.shape[1]} columns, but var names {len(var)} genes")
        # Not so in a CSC matrix, where any block costs a pass over all cells.
        self.reads_blocks = not isinstance(rows, _CscRows)
        found = expression_features(var, f"{matrix_name} of {name}")
        if found.others:
            logger.warning_once(f"{matrix_name} of {name}: {found.note}")
            rows, var = _ChosenColumns(rows, np.flatnonzero(found.is_expression)), var[found.is_expression]
        self.name, self.matrix_name, self.var = name, matrix_name, var
        self.num_cells, self.num_genes = rows.shape
        self.bytes_per_cell = rows.bytes_per_row
        self._rows, self._source = rows, source

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Cells `start` to `stop` (exclusive) as a CSR matrix (cells, genes)."""
        with damage_named(f"{self.matrix_name} of {self.name}"):
            return self._rows.read(start, min(stop, self.num_cells))

    def sample(self, num_cells: int) -> sparse.csr_matrix:
        """About `num_cells` cells, (cells, genes), in eight runs spread over the data; the first of a CSC matrix."""
        if num_cells >= self.num_cells or not self.reads_blocks:
            return self.read(0, num_cells)
        length = -(-num_cells // 8)
        starts = np.linspace(0, self.num_cells - length, 8).astype(int)
        return sparse.vstack([self.read(start, start + length) for start in starts], format="csr")

    def cell_names(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Names of the cells `start` to `stop` (`obs_names`), as a string array."""
        if isinstance(self._source, anndata.AnnData):
            return np.asarray(self._source.obs_names[start:stop], dtype=str)
        return row_names(self._source["obs"], start, stop)

    def slot_names(self) -> set[str]:
        """The names that are taken in `obsm` and `uns`."""
        if isinstance(self._source, anndata.AnnData):
            return {*self._source.obsm, *self._source.uns}
        with damage_named(self.name):
            return {name for slot in ("obsm", "uns") for name in names_in(self._source.get(slot))}

    def fingerprint(self) -> str:
        """A short text that changes when the data do: sizes and times of the files, or a digest of the matrix."""
        if isinstance(self._source, anndata.AnnData):
            return self._memory_digest()
        if is_url(self.name):
            return url_fingerprint(self.name)
        return file_stamp(Path(self.name))

    def _memory_digest(self) -> str:
        digest = hashlib.sha256("\n".join([*self.var.index.astype(str), *self.cell_names()]).encode())
        for start in range(0, self.num_cells, 4096):
            block = self.read(start, start + 4096)
            for array in (block.data, block.indices, block.indptr):
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file, if this object opened one."""
        if isinstance(self._source, h5py.File):
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _pick_matrix(name: str, layer: str | None, layers: list[str], *, has_x: bool, has_raw: bool) -> str:
    """Where the wanted matrix lies, as a path of slots; refuses with the list of what there is."""
    choices = [*(["raw"] if has_raw else []), *layers]
    listed = f"has {', '.join(repr(choice) for choice in choices)}" if choices else "has no layers and no raw"
    if layer is None:
        if not has_x:
            raise ValueError(f"{name} has no X; name a layer to read instead (it {listed})")
        return "X"
    if layer in layers:
        return f"layers/{layer}"
    if layer == "raw" and has_raw:
        return "raw/X"
    raise ValueError(f"{name} has no layer {layer!r} (it {listed})")


def _blocks_of_object(adata: anndata.AnnData, layer: str | None) -> CellBlocks:
    name = "the AnnData object"
    if adata.isbacked and adata.is_view:  # anndata cannot slice it again
        raise ValueError(
            f"a view of a backed AnnData ({adata.filename}) cannot be read in blocks: "
            "take it into memory with adata.to_memory(), or write the subset to a file of its own"
        )
    first = adata[:1] if adata.is_view else adata
    place = _pick_matrix(name, layer, layer_names(adata), has_x=first.X is not None, has_raw=adata.raw is not None)
    if place == "raw/X":
        return CellBlocks(name, place, _rows_of(adata.raw.X, f"raw.X of {name}"), adata.raw.var, adata)
    if adata.is_view:
        return CellBlocks(name, place, _ViewRows(adata, layer), adata.var, adata)
    matrix = adata.X if layer is None else adata.layers[layer]
    return CellBlocks(name, place, _rows_of(matrix, f"{place} of {name}"), adata.var, adata)


def _open_group(path: Path | str) -> Any:
    if isinstance(path, str):
        return open_url(path)
    check_readable(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.is_dir():
        if not any((path / marker).exists() for marker in (".zgroup", "zarr.json")):
            raise ValueError(f"{path} is a folder, but not a Zarr store")
        return zarr.open_group(path, mode="r")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is not an .h5ad file (it is not HDF5)")
    return open_hdf5(path)


def _blocks_of_file(path: Path | str, layer: str | None) -> CellBlocks:
    group = _open_group(path)
    missing = [slot for slot in ("obs", "var") if not isinstance(group.get(slot), h5py.Group | zarr.Group)]
    if missing:
        raise ValueError(
            f"{path} is not an AnnData file: {' and '.join(missing)} is missing or of a format before anndata 0.7 "
            "(in that case, read it with anndata and write it again)"
        )
    layers = names_in(group.get("layers"))
    has_x = "X" in group and group["X"].attrs.get("encoding-type") != "null"
    place = _pick_matrix(str(path), layer, layers, has_x=has_x, has_raw="X" in names_in(group.get("raw")))
    var = read_elem(group["raw/var" if place == "raw/X" else "var"])
    return CellBlocks(str(path), place, _rows_of(group[place], f"{place} of {path}"), var, group)


def open_cells(data: anndata.AnnData | str | Path, *, layer: str | None = None) -> CellBlocks:
    """Open the cells of an AnnData object (in memory, a view of one, or backed), an .h5ad file or a .zarr store.

    Args:
        data: The object, the path, or the URL of a file system that `fsspec` knows (s3://, gs://, hf://, https://).
        layer: `None` for X, "raw" for `raw.X` with the genes of `raw.var`, or the name of a layer (which wins where a
            layer is called "raw").

    Returns:
        The reader; use it in a `with` statement, so that a file is closed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not an AnnData file, no cells, no X, or no such layer (the message lists the layers).
    """
    if isinstance(data, anndata.AnnData):
        return _blocks_of_object(data, layer)
    with damage_named(str(data)):
        return _blocks_of_file(str(data) if is_url(data) else Path(data), layer)
