"""Losses between predicted and real cells, one a file."""

from typing import Any

from torch import nn

from state_hf.modeling.losses.energy_distance import EnergyDistanceLoss
from state_hf.modeling.losses.energy_sinkhorn import EnergySinkhornLoss
from state_hf.modeling.losses.feature_chunks import FeatureChunksLoss
from state_hf.modeling.losses.mmd import GaussianMMDLoss, MultiKernelMMDLoss
from state_hf.modeling.losses.mse import MeanSquaredErrorLoss
from state_hf.modeling.losses.negative_binomial import NegativeBinomialLoss
from state_hf.modeling.losses.sinkhorn_divergence import SinkhornDivergenceLoss
from state_hf.modeling.losses.tabular import TabularLoss

SET_LOSSES: dict[str, type[nn.Module]] = {
    "energy": EnergyDistanceLoss,
    "sinkhorn": SinkhornDivergenceLoss,
    "energy_sinkhorn": EnergySinkhornLoss,
    "gaussian_mmd": GaussianMMDLoss,
    "multi_kernel_mmd": MultiKernelMMDLoss,
    "mse": MeanSquaredErrorLoss,
}


def make_set_loss(name: str, *, chunks: int = 1, shuffle_chunks: bool = False, **kwargs: Any) -> nn.Module:
    """A loss between sets of cells, by name.

    Args:
        name: One of the keys of `SET_LOSSES`.
        chunks: Chunks of features, over which the loss is averaged; 1 for none.
        shuffle_chunks: Whether features are dealt to the chunks at random, anew each time.
        **kwargs: Arguments of the loss.

    Returns:
        A module from (predicted, target, predicted_mask, target_mask) to a loss for each set, (sets,).

    Raises:
        ValueError: If there is no such loss.
    """
    if name not in SET_LOSSES:
        raise ValueError(f"There is no loss {name!r}. There are {', '.join(map(repr, SET_LOSSES))}.")
    loss = SET_LOSSES[name](**kwargs)
    return loss if chunks == 1 else FeatureChunksLoss(loss, chunks, shuffle=shuffle_chunks)


__all__ = [
    "SET_LOSSES",
    "EnergyDistanceLoss",
    "EnergySinkhornLoss",
    "FeatureChunksLoss",
    "GaussianMMDLoss",
    "MeanSquaredErrorLoss",
    "MultiKernelMMDLoss",
    "NegativeBinomialLoss",
    "SinkhornDivergenceLoss",
    "TabularLoss",
    "make_set_loss",
]
