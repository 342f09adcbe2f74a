"""Cells of a data set by their row numbers, from an .h5ad file or from memory."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from scipy import sparse
from transformers.utils import logging

from state_hf.configuration.file_permissions import check_readable
from state_hf.data.cells.frames import column_names, num_rows, read_column, row_names
from state_hf.data.damaged_files import check_indices, check_starts, damage_named, names_in, open_hdf5
from state_hf.data.hdf5_items import HDF5Items, join_ranges
from state_hf.tokenization._kernels import kernel
from state_hf.tokenization.cell_matrix import layer_names
from state_hf.tokenization.feature_types import expression_features, type_columns

logger = logging.get_logger(__name__)

# A chunk of one column group of a compressed matrix is needed by many rows in turn.
_CHUNK_CACHE_BYTES = 2**25
_SAMPLE_RUNS = 8


@kernel
def _scatter(values, columns, starts, stops, out):
    """Write sparse rows to the rows of `out`, which is zero."""
    for row in range(len(starts)):
        for place in range(starts[row], stops[row]):
            out[row, columns[place]] = values[place]


@kernel
def _scatter_some(values, columns, starts, stops, places, out):
    """The same for some columns: each goes where `places` says, and is left out where that is -1."""
    for row in range(len(starts)):
        for at in range(starts[row], stops[row]):
            if places[columns[at]] >= 0:
                out[row, places[columns[at]]] = values[at]


def _compilable(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that compiled loops read: native byte order, and no half precision."""
    if values.dtype.isnative and values.dtype != np.float16:
        return values
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some cells of a matrix in memory, dense or sparse.

    Attributes:
        place: What messages call the matrix.
        rows: (rows,) ascending row numbers of the cells in the matrix.
        values: (rows or more, features), or (stored values,) of a sparse matrix.
        columns: Feature of every stored value; `None` where dense.
        starts: (rows,) index of a cell in `values`, or of its first stored value.
        stops: (rows,) end of its stored values; unused where dense.
        num_features: Number of features.
        feature_places: (columns of the matrix,) which feature a column is, -1 where it is left out; `None` where all
            columns are features.
    """

    place: str
    rows: np.ndarray
    values: np.ndarray
    columns: np.ndarray | None
    starts: np.ndarray
    stops: np.ndarray
    num_features: int
    feature_places: np.ndarray | None = None

    def dense(self, rows: np.ndarray, num_rows: int) -> np.ndarray:
        """Cells of the block in the given order, then rows of zeros: (num_rows, features) float32.

        Raises:
            ValueError: A value is not finite.
        """
        places = np.searchsorted(self.rows, rows)
        out = np.zeros((num_rows, self.num_features), dtype=np.float32)
        starts, stops, features = self.starts[places], self.stops[places], self.feature_places
        if self.columns is None:
            cells = self.values[starts]
            out[: len(rows)] = cells if features is None else cells[:, features >= 0]
        elif features is None:
            _scatter(self.values, self.columns, starts, stops, out)
        else:
            _scatter_some(self.values, self.columns, starts, stops, features, out)
        # A sum costs a tenth of looking at every value, and is finite where all of them are.
        if not np.isfinite(out.sum(dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"{self.place} has values that are not finite (NaN or infinite) in cell number {rows[bad[0]]} "
                    f"and in {len(bad) - 1} more of the {len(rows)} cells read with it; remove the cells or repair them"
                )
        return out


class _CsrInFile:
    def __init__(self, place: str, group: h5py.Group) -> None:
        self.place, self.shape = place, tuple(int(length) for length in group.attrs["shape"])
        self.values, self.columns = HDF5Items(group["data"]), HDF5Items(group["indices"])
        self.gap = max(self.values.gap, self.columns.gap)
        starts = group["indptr"][:]
        check_starts(place, starts, min(group["data"].shape[0], group["indices"].shape[0]))
        self.indptr = starts.astype(np.int64)
        if len(self.indptr) != self.shape[0] + 1:
            raise ValueError(
                f"{place} is damaged: its indptr has {len(self.indptr):,} entries for {self.shape[0]:,} rows"
            )

    def read(self, rows: np.ndarray) -> RowBlock:
        starts, stops = self.indptr[rows], self.indptr[rows + 1]
        run_starts, run_stops, places = join_ranges(starts, stops, self.gap)
        columns = _compilable(self.columns.read(run_starts, run_stops))
        check_indices(self.place, columns, self.shape[1])
        values = _compilable(self.values.read(run_starts, run_stops))
        return RowBlock(self.place, rows, values, columns, places, places + stops - starts, self.shape[1])


class _DenseInFile:
    def __init__(self, place: str, dataset: h5py.Dataset) -> None:
        self.place, self.shape, self.items = place, dataset.shape, HDF5Items(dataset)

    def read(self, rows: np.ndarray) -> RowBlock:
        run_starts, run_stops, places = join_ranges(rows, rows + 1, self.items.gap)
        return RowBlock(self.place, rows, self.items.read(run_starts, run_stops), None, places, places, self.shape[1])


class _CsrInMemory:
    def __init__(self, place: str, matrix: sparse.csr_matrix | sparse.csr_array) -> None:
        self.place, self.matrix, self.shape = place, matrix, matrix.shape
        self.values = _compilable(matrix.data)

    def read(self, rows: np.ndarray) -> RowBlock:
        matrix, starts, stops = self.matrix, self.matrix.indptr[rows], self.matrix.indptr[rows + 1]
        return RowBlock(self.place, rows, self.values, matrix.indices, starts, stops, self.shape[1])


class _DenseInMemory:
    def __init__(self, place: str, matrix: np.ndarray) -> None:
        self.place, self.matrix, self.shape = place, matrix, matrix.shape

    def read(self, rows: np.ndarray) -> RowBlock:
        return RowBlock(self.place, rows, self.matrix, None, rows, rows, self.shape[1])


def _matrix_rows(place: str, matrix: Any) -> Any:
    if isinstance(matrix, h5py.Group) and matrix.attrs.get("encoding-type") == "csr_matrix":
        return _CsrInFile(place, matrix)
    if isinstance(matrix, h5py.Dataset) and len(matrix.shape) == 2:
        return _DenseInFile(place, matrix)
    if isinstance(matrix, sparse.csr_matrix | sparse.csr_array):
        return _CsrInMemory(place, matrix)
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        return _DenseInMemory(place, matrix)
    kind = matrix.attrs.get("encoding-type") if isinstance(matrix, h5py.Group) else type(matrix).__name__
    raise ValueError(
        f"{place} is {kind}; cells can be read at random from a CSR or a dense matrix only: "
        "write it again as CSR (state-hf preprocess does)"
    )


def _names(values: Any) -> list[str]:
    return [str(name) for name in values]


class CellRows:
    """Cells of one slot of a data set, by row number.

    Of a slot with a column for each feature of `var`, those that are not gene expression (see `feature_types`) are left
    out.

    Args:
        source: The path of an .h5ad file, or an AnnData object in memory.
        slot: "X", "raw/X", "layers/NAME" or "obsm/NAME".

    Attributes:
        shape: (cells, features).
        feature_names: Names of the features in order: genes, or what `uns[NAME]["var_names"]` gives for an embedding's
            slot; `None` where the data do not say.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no such slot (the message lists what there is), it is a CSC matrix, or none of its features
            is gene expression.
    """

    def __init__(self, source: Path | anndata.AnnData, slot: str) -> None:
        self.source, self.slot = source, slot
        self._pid = os.getpid()
        self._file: Any = None  # the open h5py.File
        name = "the AnnData object" if isinstance(source, anndata.AnnData) else str(source)
        self.place = f"{slot} of {name}"
        with damage_named(self.place):
            self._rows = self._open()
            self.shape = self._rows.shape
            self.feature_names = self._feature_names()
        if self.feature_names is not None and len(self.feature_names) != self.shape[1]:
            raise ValueError(
                f"{self.place} has {self.shape[1]:,} columns, and the data name {len(self.feature_names):,} features"
            )
        self._feature_places: np.ndarray | None = None
        if not slot.startswith("obsm/"):
            self._choose_expression()

    def _choose_expression(self) -> None:
        with damage_named(self.place):
            found = expression_features(self._var(), self.place)
        if found.others and self.feature_names is not None:
            logger.warning_once(f"{self.place}: {found.note}")
            kept = found.is_expression
            self._feature_places = np.where(kept, np.cumsum(kept) - 1, -1)
            self.feature_names = [name for name, keep in zip(self.feature_names, kept, strict=True) if keep]
            self.shape = (self.shape[0], len(self.feature_names))

    def _open(self) -> Any:
        if isinstance(self.source, anndata.AnnData):
            return _matrix_rows(self.place, self._in_memory(self.source))
        check_readable(self.source)
        if not self.source.exists():
            raise FileNotFoundError(f"there is no file {self.source}")
        self._file = open_hdf5(self.source, rdcc_nbytes=_CHUNK_CACHE_BYTES)
        if self.slot not in self._file:
            slots = [f"{group}/{name}" for group in ("layers", "obsm") for name in names_in(self._file.get(group))]
            slots = [*(slot for slot in ("X", "raw/X") if slot in self._file), *slots]
            raise ValueError(f"there is no {self.place}; it has {', '.join(slots) or 'no matrix at all'}")
        return _matrix_rows(self.place, self._file[self.slot])

    def _in_memory(self, adata: anndata.AnnData) -> Any:
        group, _, name = self.slot.partition("/")
        if self.slot == "X":
            matrix = adata.X
        elif self.slot == "raw/X":
            matrix = None if adata.raw is None else adata.raw.X
        else:
            matrix = {"layers": adata.layers, "obsm": adata.obsm}.get(group, {}).get(name)
        if matrix is None:
            slots = [*(f"layers/{key}" for key in layer_names(adata)), *(f"obsm/{key}" for key in adata.obsm)]
            raise ValueError(f"there is no {self.place}; it has {', '.join(['X', *slots])}")
        return matrix

    def _var(self) -> pd.DataFrame:
        is_raw = self.slot.startswith("raw/")
        if isinstance(self.source, anndata.AnnData):
            return self.source.raw.var if is_raw else self.source.var
        frame = self._file["raw/var" if is_raw else "var"]
        types = {name: read_column(frame, name).array for name in type_columns(column_names(frame))}
        return pd.DataFrame(types, index=range(num_rows(frame)))

    def _feature_names(self) -> list[str] | None:
        group, _, name = self.slot.partition("/")
        if isinstance(self.source, anndata.AnnData):
            if group == "obsm":
                entry = self.source.uns.get(name)
                return _names(entry["var_names"]) if isinstance(entry, dict) and "var_names" in entry else None
            return _names(self.source.raw.var_names if group == "raw" else self.source.var_names)
        file = self._file
        if group == "obsm":
            entry = f"uns/{name}/var_names"
            return _names(read_elem(file[entry])) if entry in file else None
        var = file["raw/var" if group == "raw" else "var"]
        return row_names(var).tolist()

    def read(self, rows: np.ndarray) -> RowBlock:
        """Read cells.

        Args:
            rows: (rows,) row numbers, ascending, none twice.
        """
        if self._pid != os.getpid():  # a forked worker: HDF5 handles must not be shared
            self._rows, self._pid = self._open(), os.getpid()
        with damage_named(self.place):
            block = self._rows.read(np.asarray(rows, dtype=np.int64))
        if self._feature_places is None:
            return block
        return replace(block, num_features=self.shape[1], feature_places=self._feature_places)

    def sample(self, num_cells: int, *, among: np.ndarray | None = None) -> sparse.csr_matrix:
        """About `num_cells` cells, (cells, features), in runs spread over the data, or over some of its cells.

        Args:
            num_cells: How many.
            among: Row numbers to choose from, ascending; `None` for all.
        """
        rows = np.arange(self.shape[0]) if among is None else among
        if num_cells < len(rows):
            length = -(-num_cells // _SAMPLE_RUNS)
            starts = np.linspace(0, len(rows) - length, _SAMPLE_RUNS).astype(int)
            rows = rows[np.unique(starts[:, None] + np.arange(length))]
        # A few cells at a time, as only the result is sparse.
        parts = np.array_split(rows, -(-len(rows) // 128)) if len(rows) else [rows]
        return sparse.vstack(
            [sparse.csr_matrix(self.read(part).dense(part, len(part))) for part in parts], format="csr"
        )

    def uns(self, key: str) -> Any:
        """An entry of `uns`; `None` where there is none."""
        if isinstance(self.source, anndata.AnnData):
            return self.source.uns.get(key)
        with damage_named(f"uns of {self.source}"), open_hdf5(self.source) as file:
            return read_elem(file["uns"][key]) if key in names_in(file.get("uns")) else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None, "_file": None, "_pid": -1}
