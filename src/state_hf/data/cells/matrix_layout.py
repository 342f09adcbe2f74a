"""Which layout a matrix has, in memory or in a file."""

from typing import Any

import anndata
import numpy as np
from scipy import sparse

from state_hf.data.cells.by_genes import stored_by_cells
from state_hf.data.cells.layouts import CsrLayout, DenseLayout, Layout, check_number_type
from state_hf.data.cells.row_block import RowBlock


class ViewLayout(Layout):
    """The cells of a view of an AnnData, which as a whole would be copied before its first cell is read."""

    def __init__(self, place: str, adata: anndata.AnnData, layer: str | None) -> None:
        self.place, self.shape = place, adata.shape
        self._adata, self._layer = adata, layer
        self.bytes_per_cell = adata.shape[1] * 8.0
        self.dtype = self._some(slice(0, 1)).dtype
        check_number_type(place, self.dtype)

    def _some(self, rows: Any) -> Any:
        part = self._adata[rows]
        matrix: Any = part.X if self._layer is None else part.layers[self._layer]
        return matrix if sparse.issparse(matrix) else np.asarray(matrix)

    def block(self, start: int, stop: int) -> sparse.csr_matrix | np.ndarray:
        return layout_of(self.place, self._some(slice(start, stop))).block(0, stop - start)

    def rows(self, rows: np.ndarray) -> RowBlock:
        some = layout_of(self.place, self._some(rows)).rows(np.arange(len(rows)))
        return RowBlock(self.place, rows, some.values, some.columns, some.starts, some.stops, self.shape[1])


def layout_of(place: str, matrix: Any) -> Layout:
    """The layout of a matrix: NumPy, SciPy, or the element of a file.

    One that is stored by genes is turned at once, see `stored_by_cells`.

    Raises:
        ValueError: It is of another kind, or its values are no numbers.
    """
    if not isinstance(matrix, np.ndarray):
        matrix = getattr(matrix, "group", matrix)  # a sparse matrix that anndata keeps in its file
    form = ""
    if sparse.issparse(matrix):
        matrix = _compressed(matrix)
        form, arrays, shape = matrix.format, (matrix.data, matrix.indices, matrix.indptr), matrix.shape
    elif hasattr(matrix, "attrs") and not hasattr(matrix, "shape"):
        form, shape = _stored_form(place, matrix)
        arrays = (matrix["data"], matrix["indices"], matrix["indptr"])
        if any(array.ndim != 1 for array in arrays):
            raise ValueError(f"{place} is damaged: its data, indices and indptr are not all vectors")
    elif hasattr(matrix, "dtype") and len(getattr(matrix, "shape", ())) == 2 and not hasattr(matrix, "dask"):
        return DenseLayout(place, matrix)
    else:
        raise ValueError(f"{place} is neither a sparse nor a dense matrix of two dimensions: {_described(matrix)}")
    if form == "csc":
        return stored_by_cells(place, *arrays, shape)
    return CsrLayout(place, *arrays, shape)


def _compressed(matrix: Any) -> Any:
    return matrix if matrix.format in ("csr", "csc") else matrix.tocsr()


def _stored_form(place: str, group: Any) -> tuple[str, tuple[int, int]]:
    """Format and shape of a sparse matrix in a file, as anndata writes them, and as it wrote them before 0.7."""
    if "h5sparse_format" in group.attrs:
        form, shape = str(group.attrs["h5sparse_format"]), group.attrs["h5sparse_shape"]
    else:
        form, _, kind = str(group.attrs.get("encoding-type")).partition("_")
        form, shape = (form, group.attrs["shape"]) if kind == "matrix" else ("", (0, 0))
    if form not in ("csr", "csc"):
        raise ValueError(f"{place} is neither a sparse nor a dense matrix of two dimensions: {_described(group)}")
    rows, columns = np.asarray(shape).tolist()
    if rows < 0 or columns < 0:
        raise ValueError(f"{place} is damaged: its shape is {rows} x {columns}")
    return form, (rows, columns)


def _described(matrix: Any) -> str:
    said = matrix.attrs.get("encoding-type") if hasattr(matrix, "attrs") else None
    shape = f" of shape {matrix.shape}" if hasattr(matrix, "shape") else ""
    return f"{said or type(matrix).__name__}{shape}"


__all__ = ["ViewLayout", "layout_of"]
