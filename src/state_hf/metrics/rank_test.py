"""Mann-Whitney U tests of every perturbation against control, gene by gene, on sparse cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr

from state_hf.metrics import _rank_kernels
from state_hf.metrics.screen import RowScaling, Screen

# Equal counts of equally large cells can differ after normalisation and logarithm, which round three times and once
# more by up to 4 units in the last place (the vector libraries' own bound): 7 units from the exact value each, so 14
# from one another. Twice that leaves room for a step that is not known.
TIE_ULPS = 32
# Of the 52 bits of a ratio's mantissa 32 count: the sort takes four passes, and 2^-32 is a smaller step than any two
# different ratios of counts have while count * total < 2^31.
_DROPPED_BITS = 20


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
    normalisations: Sequence[RowScaling] | None = None,
    logs: bool = False,
    device: str | None = None,
) -> GeneStatistics:
    """Rank and sum every gene of a screen, a bounded range of genes at a time.

    The non-zero values of all groups are sorted once a gene; one walk over them then compares every perturbation with
    the control. Zeros are one block of ties that is counted, never sorted.

    Which values are ties must not depend on the processor, whose last bits differ. Normalised counts are ranked as
    count / total in float64, a quotient that IEEE 754 rounds once: equal ratios are ties, and different ones are not
    while count * total < 2^31. Of values as they are, a tie begins with the smallest that is in none, and takes in all
    up to `TIE_ULPS` units in the last place above it.

    Args:
        screen: The cells.
        normalisations: For each block of the screen, how its values become normalised counts; None to take them as they
            are.
        logs: Whether means are of log1p of the values. Ranks are the same.
        device: A torch device to rank on; None ranks on the CPU with numba.
    """
    n_perturbations, n_genes = len(screen.perturbations), len(screen.genes)
    n_cells, weights = screen.n_cells, np.append(screen.copies, 1)
    twice_u = np.empty((n_perturbations, n_genes), dtype=np.int64)
    ties = np.empty((n_perturbations, n_genes), dtype=np.int64)
    sums = np.empty((n_perturbations + 1, n_genes))
    squares = np.zeros(n_perturbations + 1)
    if normalisations is not None:
        dropped, within = _DROPPED_BITS, 0
    else:
        dropped, within = 0, _tie_width(screen)
    for found in screen.columns(normalisations, logs=logs):
        genes, values, starts = found.genes, found.values, found.starts
        sums[:, genes] = found.sums
        squares += found.squares
        if device is None:
            range_u, range_ties = np.empty((2, len(starts), n_perturbations + 1), dtype=np.int64)
            wide = values.dtype == np.float64
            bits = values.view(np.uint64 if wide else np.uint32)
            _rank_kernels.rank_groups(bits, wide, dropped, within, starts, n_cells, weights, range_u, range_ties)
            range_u, range_ties = range_u[:, :-1], range_ties[:, :-1]
        else:
            keys = _tie_keys(values, dropped, starts, within, device)
            range_u, range_ties = _rank_groups_torch(keys, starts, n_cells, screen.copies, device)
        twice_u[:, genes], ties[:, genes] = range_u.T, range_ties.T
    sums[:-1] *= screen.copies[:, None]
    squares[:-1] *= screen.copies
    return GeneStatistics(twice_u / 2, ties, sums, squares, n_cells)


def _tie_width(screen: Screen) -> int:
    """`TIE_ULPS` in units of the last bit of the values as they are gathered.

    Values of float32 that were widened to float64 carry the rounding of float32.
    """
    if screen.dtype == np.float32:
        return TIE_ULPS
    matrices = [block.matrix for block in screen.blocks]
    parts = [matrix.reshape(-1) if isinstance(matrix, np.ndarray) else matrix.data for matrix in matrices]
    single = any(
        part.dtype == np.float32 or (part.dtype == np.float64 and _rank_kernels.is_single_precision(part))
        for part in parts
        if len(part)
    )
    return TIE_ULPS << (29 if single else 0)


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


def _tie_keys(values: np.ndarray, dropped: int, starts: np.ndarray, within: int, device: str) -> torch.Tensor:
    """Whole numbers in the order and of the sign of the values, equal where `_rank_kernels.rank_groups` finds ties."""
    bits = torch.as_tensor(values.view(np.int64 if values.dtype == np.float64 else np.int32), device=device)
    largest = torch.iinfo(bits.dtype).max
    keys = torch.where(bits < 0, -(bits & largest), bits).long() >> dropped
    if not within or not len(keys):
        return keys
    gene = torch.repeat_interleave(
        torch.arange(len(starts), device=device), torch.as_tensor(starts[:, -1] - starts[:, 0], device=device)
    )
    distinct, rank = torch.unique(keys, return_inverse=True)
    beyond = torch.searchsorted(distinct, distinct + within, right=True)
    places, order = (gene * (len(distinct) + 1) + rank).sort()
    # From the smallest value of a block to that of the next one, and from there on in steps of 1, 2, 4... blocks.
    following = torch.searchsorted(places, gene[order] * (len(distinct) + 1) + beyond[rank[order]])
    following = torch.cat([following, following.new_tensor([len(keys)])])
    first = torch.zeros(len(keys) + 1, dtype=torch.bool, device=device)
    first[0] = True
    first[1:-1] = gene[order][1:] != gene[order][:-1]
    for _ in range(int(np.diff(starts[:, [0, -1]]).max()).bit_length()):
        first[following[first]] = True
        following = following[following]
    block = first[:-1].cumsum(0) - 1
    tied = torch.empty_like(keys)
    tied[order] = keys[order][first[:-1]][block]
    return tied


def _rank_groups_torch(
    keys: torch.Tensor, starts: np.ndarray, n_cells: np.ndarray, weights: np.ndarray, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """The counts of `_rank_kernels.rank_groups` on a torch device, in whole numbers and so exactly the same."""
    n_genes, n_groups = starts.shape[0], starts.shape[1] - 2
    lengths = torch.as_tensor(np.diff(starts, axis=1), device=device)
    slot = torch.repeat_interleave(torch.arange(lengths.numel(), device=device), lengths.flatten())
    gene, group = slot // (n_groups + 1), slot % (n_groups + 1)
    distinct, rank = torch.unique(keys, return_inverse=True)
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
    is_negative = (group == n_groups) & (keys < 0)
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
