"""Maximum mean discrepancy between sets of cells, with one Gaussian kernel or several."""

from collections.abc import Sequence

import torch
from torch import nn

from state_hf.modeling.losses.pairwise_distances import cell_weights, precise, squared_norms, weighted_mean

_CITATION = """
@article{gretton2012kernel,
    title = "A Kernel Two-Sample Test",
    author = "Gretton, Arthur and Borgwardt, Karsten M. and Rasch, Malte J. and Sch{\\"o}lkopf, Bernhard and Smola, Alexander",
    journal = "Journal of Machine Learning Research",
    volume = "13",
    pages = "723--773",
    year = "2012",
}
"""  # noqa: E501


class GaussianMMDLoss(nn.Module):
    r"""Squared maximum mean discrepancy of predicted and real cells under one Gaussian kernel.

    .. math::
        \tfrac12 \overline{k(x_i, x_j)} + \tfrac12 \overline{k(y_i, y_j)} - \overline{k(x_i, y_j)},
        \quad k(x, y) = \exp\left(-\frac{|x - y|^2}{2 \sigma^2}\right)

    with means over all pairs of a set's cells. The factors are those of the energy distance, and of geomloss.

    Args:
        bandwidth: The kernel's sigma, in the unit of the features.

    References:
        - Gretton et al., A Kernel Two-Sample Test, 2012, https://jmlr.org/papers/v13/gretton12a.html

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
        The bandwidth should be of the size of the distances: a kernel that sees no neighbours has no gradient.

    Relations:
        - `MultiKernelMMDLoss` finds its bandwidths in the data.
        - `EnergyDistanceLoss` is the same construction with the kernel -|x - y|.

    Example:
        >>> GaussianMMDLoss(bandwidth=1.0)(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        tensor([0.3935])
    """

    def __init__(self, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.bandwidth = bandwidth

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        predicted_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        matrices, weights = _squared_distances(predicted, target, predicted_mask, target_mask)
        kernels = [torch.exp(matrix / (-2 * self.bandwidth**2)) for matrix in matrices]
        return _discrepancy(kernels, weights)

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return _CITATION


class MultiKernelMMDLoss(nn.Module):
    """Squared maximum mean discrepancy under a sum of Gaussian kernels around the distances of the data.

    The kernels are those of `GaussianMMDLoss`, with 2 sigma^2 equal to the mean squared distance between a set's
    predicted and real cells, times each of the multipliers; this mean has no gradient.

    Args:
        multipliers: Scales of the kernels, relative to the mean squared distance.

    References:
        - Gretton et al., A Kernel Two-Sample Test, 2012, https://jmlr.org/papers/v13/gretton12a.html
        - Long et al., Learning Transferable Features with Deep Adaptation Networks, 2015,
          https://proceedings.mlr.press/v37/long15.html

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
        - `GaussianMMDLoss` has one kernel, of a bandwidth that you choose.

    Example:
        >>> MultiKernelMMDLoss(multipliers=[1.0])(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        tensor([0.6321])
    """

    def __init__(self, multipliers: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0)) -> None:
        super().__init__()
        self.multipliers = tuple(multipliers)

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        predicted_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        matrices, weights = _squared_distances(predicted, target, predicted_mask, target_mask)
        a, b = weights
        scale = torch.einsum("bn,bnm,bm->b", a, matrices[0].detach(), b)
        # Sets that coincide have no scale; their discrepancy is 0 under any.
        scale = torch.where(scale > 0, scale, 1)[:, None, None]
        kernels = [
            torch.stack([torch.exp(-matrix / (scale * m)) for m in self.multipliers]).sum(dim=0) for matrix in matrices
        ]
        return _discrepancy(kernels, weights)

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return _CITATION


def _squared_distances(
    predicted: torch.Tensor,
    target: torch.Tensor,
    predicted_mask: torch.Tensor | None,
    target_mask: torch.Tensor | None,
) -> tuple[list[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Squared distances between the two sets, within the first, and within the second; weights of the cells."""
    x, y = precise(predicted, predicted_mask), precise(target, target_mask)
    a, b = cell_weights(predicted, predicted_mask), cell_weights(target, target_mask)
    centre = weighted_mean(y, b).detach()
    x, y = x - centre, y - centre
    x_norms, y_norms = squared_norms(x), squared_norms(y)
    pairs = ((x, y, x_norms, y_norms), (x, x, x_norms, x_norms), (y, y, y_norms, y_norms))
    matrices = [torch.baddbmm(n.unsqueeze(2) + m.unsqueeze(1), p, q.mT, alpha=-2).clamp(min=0) for p, q, n, m in pairs]
    return matrices, (a, b)


def _discrepancy(kernels: Sequence[torch.Tensor], weights: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    between, within_x, within_y = kernels
    a, b = weights
    mean = "bn,bnm,bm->b"
    return (
        torch.einsum(mean, a, within_x, a) / 2
        + torch.einsum(mean, b, within_y, b) / 2
        - torch.einsum(mean, a, between, b)
    )


__all__ = ["GaussianMMDLoss", "MultiKernelMMDLoss"]
