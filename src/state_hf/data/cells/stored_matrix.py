"""One matrix of a data set: its cells in blocks, or by their numbers."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from transformers.utils import logging

from state_hf.data.cells.damage import damage_named
from state_hf.data.cells.layouts import Layout
from state_hf.data.cells.row_block import RowBlock
from state_hf.tokenization.feature_types import expression_features

if TYPE_CHECKING:
    from state_hf.data.cells.cells import Cells

logger = logging.get_logger(__name__)


_SAMPLE_RUNS = 8
_DENSE_CELLS = 128


def _runs(number: int, of: int) -> tuple[np.ndarray, int]:
    """Where runs start that are spread over a length, and how long each is."""
    if number >= of:
        return np.zeros(1, dtype=np.int64), of
    length = -(-number // _SAMPLE_RUNS)
    return np.linspace(0, of - length, _SAMPLE_RUNS).astype(np.int64), length


class CellMatrix:
    """The cells of one slot of a data set. Of a slot of expression, features that are no gene expression are left out.

    Opened by `Cells.matrix` and `Cells.expression`. A copy in another process opens what it reads from by itself.
    Attributes that an AnnData has, too, mean the same.

    Attributes:
        cells: The data set.
        slot: "X", "raw/X", "layers/NAME" or "obsm/NAME".
        place: What messages call the matrix: the slot, and the data set's name.
        num_cells: Number of cells.
        num_features: Number of features: genes, or dimensions of an embedding.
        var: The genes, one row each; without rows for an embedding.
        feature_names: Names of the features in order: genes, or what `uns[NAME]["var_names"]` gives for an embedding's
            slot; `None` where the data do not say.
        bytes_per_cell: Mean size of one cell while it is read.
    """

    def __init__(self, cells: "Cells", slot: str) -> None:
        self.cells, self.slot, self.place = cells, slot, f"{slot} of {cells.name}"
        self._pid = os.getpid()
        with damage_named(self.place):
            self._opened: Layout | None = cells.open_layout(slot)
            self.var, names = self._features(cells)
        layout = self._layout
        self.num_cells, self.num_features = layout.shape
        self.bytes_per_cell = layout.bytes_per_cell
        if self.num_cells != cells.num_cells:
            raise ValueError(
                f"{self.place} is damaged: it has {self.num_cells:,} rows for the {cells.num_cells:,} cells of obs"
            )
        if self.num_cells == 0:
            raise ValueError(f"{cells.name} has no cells")
        if self.num_features == 0:
            raise ValueError(f"{self.place} has no {'dimensions' if slot.startswith('obsm/') else 'genes'}")
        if names is not None and len(names) != self.num_features:
            raise ValueError(
                f"{self.place} has {self.num_features:,} columns, and the data name {len(names):,} features"
            )
        self._kept: np.ndarray | None = None
        self._feature_places: np.ndarray | None = None
        if not slot.startswith("obsm/"):
            found = expression_features(self.var, self.place)
            if found.others and names is not None:
                logger.warning_once(f"{self.place}: {found.note}")
                kept = found.is_expression
                self._kept, self._feature_places = np.flatnonzero(kept), np.where(kept, np.cumsum(kept) - 1, -1)
                self.var, names, self.num_features = self.var[kept], names[kept], len(self._kept)
        self.feature_names: list[str] | None = None if names is None else names.tolist()

    def _features(self, cells: "Cells") -> tuple[pd.DataFrame, np.ndarray | None]:
        group, _, name = self.slot.partition("/")
        if group == "obsm":
            names = cells.embedding_names(name)
            return pd.DataFrame(), None if names is None else np.array([str(name) for name in names], dtype=object)
        var = cells.frame("raw/var" if group == "raw" else "var")
        return var, np.array([str(name) for name in var.index], dtype=object)

    @property
    def _layout(self) -> Layout:
        if self._opened is None or (self._pid != os.getpid() and not self._opened.is_shared):
            self._opened, self._pid = self.cells.open_layout(self.slot), os.getpid()
        return self._opened

    @property
    def name(self) -> str:
        """What messages call the data set."""
        return self.cells.name

    @property
    def shape(self) -> tuple[int, int]:
        """(cells, features)."""
        return self.num_cells, self.num_features

    @property
    def obs(self) -> pd.DataFrame:
        """All columns of obs."""
        return self.cells.obs

    @property
    def obs_names(self) -> pd.Index:
        """Names of the cells."""
        return self.obs.index

    @property
    def uns(self) -> Mapping[str, Any]:
        """The entries of `uns`, each read when it is asked for."""
        return self.cells.uns

    @property
    def var_names(self) -> pd.Index:
        """Names of the genes."""
        return self.var.index

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.num_cells

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return self.num_features

    @property
    def X(self) -> Self:
        """The matrix, as what takes an AnnData's cells asks for it."""
        return self

    @property
    def dtype(self) -> np.dtype:
        """Type of the values as they are stored."""
        return self._layout.dtype

    def stored(self, start: int, stop: int) -> sparse.csr_matrix | np.ndarray:
        """Cells `start` to `stop` (exclusive): CSR or dense, as the matrix is; of numbers in memory, not a copy."""
        with damage_named(self.place):
            block = self._layout.block(start, max(start, min(stop, self.num_cells)))
        return block if self._kept is None else block[:, self._kept]

    def block(self, start: int, stop: int) -> sparse.csr_matrix:
        """Cells `start` to `stop` (exclusive) as a CSR matrix (cells, features)."""
        return sparse.csr_matrix(self.stored(start, stop))

    def rows(self, rows: np.ndarray) -> RowBlock:
        """Some cells.

        Args:
            rows: (rows,) row numbers, ascending, none twice.
        """
        with damage_named(self.place):
            read = self._layout.rows(np.asarray(rows, dtype=np.int64))
        if self._feature_places is None:
            return read
        return RowBlock(
            read.place,
            read.rows,
            read.values,
            read.columns,
            read.starts,
            read.stops,
            self.num_features,
            self._feature_places,
        )

    def __getitem__(self, rows: slice) -> sparse.csr_matrix | np.ndarray:
        """`stored`, in the way of an array."""
        start, stop, step = rows.indices(self.num_cells)
        if step != 1:
            raise ValueError(f"cells are read one after the other, not with the step {step}")
        return self.stored(start, stop)

    def sample(self, num_cells: int) -> sparse.csr_matrix:
        """About `num_cells` cells, (cells, features), in runs spread over the data."""
        starts, length = _runs(num_cells, self.num_cells)
        return sparse.vstack([self.block(start, start + length) for start in starts.tolist()], format="csr")

    def sample_of(self, num_cells: int, among: np.ndarray) -> sparse.csr_matrix:
        """About `num_cells` of some cells, (cells, features), in runs spread over them.

        Args:
            num_cells: How many.
            among: Row numbers to choose from, ascending.

        Raises:
            ValueError: A value is not finite.
        """
        starts, length = _runs(num_cells, len(among))
        rows = among[np.unique(starts[:, None] + np.arange(length))]
        # A few cells at a time, as only the result is sparse.
        parts = np.array_split(rows, max(1, -(-len(rows) // _DENSE_CELLS)))
        dense = (self.rows(part).dense(part, len(part)) for part in parts)
        return sparse.vstack([sparse.csr_matrix(part) for part in dense], format="csr")

    def to_memory(self) -> anndata.AnnData:
        """The cells with obs and the names of their genes, as an object in memory."""
        return anndata.AnnData(self.stored(0, self.num_cells), obs=self.obs, var=self.var)

    def close(self) -> None:
        """Close what is open; reading again opens it again."""
        if self._opened is not None and not self._opened.is_costly:
            self._opened = None
        self.cells.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        is_shared = self._opened is not None and self._opened.is_shared
        return self.__dict__ | ({} if is_shared else {"_opened": None})


__all__ = ["CellMatrix"]
