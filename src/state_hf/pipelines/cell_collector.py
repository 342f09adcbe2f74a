"""Gathers cells that come block by block, in the smallest types that hold them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from state_hf.metrics.input_check import gene_differences


class CellCollector:
    """One side of an evaluation, gathered block by block.

    Counts below 65,536 take two bytes, other values four, or eight where they come as float64; sparse blocks take two
    or four more for each value's gene. Blocks are kept dense where more than half of the first one is not zero.

    Args:
        columns: The columns of `obs` that are kept.
        side: What the cells are called in messages.
    """

    def __init__(self, columns: Sequence[str], side: str) -> None:
        self.columns, self.side = list(columns), side
        self.n_cells = 0
        self._genes: pd.Index | None = None
        self._dense = False
        self._blocks: list[Any] = []
        self._obs: list[pd.DataFrame] = []

    def add(self, cells: AnnData) -> None:
        """Add a block; its values are copied.

        Raises:
            ValueError: If it has no `X`, lacks a column, or has other genes than the first block.
        """
        if cells.X is None:
            raise ValueError(f"a block of the {self.side} has no X")
        for column in self.columns:
            if column not in cells.obs:
                raise ValueError(f"a block of the {self.side} has no obs column {column!r}")
        if self._genes is None:
            self._genes = cells.var_names
            self._dense = not sparse.issparse(cells.X) and np.count_nonzero(cells.X) * 2 > cells.X.size
        elif not cells.var_names.equals(self._genes):
            differences = gene_differences(cells.var_names, self._genes, "new block", "the first block")
            reasons = "; ".join(differences) or "they stand in another order"
            raise ValueError(f"the blocks of the {self.side} must have the same genes: {reasons}")
        self._blocks.append(self._compact(cells.X))
        self._obs.append(cells.obs[self.columns].astype(str))
        self.n_cells += cells.n_obs

    def build(self) -> AnnData:
        """All cells gathered so far as one AnnData; the collector is empty afterwards."""
        blocks, self._blocks = self._blocks, []
        obs, self._obs = pd.concat(self._obs, ignore_index=True), []
        genes, self._genes, self.n_cells = self._genes, None, 0
        matrix = np.concatenate(blocks) if self._dense else _stacked(blocks)
        return AnnData(matrix, obs=obs.set_axis(obs.index.astype(str)), var=pd.DataFrame(index=genes))

    def _compact(self, matrix: Any) -> Any:
        if self._dense:
            dense = np.array(matrix) if isinstance(matrix, np.ndarray) else matrix.toarray()
            return dense.astype(_small_dtype(dense), copy=False)
        rows = sparse.csr_matrix(matrix)
        small = sparse.csr_matrix(rows.shape, dtype=_small_dtype(rows.data))
        # Assigned one by one: the constructor would widen the indices.
        small.data = rows.data.astype(small.dtype)
        small.indices = rows.indices.astype(np.uint16 if rows.shape[1] <= 2**16 else np.int32)
        small.indptr = rows.indptr.astype(np.int64)
        return small


def _small_dtype(values: np.ndarray) -> np.dtype:
    """uint16 for counts that fit, else float32, or float64 where that is what they came in."""
    if not values.size or (values.min() >= 0 and values.max() < 2**16 and np.array_equal(values, np.rint(values))):
        return np.dtype(np.uint16)
    return np.dtype(np.float64 if values.dtype.kind != "f" or values.dtype.itemsize > 4 else np.float32)


def _stacked(blocks: list[Any]) -> sparse.csr_matrix:
    """Sparse blocks one below the other, each let go as soon as it is copied."""
    shape = sum(block.shape[0] for block in blocks), blocks[0].shape[1]
    nonzero = sum(len(block.data) for block in blocks)
    index_dtype = np.int32 if nonzero < 2**31 else np.int64
    data: Any = np.empty(nonzero, dtype=np.result_type(*(block.dtype for block in blocks)))
    indices: Any = np.empty(nonzero, dtype=index_dtype)
    indptr = np.zeros(shape[0] + 1, dtype=index_dtype)
    row = start = 0
    blocks.reverse()
    while blocks:
        block = blocks.pop()
        stop = start + len(block.data)
        data[start:stop], indices[start:stop] = block.data, block.indices
        indptr[row + 1 : row + 1 + block.shape[0]] = start + block.indptr[1:]
        row, start = row + block.shape[0], stop
    return sparse.csr_matrix((data, indices, indptr), shape=shape)
