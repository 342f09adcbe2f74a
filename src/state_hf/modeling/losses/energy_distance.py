"""Energy distance between sets of cells."""

from typing import Any

import torch
from torch import nn

from state_hf.modeling.losses.pairwise_distances import (
    cell_weights,
    distances,
    self_distances,
    squared_norms,
    weighted_mean,
    without_padding,
)


class EnergyDistanceLoss(nn.Module):
    r"""Energy distance of predicted and real cells: how far apart two sets are as distributions.

    .. math::
        E(X, Y) = \overline{|x_i - y_j|} - \tfrac12 \overline{|x_i - x_j|} - \tfrac12 \overline{|y_i - y_j|}

    with Euclidean norms and means over all pairs of a set's cells. It is 0 for equal sets and positive otherwise, and
    has nothing to tune. Distances are matrix products of centred cells, in float32 whatever the inputs' type; memory
    grows with cells x features and cells x cells. The gradient is written out, and a target without gradient costs
    none. Where two cells coincide the norm has no gradient, and the loss takes 0.

    Args:
        None.

    References:
        - Székely and Rizzo, Energy statistics: a class of statistics based on distances, 2013,
          https://doi.org/10.1016/j.jspi.2013.03.018
        - Adduri et al., Predicting cellular responses to perturbation across diverse contexts with State, 2025.

    Inputs:
        +----------------+------------------------------------------+
        | Argument       | Shape                                    |
        +================+==========================================+
        | predicted      | (sets, cells, features)                  |
        +----------------+------------------------------------------+
        | target         | (sets, target cells, features)           |
        +----------------+------------------------------------------+
        | predicted_mask | (sets, cells), True for cells (optional) |
        +----------------+------------------------------------------+
        | target_mask    | (sets, target cells) (optional)          |
        +----------------+------------------------------------------+
        | output         | (sets,), float32                         |
        +----------------+------------------------------------------+

    Requirements:
        The cells need not be paired, and the sets may be of different sizes. An empty set gives 0.

    Relations:
        - `GaussianMMDLoss` and `MultiKernelMMDLoss` are the same construction with a bounded kernel.
        - `EnergySinkhornLoss` adds a small optimal-transport term.

    Example:
        >>> loss = EnergyDistanceLoss()
        >>> loss(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
        tensor([1.7321])
    """

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        predicted_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return _EnergyDistance.apply(
            without_padding(predicted, predicted_mask),
            without_padding(target, target_mask),
            cell_weights(predicted, predicted_mask),
            cell_weights(target, target_mask),
        )

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return """
@article{szekely2013energy,
    title = "Energy statistics: A class of statistics based on distances",
    author = "Sz{\\'e}kely, G{\\'a}bor J. and Rizzo, Maria L.",
    journal = "Journal of Statistical Planning and Inference",
    volume = "143",
    number = "8",
    pages = "1249--1272",
    year = "2013",
}
"""


# Sets are computed in blocks of this many numbers, so that what is made on the way stays in the processor's cache.
_BLOCK_ELEMENTS = 2**20


class _EnergyDistance(torch.autograd.Function):
    """Energy distance of weighted sets x and y; weights a and b of a set sum to 1, or to 0 for an empty set."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x_needs_gradient, y_needs_gradient, *_ = ctx.needs_input_grad
        energies: list[torch.Tensor] = []
        pulls: list[torch.Tensor | None] = []
        for block in _blocks(x):
            between, within_x, within_y = _distance_matrices(x[block], y[block], a[block], b[block])
            energies.append(
                _mean_distance(between, a[block], b[block])
                - _mean_distance(within_x, a[block], a[block]) / 2
                - _mean_distance(within_y, b[block], b[block]) / 2
            )
            if x_needs_gradient or y_needs_gradient:
                pulls.append(_pull(between, a[block], b[block]))
                pulls.append(_pull(within_x, a[block], a[block]) if x_needs_gradient else None)
                pulls.append(_pull(within_y, b[block], b[block]) if y_needs_gradient else None)
        ctx.save_for_backward(x, y, a, b, *pulls)
        return torch.cat(energies).to(a.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y, a, b, *pulls = ctx.saved_tensors
        x_needs_gradient, y_needs_gradient, *_ = ctx.needs_input_grad
        x_gradient = torch.empty_like(x) if x_needs_gradient else None
        y_gradient = torch.empty_like(y) if y_needs_gradient else None
        for number, block in enumerate(_blocks(x)):
            between, within_x, within_y = pulls[3 * number : 3 * number + 3]
            scale = grad[block, None, None]
            if x_gradient is not None:
                x_gradient[block] = _gradient(x[block], y[block], a[block], between * scale, within_x * scale)
            if y_gradient is not None:
                y_gradient[block] = _gradient(y[block], x[block], b[block], between.mT * scale, within_y * scale)
        return x_gradient, y_gradient, None, None


def _blocks(x: torch.Tensor) -> list[slice]:
    size = max(1, _BLOCK_ELEMENTS // x[0].numel())
    return [slice(start, start + size) for start in range(0, len(x), size)]


def _distance_matrices(
    x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances between x and y, within x, and within y."""
    # Each is centred where its cells are, which keeps the digits of cells that lie close together.
    x_mean, y_mean = weighted_mean(x, a), weighted_mean(y, b)
    x_own, x_centred, y_centred = x - x_mean, x - y_mean, y - y_mean
    y_norms = squared_norms(y_centred)
    return (
        distances(x_centred, y_centred, squared_norms(x_centred), y_norms),
        self_distances(x_own, squared_norms(x_own)),
        self_distances(y_centred, y_norms),
    )


def _mean_distance(matrix: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # Double: the energy distance is a small difference of three such means.
    wide = torch.float32 if matrix.device.type == "mps" else torch.float64
    return ((matrix * b.unsqueeze(1)).sum(dim=2, dtype=wide) * a).sum(dim=1)


def _pull(matrix: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Weights over distance of each pair, 0 for cells that coincide."""
    return (a.unsqueeze(2) * b.unsqueeze(1)).div_(matrix).masked_fill_(matrix == 0, 0)


def _gradient(
    x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, to_y: torch.Tensor, from_x: torch.Tensor
) -> torch.Tensor:
    """Each x_i goes to every y_j and from every x_j by a unit vector: sums of (x_i - y_j)/d are matrix products."""
    # Centred where x is, as forces between cells that lie close together are small differences of large products.
    mean = weighted_mean(x, weights)
    from_x.diagonal(dim1=1, dim2=2).copy_(to_y.sum(dim=2) - from_x.sum(dim=2))
    return torch.bmm(from_x, x - mean).baddbmm_(to_y, y - mean, alpha=-1)


__all__ = ["EnergyDistanceLoss"]
