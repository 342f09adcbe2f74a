"""Writes an .h5ad file of cells block by block, when their number is not known before."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pandas as pd
from numpy.typing import DTypeLike
from scipy import sparse

from state_hf.data.cells.anndata_elements import write_element
from state_hf.data.whole_files import written_whole

_CHUNK = 2**16


class CellWriter:
    """Cells that are being added to a file. Made by `cell_writer`."""

    def __init__(
        self,
        file: h5py.File,
        genes: Sequence[str],
        *,
        dtype: np.dtype,
        dense: bool,
        embedding: tuple[str, int] | None = None,
    ) -> None:
        self.num_cells, self.num_values = 0, 0
        self._file, self._genes, self._dense = file, list(genes), dense
        self._columns: dict[str, list[np.ndarray]] = {}
        self._indptr = [np.zeros(1, dtype=np.int64)]
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self._embedding: h5py.Dataset | None = None
        if embedding is not None:
            write_element(file, "obsm", {})
            self._embedding = _growing_matrix(file["obsm"], *embedding, np.dtype(np.float32))
        if dense:
            self._values = _growing_matrix(file, "X", len(genes), dtype)
            return
        group = file.create_group("X")
        growing: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (_CHUNK,)}
        self._values = group.create_dataset("data", dtype=dtype, **growing)
        self._indices = group.create_dataset("indices", dtype=np.int32, **growing)

    def add(
        self,
        values: np.ndarray | sparse.csr_matrix,
        labels: Mapping[str, str | Sequence[str]],
        embedding: np.ndarray | None = None,
        numbers: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Add cells.

        Args:
            values: (cells, genes), dense or sparse.
            labels: Columns of obs: a label for all of these cells, or one each.
            embedding: (cells, width), for a file that has one.
            numbers: More columns of obs: a number of each of these cells.

        Raises:
            ValueError: The embedding is missing, or the file has none.
        """
        count = values.shape[0]
        if (embedding is None) != (self._embedding is None):
            raise ValueError("cells need an embedding where the file has one, and there only")
        if self._embedding is not None:
            self._embedding.resize(self.num_cells + count, axis=0)
            self._embedding[self.num_cells :] = embedding
        for name, column in labels.items():
            texts = [column] * count if isinstance(column, str) else list(column)
            self._columns.setdefault(name, []).append(np.array(texts, dtype=object))
        for name, values_of in (numbers or {}).items():
            self._columns.setdefault(name, []).append(np.asarray(values_of))
        if self._dense:
            self._values.resize(self.num_cells + count, axis=0)
            self._values[self.num_cells :] = values if isinstance(values, np.ndarray) else values.toarray()
        else:
            block = sparse.csr_array(values)
            stop = self.num_values + block.nnz
            for dataset, part in ((self._values, block.data), (self._indices, block.indices)):
                dataset.resize(stop, axis=0)
                dataset[self.num_values : stop] = part
            self._indptr.append(self.num_values + block.indptr[1:].astype(np.int64))
            self.num_values = stop
        self.num_cells += count

    def finish(self, uns: Mapping[str, Any]) -> None:
        """Write what is known at the end: labels, genes, and how the cells were made."""
        if not self._dense:
            group = self._file["X"]
            group["indptr"] = np.concatenate(self._indptr)
            shape = np.array([self.num_cells, len(self._genes)])
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        joined = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        columns = {name: pd.Categorical(found) if found.dtype == object else found for name, found in joined.items()}
        index = pd.Index([f"cell_{number}" for number in range(self.num_cells)], dtype=object)
        write_element(self._file, "obs", pd.DataFrame(columns, index=index))
        write_element(self._file, "var", pd.DataFrame(index=pd.Index(self._genes, dtype=object)))
        write_element(self._file, "uns", dict(uns))


def _growing_matrix(group: h5py.Group, name: str, width: int, dtype: np.dtype) -> h5py.Dataset:
    rows = max(1, _CHUNK // max(1, width))
    matrix = group.create_dataset(name, (0, width), maxshape=(None, width), chunks=(rows, width), dtype=dtype)
    matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return matrix


@contextmanager
def cell_writer(
    path: Path,
    genes: Sequence[str],
    *,
    uns: Mapping[str, Any] | None = None,
    dtype: DTypeLike = np.float32,
    dense: bool = False,
    embedding: tuple[str, int] | None = None,
) -> Iterator[CellWriter]:
    """A file to add cells to; it has its name when all are added, and is not there otherwise.

    Args:
        path: The .h5ad file; one that exists is replaced at the end.
        genes: Names of the columns.
        uns: How the cells were made.
        dtype: Type of the values in the file.
        dense: Whether X is dense; else CSR.
        embedding: Key in obsm and width of an embedding that every cell has beside X.

    Raises:
        OSError: The disk is full; nothing is left of the file, and an old one stays.
    """
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        writer = CellWriter(file, genes, dtype=np.dtype(dtype), dense=dense, embedding=embedding)
        yield writer
        writer.finish(uns or {})


class MatrixWriter:
    """Rows that are being added to a .npy file. Made by `matrix_writer`."""

    def __init__(self, file: BinaryIO) -> None:
        self.num_cells = 0
        self.labels: list[pd.DataFrame] = []
        self._file = file

    def add(
        self, values: np.ndarray, labels: Mapping[str, str | Sequence[str]], embedding: np.ndarray | None = None
    ) -> None:
        """Add cells; see `CellWriter.add`. The matrix alone is written, and no embedding."""
        np.ascontiguousarray(values, dtype="<f4").tofile(self._file)
        self.labels.append(pd.DataFrame(dict(labels), index=range(self.num_cells, self.num_cells + len(values))))
        self.num_cells += len(values)


@contextmanager
def matrix_writer(path: Path, num_columns: int) -> Iterator[MatrixWriter]:
    """A .npy file (cells, columns) of float32 to add cells to, with their labels beside it as .obs.csv.

    Args:
        path: The .npy file; one that exists is replaced at the end.
        num_columns: Columns of the matrix.

    Raises:
        OSError: The disk is full; nothing is left of the files.
    """
    with written_whole(path) as temporary:
        with temporary.open("wb") as file:
            # The header is written again at the end, when the number of rows is known; numpy leaves room for it.
            _write_header(file, 0, num_columns)
            writer = MatrixWriter(file)
            yield writer
            file.seek(0)
            _write_header(file, writer.num_cells, num_columns)
        with written_whole(path.with_suffix(".obs.csv")) as labels:
            pd.concat(writer.labels).to_csv(labels, index_label="cell")


def _write_header(file: BinaryIO, num_rows: int, num_columns: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, num_columns)}
    np.lib.format.write_array_header_1_0(file, header)


__all__ = ["CellWriter", "MatrixWriter", "cell_writer", "matrix_writer"]
