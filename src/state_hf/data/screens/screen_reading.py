"""Reads cells into the screens that are scored, block by block, one screen a context."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.metrics.label_columns import labels_or_error
from state_hf.metrics.labelled_cells import LabelledCells
from state_hf.metrics.screen import Screen, ScreenBuilder

_BLOCK_CELLS = 4096


def read_screens(
    cells: CellMatrix,
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
    found, genes, on_disk = sorted(set(contexts)), cells.var_names.tolist(), not cells.cells.in_memory
    builders = {context: ScreenBuilder(genes, control, compact=on_disk) for context in found}
    for rows, matrix in _blocks(cells):
        for context in found:
            inside = contexts[rows] == context
            if inside.all():
                builders[context].add(matrix, labels[rows])
            elif inside.any():
                builders[context].add(matrix[np.flatnonzero(inside)], labels[rows][inside])
    return {context: builder.build() for context, builder in builders.items()}


def labels_of(cells: LabelledCells, column: str, names: Mapping[str, str] | None = None) -> np.ndarray:
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


def _blocks(cells: CellMatrix) -> Iterator[tuple[slice, sp.csr_matrix | np.ndarray]]:
    step = cells.num_cells if cells.cells.in_memory else _BLOCK_CELLS
    for start in range(0, cells.num_cells, step):
        rows = slice(start, min(start + step, cells.num_cells))
        yield rows, cells[rows]


__all__ = ["labels_of", "read_screens"]
