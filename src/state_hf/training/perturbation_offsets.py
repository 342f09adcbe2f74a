"""Effects that a screen shows clearly and a trained model does not predict."""

import numpy as np
import torch
from transformers.utils import logging

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.state_transition import StateTransitionForPerturbation
from state_hf.training.set_effects import sum_effects

logger = logging.get_logger(__name__)


@torch.no_grad()
def fit_perturbation_offsets(
    model: StateTransitionForPerturbation,
    dataset: PerturbationDataset,
    *,
    standard_errors: float = 2.0,
    batch_size: int = 8,
) -> int:
    """Set the offsets of a trained model to the effects in its training cells that it misses.

    A model that learns from few steps or few cells shrinks effects, strong ones of a single gene (such as that of the
    target itself) the most. In every context, the residual of a perturbation is its mean training cell minus the
    model's effect, centred over the perturbations of the context, so that neither the context's level nor an effect
    that all perturbations have is in it. Of the mean over contexts, what is more than `standard_errors` away from 0
    becomes the offset, and the rest is left to the model (hard thresholding; D. Donoho, I. Johnstone, Biometrika 81,
    425, 1994). The standard error is that of the mean of so many cells, with the gene's variance within perturbations.

    Args:
        model: The trained model, changed in place. Its configuration has `use_perturbation_offsets`.
        dataset: The training sets.
        standard_errors: Smallest residual that is kept.
        batch_size: Sets that go through the model together.

    Returns:
        Number of offsets that are not 0.

    Raises:
        ValueError: The model has no offsets, or its vocabulary no control.
    """
    offsets = model.state_transition.perturbation_offsets
    if offsets is None:
        raise ValueError("The model has no offsets to set: configure it with use_perturbation_offsets=True.")
    offsets.zero_()
    groups = sum_effects(model, dataset, batch_size)
    residuals: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for context in {context for context, _ in groups}:
        members = {perturbation: group for (other, perturbation), group in groups.items() if other == context}
        freedom = sum(group.cells - 1 for group in members.values())
        if len(members) < 2 or freedom < 1:
            continue
        variance = np.sum([group.deviations() for group in members.values()], axis=0) / freedom
        common = np.mean([group.residual() for group in members.values()], axis=0)
        for perturbation, group in members.items():
            residuals.setdefault(perturbation, []).append((group.residual() - common, variance / group.cells))
    for perturbation, found in residuals.items():
        mean = np.mean([residual for residual, _ in found], axis=0)
        error = np.sqrt(np.clip(np.sum([variance for _, variance in found], axis=0), 0, None)) / len(found)
        kept = np.where(np.abs(mean) > standard_errors * error, mean, 0.0)
        offsets[perturbation] = torch.from_numpy(kept).to(offsets)
    number = int(torch.count_nonzero(offsets))
    logger.info(f"{number} effects of {len(residuals)} perturbations are added to what the model predicts")
    return number


__all__ = ["fit_perturbation_offsets"]
