"""How far predictions go from what a mixed model expects to what a network says."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers.utils import logging

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.state_transition import StateTransitionForPerturbation
from state_hf.training.mixed_effects import mixed_effects_tables
from state_hf.training.screen_means import ContextId, ScreenMeans
from state_hf.training.set_effects import sum_effects

logger = logging.get_logger(__name__)

# Fewer do not tell how much one of them matters.
_LEAST_GROUPS = 3


@dataclass(frozen=True)
class EffectScale:
    """What held-out cells say of a network's effects.

    Attributes:
        slope: Of what they show beyond the mixed model on what the network says beyond it.
        standard_error: Of the slope, by the jackknife over perturbations and contexts; NaN for fewer than three.
        groups: Number of these.
        scale: The scale that is used, 0 to 1.
    """

    slope: float
    standard_error: float
    groups: int
    scale: float

    def __str__(self) -> str:
        found = f"of what the network says beyond the mixed model, {self.groups} held-out groups show "
        found += f"{self.slope:.2f} ± {self.standard_error:.2f}: "
        if self.scale == 0:
            return found + "it adds nothing that can be seen, and predictions are the mixed model's"
        return found + f"predictions go {self.scale:.2f} of the way from the mixed model to the network"


@torch.no_grad()
def emitted_profiles(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, means: ScreenMeans, *, batch_size: int = 8
) -> dict[tuple[ContextId, int], tuple[np.ndarray, np.ndarray]]:
    """What the mixed model expects of the perturbations of a dataset, and what the network says of them.

    Args:
        model: A trained model with a mixed model.
        dataset: Sets of the perturbations.
        means: Means of their part, whose control cells are the ones that are predicted from.
        batch_size: Sets that go through the model together.

    Returns:
        By context and perturbation id two mean cells, (genes,): the expected one, and the expected level of the
        controls plus the network's effect.

    Raises:
        ValueError: The model has no mixed model.
    """
    tables = model.mixed_effects
    if tables is None:
        raise ValueError("The model has no mixed model: fit one first (attach_mixed_effects).")
    found = {}
    for ((screen, cell_type), perturbation), group in sum_effects(model, dataset, batch_size).items():
        context = (dataset.screens.screens[screen].dataset, cell_type)
        ids = model.acting_ids(torch.tensor([perturbation, dataset.screens.control_id], device=model.device))
        level, expected = (
            tables(
                ids,
                torch.full((2,), cell_type, device=model.device),
                torch.from_numpy(means.controls[context]).to(tables.level).expand(2, -1),
                torch.full((2,), means.controls_of(context), device=model.device),
            )
            .double()
            .cpu()
            .numpy()[::-1]
        )
        found[context, perturbation] = (expected, level + group.effect / group.cells)
    return found


def attach_mixed_effects(model: StateTransitionForPerturbation, means: ScreenMeans) -> None:
    """Give a model the mixed model of its training cells: predicted profiles are its own until a scale is fitted.

    Args:
        model: The model, changed in place: `effect_scale` is 0.
        means: Means of the training cells, of what the model predicts.
    """
    model.mixed_effects = mixed_effects_tables(means, model.vocabulary).to(device=model.device)
    model.config.mixed_effects_cell_types = len(model.vocabulary.cell_types)
    model.config.effect_scale = 0.0


def fit_effect_scale(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, means: ScreenMeans, *, batch_size: int = 8
) -> EffectScale:
    """Set `config.effect_scale` to the part of what a network says beyond the mixed model that held-out cells show.

    A network that invents an interaction is worse than no network. The part is the slope of the line through 0 that
    fits observed minus expected to predicted minus expected mean cells, over held-out perturbations, contexts and genes
    (the calibration slope; J. C. van Houwelingen, S. le Cessie, Statistics in Medicine 9, 1303, 1990). What is used is
    one standard error less, within 0 and 1: where the groups do not show it, the network is left out, and so it is
    where there are fewer than three of them.

    Args:
        model: A trained model with a mixed model; its configuration is changed.
        dataset: Sets that it did not train on.
        means: Means of their part.
        batch_size: Sets that go through the model together.

    Raises:
        ValueError: The dataset has no perturbed cells, or the model no mixed model.
    """
    profiles = emitted_profiles(model, dataset, means, batch_size=batch_size)
    if not profiles:
        raise ValueError("There are no perturbed cells to observe effects in.")
    products = np.array(
        [(network - expected) @ (means.perturbed[group] - expected) for group, (expected, network) in profiles.items()]
    )
    squares = np.array([np.square(network - expected).sum() for expected, network in profiles.values()])
    groups = len(profiles)
    slope = products.sum() / squares.sum() if squares.sum() > 0 else 0.0
    error, scale = float("nan"), 0.0
    if groups >= _LEAST_GROUPS and (squares.sum() - squares > 0).all():
        without = (products.sum() - products) / (squares.sum() - squares)
        error = float(np.sqrt((groups - 1) / groups * np.square(without - without.mean()).sum()))
        scale = min(max(slope - error, 0.0), 1.0)
    model.config.effect_scale = round(float(scale), 6)
    found = EffectScale(float(slope), error, groups, model.config.effect_scale)
    logger.info(str(found))
    return found


__all__ = ["EffectScale", "attach_mixed_effects", "emitted_profiles", "fit_effect_scale"]
