"""Sampling noise of a pseudobulk log profile, by leaving out one cell at a time (2026 challenge)."""

from collections.abc import Sequence

import numba
import numpy as np

from state_hf.metrics import _summary_kernels
from state_hf.metrics.expression_rows import sparse_rows
from state_hf.metrics.screen import CellBlock

# Up to this share of a group's counts, a power series with _TERMS terms of log1p is exact to double precision.
_SERIES_SHARE = 1 / 16
_TERMS = 12
_DIRECT_ROWS = 64


def jackknife_noise(blocks: Sequence[CellBlock], sums: np.ndarray, target_sum: float) -> np.ndarray:
    """Delete-one jackknife variance of each group's log profile, summed over genes.

    C = (n - 1)/n * sum_g sum_i (v_ig - mean_i v_ig)^2 with v_ig = log1p(target_sum * (P_g - y_ig) / (S - l_i)): P the
    group's summed counts, S their total, y_ig a count, l_i a cell's total. Written out, v_ig differs from the full
    profile by log1p(-t) - log1p(-e), e = l_i / S, t = (e + target_sum * y_ig / S) / (1 + target_sum * P_g / S). Where a
    cell has no count, t depends on the gene only through the last denominator, so all such cells together are a short
    power series in it, and only stored counts are visited one by one.

    Args:
        blocks: Raw counts with group codes.
        sums: Summed counts of each group, groups x genes.
        target_sum: Total that profiles are scaled to.

    Returns:
        One value a group; 0 for groups of fewer than two cells.
    """
    n_groups = len(sums)
    totals = sums.sum(axis=1)
    safe_totals = np.where(totals > 0, totals, 1.0)
    shrink = 1.0 / (1.0 + target_sum * sums / safe_totals[:, None])
    shares = [block.library / safe_totals[block.codes] * (block.codes >= 0) for block in blocks]
    codes = np.concatenate([block.codes for block in blocks])
    all_shares = np.concatenate(shares)
    n_cells = np.bincount(codes[codes >= 0], minlength=n_groups)
    first, second = np.empty_like(sums), np.empty_like(sums)
    for group in range(n_groups):
        first[group], second[group] = _without_counts(all_shares[codes == group], shrink[group])
    for block, share in zip(blocks, shares, strict=True):
        rows = sparse_rows(block.matrix) if isinstance(block.matrix, np.ndarray) else block.matrix
        arrays = rows.indptr, rows.indices, rows.data
        slope = target_sum / safe_totals
        _summary_kernels.leave_one_out_sparse(
            *arrays, block.codes, share, slope, sums, shrink, numba.get_num_threads(), first, second
        )
    cells = np.maximum(n_cells, 1)
    deviation = (second - first**2 / cells[:, None]).sum(axis=1)
    noise = np.maximum((cells - 1) / cells * deviation, 0.0)
    return np.where((n_cells < 2) | (totals <= 0), 0.0, noise)


def _without_counts(shares: np.ndarray, shrink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares over cells of log1p(-e * shrink) - log1p(-e), for each gene.

    A cell that holds all counts of its group (e = 1) leaves an empty profile behind: its term is log(shrink).
    """
    first, second = np.zeros((2, len(shrink)))
    everything = shares >= 1.0
    if everything.any():
        gone = np.log(shrink)
        first += everything.sum() * gone
        second += everything.sum() * gone**2
        shares = shares[~everything]
    if not len(shares):
        return first, second
    if shares.max() <= _SERIES_SHARE:
        terms = -(shares[:, None] ** np.arange(1, _TERMS + 1)) / np.arange(1, _TERMS + 1)
        coefficients = np.column_stack([-np.log1p(-shares), terms])
        products = coefficients.T @ coefficients
        squares = [np.trace(products[:, ::-1], offset) for offset in range(_TERMS, -_TERMS - 1, -1)]
        first += np.polynomial.polynomial.polyval(shrink, coefficients.sum(axis=0))
        second += np.polynomial.polynomial.polyval(shrink, squares)
        return first, second
    for start in range(0, len(shares), _DIRECT_ROWS):
        share = shares[start : start + _DIRECT_ROWS, None]
        change = np.log1p(-share * shrink) - np.log1p(-share)
        first += change.sum(axis=0)
        second += (change**2).sum(axis=0)
    return first, second
