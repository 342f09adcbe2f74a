"""How far predictions go from what a mixed model expects to what a network says."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from transformers.utils import logging

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.state_transition import StateTransitionForPerturbation
from state_hf.training.mixed_effects import mixed_effects_tables
from state_hf.training.screen_means import ContextId, ScreenMeans
from state_hf.training.set_effects import sum_effects

logger = logging.get_logger(__name__)

_Group: TypeAlias = tuple[ContextId, int]
"""Context and perturbation id."""

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


def expected_profiles(
    model: StateTransitionForPerturbation, means: ScreenMeans
) -> dict[_Group, tuple[np.ndarray, np.ndarray]]:
    """What the mixed model of a model expects of the perturbations and contexts of a part of a screen.

    Args:
        model: A trained model with a mixed model.
        means: Means of the part, whose control cells are the ones that are predicted from.

    Returns:
        By context and perturbation id, (genes,) each: the level of the control cells, and the mean perturbed cell.

    Raises:
        ValueError: The model has no mixed model.
    """
    if model.mixed_effects is None:
        raise ValueError("The model has no mixed model: fit one first (attach_mixed_effects).")
    found = {}
    for context, perturbation in means.perturbed:
        expected = model.mixed_effects.profiles(
            torch.tensor([[-1], [perturbation]]), context[1], means.controls[context], means.control_cells[context]
        )
        found[context, perturbation] = (expected[0], expected[1])
    return found


def predicted_profiles(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, means: ScreenMeans, *, batch_size: int = 8
) -> dict[_Group, np.ndarray]:
    """Mean cells, (genes,), that `predict` gives a model's tilted cells, but for the draw of control cells.

    Args:
        model: A trained model with a mixed model.
        dataset: Sets of a part.
        means: Means of that part.
        batch_size: Sets that go through the model together, where its network counts.

    Raises:
        ValueError: The model has no mixed model.
    """
    scale, expected = model.config.effect_scale, expected_profiles(model, means)
    if scale == 0:
        return {group: np.maximum(profile, 0) for group, (_, profile) in expected.items()}
    said = _network_effects(model, dataset, batch_size)
    return {
        group: np.maximum(profile + scale * (level + said[group] - profile), 0)
        for group, (level, profile) in expected.items()
    }


def _network_effects(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, batch_size: int
) -> dict[_Group, np.ndarray]:
    """(genes,) change of the mean cell that the network predicts, by context and perturbation id."""
    total: dict[_Group, np.ndarray] = {}
    cells: dict[_Group, int] = {}
    # A dataset may be of several files.
    for ((screen, cell_type), perturbation), sums in sum_effects(model, dataset, batch_size).items():
        group = ((dataset.screens.screens[screen].dataset, cell_type), perturbation)
        total[group] = total.get(group, 0) + sums.effect
        cells[group] = cells.get(group, 0) + sums.cells
    return {group: effect / cells[group] for group, effect in total.items()}


def attach_mixed_effects(
    model: StateTransitionForPerturbation, means: ScreenMeans, perturbation_features: np.ndarray | None = None
) -> None:
    """Give a model the mixed model of its training cells: predicted profiles are its own until a scale is fitted.

    Args:
        model: The model, changed in place: `effect_scale` is 0.
        means: Means of the training cells, of what the model predicts.
        perturbation_features: (perturbations, features) in the vocabulary's order, if there are any.
    """
    tables = mixed_effects_tables(means, model.vocabulary, perturbation_features).to(device=model.device)
    model.mixed_effects = tables
    model.config.mixed_effects_supports = 0 if tables.by_features is None else len(tables.by_features.support)
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
    expected, said = expected_profiles(model, means), _network_effects(model, dataset, batch_size)
    if not said:
        raise ValueError("There are no perturbed cells to observe effects in.")
    products, squares = np.zeros(len(said)), np.zeros(len(said))
    for number, (group, effect) in enumerate(said.items()):
        level, profile = expected[group]
        beyond = level + effect - profile
        products[number] = beyond @ (means.perturbed[group] - profile)
        squares[number] = beyond @ beyond
    groups = len(said)
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


__all__ = ["EffectScale", "attach_mixed_effects", "expected_profiles", "fit_effect_scale", "predicted_profiles"]
