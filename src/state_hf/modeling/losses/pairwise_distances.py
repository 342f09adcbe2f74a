"""Euclidean distances between the cells of two sets, as matrix products."""

import torch

# A squared distance below this share of |x|^2 + |y|^2, in epsilons of their type, is rounding of the matrix product:
# the cells coincide.
_COINCIDENT = 16
_SYMMETRIC_BLOCKS = 4
# In so few features cells that differ lie close enough together for the product to lose their distance's digits.
_FEW_FEATURES = 8


def without_padding(cells: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The cells with padding set to zero, so that not even its NaN is seen."""
    return cells if mask is None else cells.masked_fill(~mask.bool().unsqueeze(-1), 0)


def precise(cells: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The cells in float32 at least, with padding set to zero."""
    return without_padding(cells.to(torch.promote_types(cells.dtype, torch.float32)), mask)


def cell_weights(cells: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Weight of each cell in its set's mean.

    Args:
        cells: (sets, cells, features).
        mask: (sets, cells), True for cells and False for padding; None if all are cells.

    Returns:
        (sets, cells). One over the number of the set's cells, 0 for padding; all 0 for an empty set.
    """
    dtype = torch.promote_types(cells.dtype, torch.float32)
    if mask is None:
        return torch.full(cells.shape[:2], 1 / cells.shape[1], dtype=dtype, device=cells.device)
    mask = mask.to(dtype)
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


def weighted_mean(cells: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(sets, 1, features). Mean of (sets, n, features) under the weights (sets, n), in the weights' type."""
    return torch.bmm(weights.unsqueeze(1), cells.to(weights.dtype))


def squared_norms(x: torch.Tensor) -> torch.Tensor:
    """(sets, n). Squared norms of (sets, n, features)."""
    # Not vector_norm: it adds in sequence, and its error shifts a whole row of distances.
    return (x * x).sum(dim=-1)


def distances(
    x: torch.Tensor, y: torch.Tensor, x_squared_norms: torch.Tensor, y_squared_norms: torch.Tensor
) -> torch.Tensor:
    """(sets, n, m). Distances of (sets, n, features) and (sets, m, features); exactly 0 where cells coincide.

    The digits lost to rounding are those of the largest norm: centre the cells first.
    """
    if x.shape[-1] <= _FEW_FEATURES:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    norms = x_squared_norms.unsqueeze(2) + y_squared_norms.unsqueeze(1)
    squared = torch.baddbmm(norms, x, y.mT, alpha=-2)
    rounding = norms.mul_(_COINCIDENT * torch.finfo(x.dtype).eps)
    return squared.masked_fill_(squared <= rounding, 0).sqrt_()


def self_distances(x: torch.Tensor, x_squared_norms: torch.Tensor) -> torch.Tensor:
    """(sets, n, n). Distances within (sets, n, features). Blocks below the diagonal are copied, not computed."""
    cells = x.shape[1]
    block = -(-cells // _SYMMETRIC_BLOCKS)
    result = x.new_empty(x.shape[0], cells, cells)
    for start in range(0, cells, block):
        end = min(start + block, cells)
        rows = distances(x[:, start:end], x[:, start:], x_squared_norms[:, start:end], x_squared_norms[:, start:])
        result[:, start:end, start:] = rows
        result[:, end:, start:end] = rows[:, :, end - start :].mT
    result.diagonal(dim1=1, dim2=2).zero_()
    return result
