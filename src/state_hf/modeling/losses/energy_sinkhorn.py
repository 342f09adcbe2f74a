"""Energy distance with a little optimal transport."""

import torch
from torch import nn

from state_hf.modeling.losses.energy_distance import EnergyDistanceLoss
from state_hf.modeling.losses.sinkhorn_divergence import SinkhornDivergenceLoss


class EnergySinkhornLoss(nn.Module):
    """Weighted sum of energy distance and Sinkhorn divergence of predicted and real cells (the original's "se").

    Args:
        energy_weight: Weight of the energy distance.
        sinkhorn_weight: Weight of the Sinkhorn divergence.
        blur: See `SinkhornDivergenceLoss`.

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
        Those of both losses.

    Relations:
        - `EnergyDistanceLoss` and `SinkhornDivergenceLoss` are its terms.

    Example:
        >>> EnergySinkhornLoss()(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        tensor([1.0050])
    """

    def __init__(self, energy_weight: float = 1.0, sinkhorn_weight: float = 0.01, blur: float = 0.05) -> None:
        super().__init__()
        self.energy_weight = energy_weight
        self.sinkhorn_weight = sinkhorn_weight
        self.energy = EnergyDistanceLoss()
        self.sinkhorn = SinkhornDivergenceLoss(blur=blur)

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        predicted_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        arguments = (predicted, target, predicted_mask, target_mask)
        return self.energy_weight * self.energy(*arguments) + self.sinkhorn_weight * self.sinkhorn(*arguments)

    @property
    def citation(self) -> str:
        """BibTeX of the papers."""
        return self.energy.citation + self.sinkhorn.citation


__all__ = ["EnergySinkhornLoss"]
