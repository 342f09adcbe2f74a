"""A loss between sets of cells, averaged over chunks of their features."""

import torch
from torch import nn


class FeatureChunksLoss(nn.Module):
    """Mean of a loss over chunks of the features.

    Distances in many dimensions are nearly all alike; in a chunk they say more about its genes.

    Args:
        loss: A loss between sets of cells.
        chunks: Number of chunks. They are as equal as they can be, the last ones smaller.
        shuffle: Whether features are dealt to the chunks at random, anew each time, with torch's generator.

    References:
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
        Those of the loss.

    Relations:
        - With one chunk, the loss itself.

    Example:
        >>> from state_hf.modeling.losses.energy_distance import EnergyDistanceLoss
        >>> loss = FeatureChunksLoss(EnergyDistanceLoss(), 2)
        >>> loss(torch.zeros(1, 2, 8), torch.ones(1, 2, 8))
        tensor([2.])
    """

    def __init__(self, loss: nn.Module, chunks: int, *, shuffle: bool = False) -> None:
        super().__init__()
        self.loss = loss
        self.chunks = chunks
        self.shuffle = shuffle

    def forward(
        self,
        predicted: torch.Tensor,
        target: torch.Tensor,
        predicted_mask: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.shuffle:
            order = torch.randperm(predicted.shape[-1], device=predicted.device)
            predicted, target = predicted[..., order], target[..., order]
        pairs = zip(predicted.chunk(self.chunks, dim=-1), target.chunk(self.chunks, dim=-1), strict=True)
        losses = [self.loss(part, target_part, predicted_mask, target_mask) for part, target_part in pairs]
        return torch.stack(losses).mean(dim=0)

    @property
    def citation(self) -> str:
        """BibTeX of the loss's paper."""
        return str(self.loss.citation)


__all__ = ["FeatureChunksLoss"]
