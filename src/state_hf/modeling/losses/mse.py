"""Mean squared error between paired cells."""

import torch
from torch import nn

from state_hf.modeling.losses.pairwise_distances import cell_weights, precise


class MeanSquaredErrorLoss(nn.Module):
    """Mean squared error of predicted and real cells, cell by cell.

    Perturbed cells have no counterpart among the controls, so with sets this trains every cell towards the mean of
    its set. It is the baseline that the losses between distributions are measured against.

    Args:
        None.

    References:
        - Adduri et al., Predicting cellular responses to perturbation across diverse contexts with State, 2025.

    Inputs:
        +----------------+------------------------------------------+
        | Argument       | Shape                                    |
        +================+==========================================+
        | predicted      | (sets, cells, features)                  |
        +----------------+------------------------------------------+
        | target         | (sets, cells, features)                  |
        +----------------+------------------------------------------+
        | predicted_mask | (sets, cells), True for cells (optional) |
        +----------------+------------------------------------------+
        | target_mask    | (sets, cells) (optional)                 |
        +----------------+------------------------------------------+
        | output         | (sets,), float32                         |
        +----------------+------------------------------------------+

    Requirements:
        Cell i of the prediction belongs to cell i of the target. Pairs with padding on either side do not count.

    Relations:
        - `EnergyDistanceLoss` needs no pairs.

    Example:
        >>> MeanSquaredErrorLoss()(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
        tensor([1.])
    """

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        predicted_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if predicted.shape != target.shape:
            raise ValueError(
                f"The mean squared error compares cell by cell, but there are {tuple(predicted.shape)} predicted and "
                f"{tuple(target.shape)} real ones."
            )
        masks = [mask.bool() for mask in (predicted_mask, target_mask) if mask is not None]
        paired = torch.stack(masks).all(dim=0) if masks else None
        errors = precise(predicted, paired) - precise(target, paired)
        return (errors.square().mean(dim=-1) * cell_weights(predicted, paired)).sum(dim=1)

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return """
@article{adduri2025predicting,
    title = "Predicting cellular responses to perturbation across diverse contexts with {State}",
    author = "Adduri, Abhinav K. and others",
    journal = "bioRxiv",
    year = "2025",
    doi = "10.1101/2025.06.26.661135",
}
"""


__all__ = ["MeanSquaredErrorLoss"]
