"""Sinkhorn divergence between sets of cells."""

import math

import torch
from torch import nn

from state_hf.modeling.losses.pairwise_distances import cell_weights, precise, squared_norms, weighted_mean

# The logarithm of a padding cell's weight; finite, as minus infinity less itself is not a number.
_NO_WEIGHT = -1e5


class SinkhornDivergenceLoss(nn.Module):
    """Debiased entropic optimal transport between predicted and real cells, for the cost |x - y|^2 / 2.

    The dual potentials are found by symmetric Sinkhorn iterations whose temperature falls from the set's diameter
    squared to blur squared; the gradient is that of one last step, with the potentials held fixed.

    Args:
        blur: Scale below which cells are not told apart, in the unit of the features.
        scaling: Factor by which the temperature's root falls in each iteration, between 0 and 1.

    References:
        - Feydy et al., Interpolating between Optimal Transport and MMD using Sinkhorn Divergences, 2019,
          https://proceedings.mlr.press/v89/feydy19a.html

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
        - With a large blur it tends to half the squared distance of the sets' means, with a small one to half the
          squared 2-Wasserstein distance.
        - geomloss starts all sets of a batch at the temperature of the widest; here each set starts at its own, so
          that it does not depend on the others.

    Example:
        >>> SinkhornDivergenceLoss()(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        tensor([0.5000])
    """

    def __init__(self, blur: float = 0.05, scaling: float = 0.5) -> None:
        super().__init__()
        self.blur = blur
        self.scaling = scaling

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        predicted_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x, y = precise(predicted, predicted_mask), precise(target, target_mask)
        a, b = cell_weights(predicted, predicted_mask), cell_weights(target, target_mask)
        centre = weighted_mean(y, b).detach()
        # Padding moves to the centre, where it widens no set.
        x, y = (x - centre) * (a > 0).unsqueeze(2), (y - centre) * (b > 0).unsqueeze(2)
        log_a, log_b = _log(a), _log(b)
        fixed_x, fixed_y = x.detach(), y.detach()
        costs = (_cost(x, fixed_y), _cost(y, fixed_x), _cost(x, fixed_x), _cost(y, fixed_y))
        with torch.no_grad():
            potentials = self._potentials([cost.detach() for cost in costs], log_a, log_b, fixed_x, fixed_y)
        temperature = torch.full_like(a[:, :1], self.blur**2)
        f, g, f_own, g_own = _step(costs, potentials, log_a, log_b, temperature)
        return (a * (f - f_own)).sum(dim=1) + (b * (g - g_own)).sum(dim=1)

    def _potentials(
        self,
        costs: list[torch.Tensor],
        log_a: torch.Tensor,
        log_b: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
    ) -> list[torch.Tensor]:
        both = torch.cat([x, y], dim=1)
        extent = both.amax(dim=1) - both.amin(dim=1)
        diameter = torch.linalg.vector_norm(extent, dim=1, keepdim=True).clamp(min=self.blur)
        steps = ((diameter.log() - math.log(self.blur)) / -math.log(self.scaling)).ceil()
        zeros = [torch.zeros_like(cost[:, :, 0]) for cost in costs]
        potentials = _step(costs, zeros, log_a, log_b, diameter.square())
        for number in range(-1, int(steps.max()) + 1):
            # Each set falls at its own pace and waits at the end for the others.
            root = torch.where(number < steps, diameter * self.scaling ** max(number, 0), self.blur)
            done = (number > steps).unsqueeze(0)
            stepped = _step(costs, potentials, log_a, log_b, root.square())
            potentials = [
                torch.where(done[0], old, (old + new) / 2) for old, new in zip(potentials, stepped, strict=True)
            ]
        return potentials

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return """
@inproceedings{feydy2019interpolating,
    title = "Interpolating between Optimal Transport and {MMD} using {Sinkhorn} Divergences",
    author = "Feydy, Jean and S{\\'e}journ{\\'e}, Thibault and Vialard, Fran{\\c{c}}ois-Xavier and Amari, Shun-ichi and Trouv{\\'e}, Alain and Peyr{\\'e}, Gabriel",
    booktitle = "The 22nd International Conference on Artificial Intelligence and Statistics",
    pages = "2681--2690",
    year = "2019",
}
"""  # noqa: E501


def _log(weights: torch.Tensor) -> torch.Tensor:
    return torch.where(weights > 0, weights.clamp(min=1e-30).log(), _NO_WEIGHT)


def _cost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    norms = squared_norms(x).unsqueeze(2) + squared_norms(y).unsqueeze(1)
    return torch.baddbmm(norms / 2, x, y.mT, alpha=-1)


def _step(
    costs: "list[torch.Tensor] | tuple[torch.Tensor, ...]",
    potentials: list[torch.Tensor],
    log_a: torch.Tensor,
    log_b: torch.Tensor,
    temperature: torch.Tensor,
) -> list[torch.Tensor]:
    """One update of the potentials f (of x towards y), g, and those of x and y towards themselves."""
    f, g, f_own, g_own = potentials
    columns = ((log_b, g), (log_a, f), (log_a, f_own), (log_b, g_own))
    return [
        -temperature * ((log + potential / temperature).unsqueeze(1) - cost / temperature.unsqueeze(2)).logsumexp(dim=2)
        for cost, (log, potential) in zip(costs, columns, strict=True)
    ]


__all__ = ["SinkhornDivergenceLoss"]
