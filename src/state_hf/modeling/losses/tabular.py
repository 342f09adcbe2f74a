"""Energy distance of an expression table along its genes and along its cells."""

import torch
from torch import nn

from state_hf.modeling.losses.energy_distance import EnergyDistanceLoss


class TabularLoss(nn.Module):
    """Energy distances of predicted and real expression, along the genes of a cell and along the cells of a gene.

    Along genes, the views of a cell are a set, and its genes the features. Along cells, a gene's values in each view
    are a set, and the cells the features; this needs genes that all cells share. With one view, a set has one row, and
    the distance is the Euclidean norm of the difference.

    Args:
        shared_genes: How many of the last columns are the same genes in every cell.
        views: How many consecutive rows are views of one cell (downsampled copies).

    References:
        - Adduri et al., Predicting cellular responses to perturbation across diverse contexts with State, 2025.

    Inputs:
        +-----------+-----------------------+
        | Argument  | Shape                 |
        +===========+=======================+
        | predicted | (cells x views, genes)|
        +-----------+-----------------------+
        | target    | (cells x views, genes)|
        +-----------+-----------------------+
        | output    | scalar, float32       |
        +-----------+-----------------------+

    Requirements:
        The rows are a multiple of `views`, and there are at least `shared_genes` columns.

    Relations:
        - `EnergyDistanceLoss` computes both terms.

    Example:
        >>> TabularLoss(shared_genes=1)(torch.zeros(4, 4), torch.ones(4, 4))
        tensor(4.)
    """

    def __init__(self, shared_genes: int, views: int = 1) -> None:
        super().__init__()
        self.shared_genes = shared_genes
        self.views = views
        self.energy = EnergyDistanceLoss()

    def forward(self, predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if len(predicted) % self.views or predicted.shape[1] < self.shared_genes:
            raise ValueError(
                f"The table has {len(predicted)} rows x {predicted.shape[1]} genes, which does not fit "
                f"views={self.views} and shared_genes={self.shared_genes}."
            )
        tables = [table.reshape(-1, self.views, table.shape[-1]) for table in (predicted, target)]
        by_gene = [table[:, :, -self.shared_genes :].transpose(0, 2) for table in tables]
        return self.energy(*tables).mean() + self.energy(*by_gene).mean()

    @property
    def citation(self) -> str:
        """BibTeX of the energy distance."""
        return self.energy.citation


__all__ = ["TabularLoss"]
