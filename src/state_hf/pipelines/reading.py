"""Read the cells of an AnnData or an .h5ad file into screens, block by block, one screen a context."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import sparse_dataset
from transformers.utils import logging

from state_hf.configuration.file_permissions import check_readable
from state_hf.data.damaged_files import check_indices, check_starts, damage_named, open_hdf5
from state_hf.metrics.label_columns import labels_or_error
from state_hf.metrics.screen import Screen, ScreenBuilder
from state_hf.tokenization.feature_types import expression_features

logger = logging.get_logger(__name__)

_BLOCK_ROWS = 4096
_CHECKED_INDICES = 2**22


def open_cells(cells: AnnData | str | Path) -> AnnData:
    """Open a file without reading its matrix; an AnnData is returned as it is.

    Where features are not gene expression, the cells are returned without them, in memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no .h5ad file, or a damaged one, or has no gene expression.
    """
    if isinstance(cells, AnnData):
        if cells.isbacked:
            _check_matrix(cells)
        return _expression_of(cells, "the AnnData object")
    check_readable(cells)
    if not Path(cells).is_file():
        raise FileNotFoundError(f"there is no file {str(cells)!r}")
    if not h5py.is_hdf5(cells):
        raise ValueError(f"{cells} is no .h5ad file")
    open_hdf5(Path(cells)).close()
    with damage_named(str(cells)):
        opened = anndata.read_h5ad(cells, backed="r")
    _check_matrix(opened)
    return _expression_of(opened, str(cells))


def _expression_of(cells: AnnData, name: str) -> AnnData:
    found = expression_features(cells.var, name)
    if not found.others:
        return cells
    logger.warning_once(f"{name}: {found.note}")
    if not cells.isbacked:
        return cells[:, found.is_expression].copy()
    # Every block of a backed view would be a pass over the whole file.
    columns, blocks = np.flatnonzero(found.is_expression), []
    for _, block in _blocks(cells):
        values = block if sp.issparse(block) else block.astype(np.promote_types(block.dtype, np.float32))
        blocks.append(sp.csr_matrix(values)[:, columns])
    return AnnData(sp.vstack(blocks, format="csr"), obs=cells.obs, var=cells.var[found.is_expression], uns=cells.uns)


def _check_matrix(cells: AnnData) -> None:
    """Look at what a matrix on disk says of itself, before loops that trust it read the values.

    The indices of a CSC matrix are read too, since blocks of cells are cut out of it by them.
    """
    place = f"X of {cells.filename}"
    with damage_named(place):
        if not cells.file.is_open:
            cells.file.open()
        if "X" not in cells.file:
            raise ValueError(f"{cells.filename} has no expression matrix X")
        stored: Any = cells.file["X"]
        matrix = sparse_dataset(stored) if isinstance(stored, h5py.Group) else stored
        if not cells.is_view and tuple(matrix.shape) != cells.shape:
            raise ValueError(
                f"{place} is damaged: its shape is {tuple(matrix.shape)}, and obs and var have {cells.shape}"
            )
        if matrix is not stored:
            _check_sparse(place, stored, matrix.format, matrix.shape)


def _check_sparse(place: str, stored: Any, form: str, shape: tuple[int, int]) -> None:
    data, indices, starts = stored["data"], stored["indices"], stored["indptr"][()]
    majors = shape[0 if form == "csr" else 1]
    if data.ndim != 1 or data.shape != indices.shape or starts.shape != (majors + 1,):
        raise ValueError(f"{place} is damaged: its data, indices and indptr do not fit each other and its shape")
    if not all(array.dtype.kind in "iu" for array in (indices, starts)):
        raise ValueError(f"{place} is damaged: its indices are of type {indices.dtype}, its indptr of {starts.dtype}")
    check_starts(place, starts, data.shape[0])
    if form == "csc":
        for start in range(0, data.shape[0], _CHECKED_INDICES):
            check_indices(place, indices[start : start + _CHECKED_INDICES], shape[0])


def read_screens(
    cells: AnnData,
    *,
    perturbation_key: str,
    control: str,
    cell_type_key: str | None,
    names: Mapping[str, str] | None = None,
) -> dict[str, Screen]:
    """All cells as screens, by context; without a context column, one screen under the empty name.

    A matrix in memory is used in place. One on disk is read in blocks of rows into the smallest dtypes that hold it.

    Args:
        cells: The cells.
        perturbation_key: Column of obs with the perturbations.
        control: Label of the control cells.
        cell_type_key: Column of obs with the contexts.
        names: What labels of perturbations are called, see `common_names`. Others are called as they are.
    """
    labels = labels_of(cells, perturbation_key, names)
    contexts = np.full(len(labels), "", dtype=object) if cell_type_key is None else labels_of(cells, cell_type_key)
    found = sorted(set(contexts))
    on_disk = cells.isbacked
    builders = {context: ScreenBuilder(cells.var_names, control, compact=on_disk) for context in found}
    for rows, matrix in _blocks(cells):
        for context in found:
            inside = contexts[rows] == context
            if inside.all():
                builders[context].add(matrix, labels[rows])
            elif inside.any():
                builders[context].add(matrix[np.flatnonzero(inside)], labels[rows][inside])
    return {context: builder.build() for context, builder in builders.items()}


def labels_of(cells: AnnData, column: str, names: Mapping[str, str] | None = None) -> np.ndarray:
    """(cells,) object: the labels of an obs column as texts, whatever its type, see `label_text`.

    Args:
        cells: The cells.
        column: The column.
        names: What labels are called. Others are called as they are.

    Raises:
        ValueError: If there is no such column, or cells without a label.
    """
    if column not in cells.obs:
        raise ValueError(f"obs has no column {column!r}; it has {', '.join(map(repr, cells.obs.columns))}")
    read = labels_or_error(pd.Series(cells.obs[column]), f"obs[{column!r}]")
    called = [label if names is None else names.get(label, label) for label in read.labels]
    return np.array(called, dtype=object)[read.codes]


def _blocks(cells: AnnData) -> Iterator[tuple[slice, sp.csr_matrix | np.ndarray]]:
    if cells.X is None:
        raise ValueError("there is no expression matrix X")
    if not cells.isbacked:
        yield slice(0, cells.n_obs), cells.X
        return
    for start in range(0, cells.n_obs, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, cells.n_obs))
        place = f"X of {cells.filename}"
        with damage_named(place):
            block = cells.X[rows]
            if isinstance(block, sp.csr_matrix | sp.csr_array):
                check_indices(place, block.indices, cells.n_vars)
        yield rows, block
