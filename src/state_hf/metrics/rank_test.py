"""Mann-Whitney U tests of every perturbation against control, gene by gene, on sparse cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr

from state_hf.metrics import _kernels
from state_hf.metrics.screen import Screen


@dataclass(frozen=True)
class GeneStatistics:
    """What one walk over the genes of a screen yields.

    Args:
        statistic: U of each perturbation's cells against the control's, P x G.
        ties: Sum of t^3 - t over the tie blocks of both groups together, P x G.
        sums: Sum of the values of each perturbation, control last, (P + 1) x G.
        squares: Sum of squared values of each perturbation's cells over all genes, control last (P + 1).
        n_cells: Cells of each perturbation, control last (P + 1).
    """

    statistic: np.ndarray
    ties: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    n_cells: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Mean value of each perturbation, control last, (P + 1) x G."""
        return self.sums / self.n_cells[:, None]


def gene_statistics(
    screen: Screen,
    *,
    mode: int = 0,
    scales: Sequence[np.ndarray] | None = None,
    rank_logs: bool = False,
    device: str | None = None,
) -> GeneStatistics:
    """Rank and sum every gene of a screen, a bounded range of genes at a time.

    The non-zero values of all groups are sorted once a gene; one walk over them then compares every perturbation with
    the control. Zeros are one block of ties that is counted, never sorted.

    Args:
        screen: The cells.
        mode: 0 values as they are, 1 divided by the scale of their row, 2 log1p of that.
        scales: For each block of the screen, the scale of its rows; their dtype is that of the values. None for mode 0.
        rank_logs: Rank log1p of the values, which sums do not see. The order stays, but values that differ only by
            rounding become ties.
        device: A torch device to rank on; None ranks on the CPU with numba.
    """
    n_perturbations, n_genes = len(screen.perturbations), len(screen.genes)
    n_cells = screen.n_cells
    twice_u = np.empty((n_perturbations, n_genes), dtype=np.int64)
    ties = np.empty((n_perturbations, n_genes), dtype=np.int64)
    sums = np.empty((n_perturbations + 1, n_genes))
    squares = np.zeros(n_perturbations + 1)
    if scales is None:
        scales = [np.ones(len(block.codes), dtype=screen.dtype) for block in screen.blocks]
    for genes, values, starts in screen.columns(mode, scales):
        width = genes.stop - genes.start
        range_sums, range_squares = np.empty((2, n_perturbations + 1, width))
        _kernels.sum_groups(values, starts, range_sums, range_squares)
        sums[:, genes] = range_sums
        squares += range_squares.sum(axis=1)
        if rank_logs:
            _kernels.log1p_in_place(values)
        if device is None:
            range_u, range_ties = np.empty((2, width, n_perturbations), dtype=np.int64)
            wide = values.dtype == np.float64
            bits = values.view(np.uint64 if wide else np.uint32)
            _kernels.rank_groups(bits, wide, starts, n_cells, screen.copies, range_u, range_ties)
        else:
            range_u, range_ties = _rank_groups_torch(values, starts, n_cells, screen.copies, device)
        twice_u[:, genes], ties[:, genes] = range_u.T, range_ties.T
    sums[:-1] *= screen.copies[:, None]
    squares[:-1] *= screen.copies
    return GeneStatistics(twice_u / 2, ties, sums, squares, n_cells)


def mann_whitney_p_values(
    statistic: np.ndarray, ties: np.ndarray, n_target: np.ndarray, n_control: int, *, continuity: bool
) -> np.ndarray:
    """Two-sided p-values of U by the normal approximation with tie correction.

    With `continuity` equal to `scipy.stats.mannwhitneyu(method="asymptotic")`; without, the form of
    `scanpy.tl.rank_genes_groups(method="wilcoxon", tie_correct=True)`. A gene whose cells are all tied has p = 1.

    Args:
        statistic: U, P x G.
        ties: Sum of t^3 - t over tie blocks, P x G.
        n_target: Cells of each perturbation (P).
        n_control: Number of control cells.
        continuity: Whether to correct for continuity (0.5).
    """
    n_target = np.asarray(n_target, dtype=np.float64)[:, None]
    product = n_target * n_control
    total = n_target + n_control
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(product / 12 * ((total + 1) - ties / (total * (total - 1))))
        z = (np.maximum(statistic, product - statistic) - product / 2 - (0.5 if continuity else 0.0)) / deviation
    p_values = np.minimum(2 * ndtr(-z), 1.0)
    p_values[np.broadcast_to(~(deviation > 0), p_values.shape)] = 1.0
    return p_values


def _rank_groups_torch(
    values: np.ndarray, starts: np.ndarray, n_cells: np.ndarray, weights: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The counts of `_kernels.rank_groups` on a torch device, in whole numbers and so exactly the same."""
    n_genes, n_groups = starts.shape[0], starts.shape[1] - 2
    lengths = torch.as_tensor(np.diff(starts, axis=1), device=device)
    slot = torch.repeat_interleave(torch.arange(lengths.numel(), device=device), lengths.flatten())
    gene, group = slot // (n_groups + 1), slot % (n_groups + 1)
    distinct, rank = torch.unique(torch.as_tensor(values, device=device), return_inverse=True)
    n_distinct = max(len(distinct), 1)
    key = gene * n_distinct + rank
    control_keys = key[group == n_groups].sort().values
    control_lengths = lengths[:, n_groups]
    control_start = control_lengths.cumsum(0) - control_lengths
    control_zeros = int(n_cells[n_groups]) - control_lengths
    _, control_runs = torch.unique_consecutive(control_keys, return_counts=True)
    control_run_gene = torch.unique_consecutive(control_keys) // n_distinct
    control_ties = torch.zeros(n_genes, dtype=torch.int64, device=device)
    control_ties.index_add_(0, control_run_gene, control_runs**3 - control_runs)
    negatives = torch.zeros(n_genes, dtype=torch.int64, device=device)
    is_negative = (group == n_groups) & (torch.as_tensor(values, device=device) < 0)
    negatives.index_add_(0, gene[is_negative], torch.ones_like(gene[is_negative]))

    target = group < n_groups
    runs, copies = torch.unique(
        (gene[target] * n_groups + group[target]) * n_distinct + rank[target], return_counts=True
    )
    run_slot, run_rank = runs // n_distinct, runs % n_distinct
    run_gene, run_group = run_slot // n_groups, run_slot % n_groups
    weight = torch.as_tensor(weights, device=device)
    copies = copies * weight[run_group]
    run_key = run_gene * n_distinct + run_rank
    left = torch.searchsorted(control_keys, run_key)
    same = torch.searchsorted(control_keys, run_key, right=True) - left
    positive = distinct[run_rank] > 0 if len(distinct) else torch.zeros(0, dtype=torch.bool, device=device)
    smaller = left - control_start[run_gene] + torch.where(positive, control_zeros[run_gene], 0)
    twice_u = torch.zeros(n_genes * n_groups, dtype=torch.int64, device=device)
    twice_u.index_add_(0, run_slot, copies * (2 * smaller + same))
    ties = torch.zeros_like(twice_u)
    together = copies + same
    ties.index_add_(0, run_slot, (together**3 - together) - (same**3 - same))
    zeros = torch.as_tensor(n_cells[:-1], device=device) - lengths[:, :n_groups] * weight
    zero_block = zeros + control_zeros[:, None]
    twice_u = twice_u.view(n_genes, n_groups) + zeros * (2 * negatives + control_zeros)[:, None]
    ties = ties.view(n_genes, n_groups) + control_ties[:, None] + zero_block**3 - zero_block
    return twice_u.cpu().numpy(), ties.cpu().numpy()
