"""Sums of cells by group, the raw material of every pseudobulk."""

from collections.abc import Sequence

import numba
import numpy as np
import scipy.sparse as sp

from state_hf.metrics import _summary_kernels
from state_hf.metrics.expression_rows import Rows
from state_hf.metrics.screen import CellBlock


def group_sums(matrix: Rows | sp.csr_matrix, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Sum the rows of each group, in float64, without a dense copy of a sparse matrix.

    Args:
        matrix: Cells x genes; sparse rows, CSR with sorted indices, or dense.
        codes: Group of each row, 0 to n_groups - 1; -1 skips the row.
        n_groups: Number of groups.

    Returns:
        n_groups x genes.
    """
    sums = np.zeros((n_groups, matrix.shape[1]))
    codes = np.asarray(codes, dtype=np.int32)
    parts = numba.get_num_threads()
    if isinstance(matrix, np.ndarray):
        _summary_kernels.add_dense_rows(matrix, codes, parts, sums)
    else:
        _summary_kernels.add_sparse_rows(matrix.indptr, matrix.indices, matrix.data, codes, parts, sums)
    return sums


def block_sums(blocks: Sequence[CellBlock], n_groups: int, n_genes: int) -> np.ndarray:
    """`group_sums` over the blocks of a screen."""
    sums = np.zeros((n_groups, n_genes))
    for block in blocks:
        sums += group_sums(block.matrix, block.codes, n_groups)
    return sums


def bulk_lognorm(sums: np.ndarray, target_sum: float) -> np.ndarray:
    """Log profile of summed counts: log1p(target_sum * counts / their total), row by row; an empty row stays 0."""
    totals = sums.sum(axis=1, keepdims=True)
    return np.log1p(target_sum * sums / np.where(totals > 0, totals, 1.0))
