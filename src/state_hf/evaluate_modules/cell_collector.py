"""Gathers the cells of one side of an evaluation that come block by block, in a file."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from state_hf.data.cells.cell_writer import CellWriter, cell_writer
from state_hf.metrics.input_check import gene_differences
from state_hf.metrics.label_columns import read_label_column


class CellCollector:
    """One side of an evaluation, gathered block by block into a temporary .h5ad file: memory holds one block.

    The file keeps the values in the type of the first block, and dense where more than half of its values are not zero.
    It is removed with the collector.

    Args:
        columns: The columns of `obs` that are kept.
        side: What the cells are called in messages.
    """

    def __init__(self, columns: Sequence[str], side: str) -> None:
        self.columns, self.side = list(columns), side
        self.n_cells = 0
        folder = tempfile.mkdtemp(prefix="state-hf-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder) / f"{side}.h5ad"
        self._genes: list[str] = []
        self._dtype: np.dtype = np.dtype(np.float32)
        self._writer: CellWriter | None = None
        self._open_file = ExitStack()

    def add(self, cells: AnnData) -> None:
        """Add a block.

        Raises:
            ValueError: If it has no `X`, lacks a column, has other genes than the first block, or values that the type
                of the first block does not hold.
        """
        if cells.X is None:
            raise ValueError(f"a block of the {self.side} has no X")
        for column in self.columns:
            if column not in cells.obs:
                raise ValueError(f"a block of the {self.side} has no obs column {column!r}")
        if self._writer is None:
            self._writer = self._start(cells)
        elif list(cells.var_names) != self._genes:
            differences = gene_differences(cells.var_names, self._genes, "new block", "the first block")
            reasons = "; ".join(differences) or "they stand in another order"
            raise ValueError(f"the blocks of the {self.side} must have the same genes: {reasons}")
        self._check_type(cells.X)
        self._writer.add(cells.X, {column: _texts(cells.obs[column]) for column in self.columns})
        self.n_cells += cells.n_obs

    def finish(self) -> Path:
        """The file of all cells; it is there as long as the collector is, which takes no more blocks."""
        self._open_file.close()
        return self.path

    def _start(self, cells: AnnData) -> CellWriter:
        self._genes, self._dtype = list(cells.var_names), np.dtype(cells.X.dtype)
        dense = isinstance(cells.X, np.ndarray) and int(np.count_nonzero(cells.X)) * 2 > cells.X.size
        return self._open_file.enter_context(cell_writer(self.path, self._genes, dtype=self._dtype, dense=dense))

    def _check_type(self, matrix: Any) -> None:
        values = matrix if isinstance(matrix, np.ndarray) else matrix.data
        if np.can_cast(values.dtype, self._dtype) or np.array_equal(values.astype(self._dtype), values, equal_nan=True):
            return
        raise ValueError(
            f"a block of the {self.side} has {values.dtype} values that the first block's type, {self._dtype}, does "
            "not hold exactly: give all blocks the same type"
        )


def _texts(column: pd.Series) -> list[str]:
    """The labels as texts; "" where a cell has none, which the evaluation refuses."""
    return ["" if text is None else text for text in read_label_column(column).texts]
