"""How much of the effects that a model predicts is seen in cells that it did not train on."""

import numpy as np
from transformers.utils import logging

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.state_transition import StateTransitionForPerturbation
from state_hf.training.set_effects import sum_effects

logger = logging.get_logger(__name__)

# |observed - predicted|^2 > |observed|^2 where the slope is smaller.
_WORSE_THAN_NONE = 0.5


def fit_effect_scale(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, *, batch_size: int = 8
) -> float:
    """Set `config.effect_scale` to the part of the predicted effects that held-out cells show, if it is below a half.

    An effect that a context does not share is worse than none. The part is the slope of the line through 0 that fits
    observed to predicted effects, sum(predicted x observed) / sum(predicted^2) over held-out perturbations, contexts
    and features, and at least 0 (the calibration slope; J. C. van Houwelingen, S. le Cessie, Statistics in Medicine 9,
    1303, 1990). Observed is the mean perturbed cell minus the mean control cell. Below a half, the whole effects have a
    larger squared error than no effect. From there on the scale is 1: smaller effects would have smaller errors still,
    but perturbations are told apart, and genes called, by their size.

    Args:
        model: The trained model, whose configuration is changed.
        dataset: Sets that it did not train on.
        batch_size: Sets that go through the model together.

    Returns:
        The scale.

    Raises:
        ValueError: The dataset has no perturbed cells, or predicts another slot than it starts from.
    """
    if dataset.slots["target"] != dataset.slots["control"]:
        raise ValueError("Effects are observed where perturbed and control cells are of the same slot.")
    groups = sum_effects(model, dataset, batch_size).values()
    if not groups:
        raise ValueError("There are no perturbed cells to observe effects in.")
    predicted = np.stack([group.effect / group.cells for group in groups])
    observed = np.stack([group.total / group.cells - group.control / group.controls for group in groups])
    squares = np.square(predicted).sum()
    slope = (predicted * observed).sum() / squares if squares > 0 else 0.0
    model.config.effect_scale = round(max(float(slope), 0.0), 6) if slope < _WORSE_THAN_NONE else 1.0
    log = logger.warning if model.config.effect_scale < 1 else logger.info
    log(
        f"held-out cells show {slope:.2f} of the effects that the model predicts of {len(groups)} groups, which are "
        f"multiplied by {model.config.effect_scale:g}"
    )
    return model.config.effect_scale


__all__ = ["fit_effect_scale"]
