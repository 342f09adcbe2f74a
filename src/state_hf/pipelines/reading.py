"""Read the cells of an AnnData or an .h5ad file into screens, block by block, one screen a context."""

from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from state_hf.data.damaged_files import damage_named
from state_hf.metrics.screen import Screen, ScreenBuilder

_BLOCK_ROWS = 4096


def open_cells(cells: AnnData | str | Path) -> AnnData:
    """Open a file without reading its matrix; an AnnData is returned as it is.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no .h5ad file.
    """
    if isinstance(cells, AnnData):
        return cells
    if not Path(cells).is_file():
        raise FileNotFoundError(f"there is no file {str(cells)!r}")
    if not h5py.is_hdf5(cells):
        raise ValueError(f"{cells} is no .h5ad file")
    with damage_named(str(cells)):
        return anndata.read_h5ad(cells, backed="r")


def read_screens(cells: AnnData, *, pert_col: str, control: str, context_col: str | None) -> dict[str, Screen]:
    """All cells as screens, by context; without a context column, one screen under the empty name.

    A matrix in memory is used in place. One on disk is read in blocks of rows into the smallest dtypes that hold it.
    """
    labels = labels_of(cells, pert_col)
    contexts = np.full(len(labels), "", dtype=object) if context_col is None else labels_of(cells, context_col)
    names = sorted(set(contexts))
    on_disk = cells.isbacked
    builders = {name: ScreenBuilder(cells.var_names, control, compact=on_disk) for name in names}
    for rows, matrix in _blocks(cells):
        for name in names:
            inside = contexts[rows] == name
            if inside.all():
                builders[name].add(matrix, labels[rows])
            elif inside.any():
                builders[name].add(matrix[np.flatnonzero(inside)], labels[rows][inside])
    return {name: builder.build() for name, builder in builders.items()}


def labels_of(cells: AnnData, column: str) -> np.ndarray:
    """An obs column as strings, whatever its type.

    Raises:
        ValueError: If there is no such column, or cells without a label.
    """
    if column not in cells.obs:
        raise ValueError(f"obs has no column {column!r}; it has {', '.join(map(repr, cells.obs.columns))}")
    values = pd.Series(cells.obs[column])
    if values.isna().any():
        raise ValueError(f"{int(values.isna().sum())} cells have no label in obs[{column!r}]")
    return values.astype(str).to_numpy(dtype=object)


def _blocks(cells: AnnData) -> Iterator[tuple[slice, sp.csr_matrix | np.ndarray]]:
    if cells.X is None:
        raise ValueError("there is no expression matrix X")
    if not cells.isbacked:
        yield slice(0, cells.n_obs), cells.X
        return
    for start in range(0, cells.n_obs, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, cells.n_obs))
        with damage_named(f"X of {cells.filename}"):
            block = cells.X[rows]
        yield rows, block
