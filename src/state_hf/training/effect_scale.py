"""How far predictions go from what a mixed model expects to what networks say, and how sure they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from transformers.utils import logging

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.layers.mixed_effects_tables import NORMAL_95, MixedEffectsTables
from state_hf.modeling.layers.network_effects import NetworkEffects
from state_hf.modeling.state_transition import StateTransitionForPerturbation
from state_hf.training.mixed_effects import mixed_effects_tables
from state_hf.training.predicted_profiles import (
    Group,
    MeanCell,
    expected_profiles,
    network_views,
    profiles_with_networks,
)
from state_hf.training.screen_means import ScreenMeans

logger = logging.get_logger(__name__)

# Fewer do not tell how much one of them matters.
_LEAST_GROUPS = 3
# Of two slopes, what differs by less from the same number cannot be told apart.
_SINGULAR = 1e-9
# Logarithm of the largest factor on standard errors.
_LARGEST_FACTOR = 3.0


@dataclass(frozen=True)
class Slope:
    """Slope of what held-out cells show beyond the mixed model on what networks say beyond it.

    Attributes:
        value: The slope.
        standard_error: By the jackknife over perturbations and contexts; NaN for fewer than three.
        scale: What is used of it, 0 to 1.
    """

    value: float
    standard_error: float
    scale: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.standard_error:.2f}"


@dataclass(frozen=True)
class EffectScale:
    """What held-out cells say of networks' effects, and of the errors that are stated.

    Attributes:
        effect: Slope on the networks' effects, averaged over the training contexts.
        interaction: Slope on what a network says of the context at hand beyond that; None where one context trained.
        groups: Number of held-out perturbations and contexts.
        networks: Number of networks.
        error_scale: Factor on the mixed model's standard errors that makes the held-out cells most likely.
        coverage: Part of the held-out mean values within the 95 % intervals.
    """

    effect: Slope
    interaction: Slope | None
    groups: int
    networks: int
    error_scale: float
    coverage: float

    def __str__(self) -> str:
        who = "the network says" if self.networks == 1 else f"{self.networks} networks say on average"
        told = f"of what {who} beyond the mixed model, {self.groups} held-out groups show {self.effect}"
        if self.interaction is not None:
            told += f", and of what it says of a context alone {self.interaction}"
        if self.effect.scale == 0 and (self.interaction is None or self.interaction.scale == 0):
            told += ": it adds nothing that can be seen, and predictions are the mixed model's"
        else:
            told += f": predictions go {self.effect.scale:.2f} of the way from the mixed model to the network"
            if self.interaction is not None and self.interaction.scale > 0:
                told += f", with {self.interaction.scale:.2f} of the context's part"
        return (
            f"{told}\n95 % intervals, of {self.error_scale:.2f} times its standard errors, hold {self.coverage:.1%} of "
            "the held-out means"
        )


@torch.no_grad()
def attach_mixed_effects(
    model: StateTransitionForPerturbation,
    means: ScreenMeans,
    effects: Sequence[dict[int, np.ndarray]] = (),
    perturbation_features: np.ndarray | None = None,
) -> None:
    """Give a model the mixed model of its training cells: predicted profiles are its own until a scale is fitted.

    Args:
        model: The model, changed in place: its scales are 0, and the errors that it states those of the mixed model.
        means: Means of the training cells, of what the model predicts.
        effects: `average_effects` of every network that counts, the model's own among them. Without any, its effects in
            the context at hand count.
        perturbation_features: (perturbations, features) in the vocabulary's order, if there are any.
    """
    config, perturbations = model.config, len(model.vocabulary.perturbations)
    config.effect_scale, config.error_scale = 0.0, 1.0
    config.interaction_scale = 0.0 if effects and len({context for context, _ in means.perturbed}) > 1 else None
    refit_mixed_effects(model, means, perturbation_features)
    model.network_effects, config.num_networks = None, len(effects)
    if effects:
        tables = NetworkEffects(perturbations, next(iter(effects[0].values())).shape[0])
        for perturbation in effects[0]:
            said = np.stack([network[perturbation] for network in effects])
            tables.effects[perturbation] = torch.from_numpy(said.mean(axis=0))
            if len(effects) > 1:
                tables.spread[perturbation] = torch.from_numpy(said.std(axis=0, ddof=1))
            tables.known[perturbation] = 1
        model.network_effects = tables.to(device=model.device)


def refit_mixed_effects(
    model: StateTransitionForPerturbation, means: ScreenMeans, perturbation_features: np.ndarray | None = None
) -> None:
    """Give a model the mixed model of other cells, as when those that validated it train in the end; scales stay.

    Args:
        model: The model, changed in place.
        means: Means of the cells.
        perturbation_features: (perturbations, features) in the vocabulary's order, if there are any.
    """
    tables = mixed_effects_tables(means, model.vocabulary, perturbation_features, variances=True)
    model.mixed_effects = tables.to(device=model.device)
    model.config.mixed_effects_supports = 0 if tables.by_features is None else len(tables.by_features.support)
    model.config.mixed_effects_cell_types = len(model.vocabulary.cell_types)


def fit_effect_scale(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, means: ScreenMeans, *, batch_size: int = 8
) -> EffectScale:
    """Set the scales of a model to what held-out cells show of what its networks say beyond the mixed model.

    A network that invents an interaction is worse than no network. What the networks say of a perturbation on average
    over the training contexts has a scale, `effect_scale`, and what the model's own says of the context at hand beyond
    that another, `interaction_scale`. They are the slopes of observed on predicted differences from the mixed model, by
    least squares over held-out perturbations, contexts and genes (the calibration slope; J. C. van Houwelingen, S. le
    Cessie, Statistics in Medicine 9, 1303, 1990). What is used is one standard error less, within 0 and 1: where the
    groups do not show it, the network is left out, and so it is where there are fewer than three of them. One training
    context says nothing of interactions, which are left out then.

    The standard errors that the mixed model states are multiplied by `error_scale`, with which the held-out means are
    most likely, as normal around the predicted ones; their own sampling noise is taken into account.

    Args:
        model: A trained model with a mixed model; its configuration is changed.
        dataset: Sets that it did not train on.
        means: Means of their part.
        batch_size: Sets that go through the model together.

    Raises:
        ValueError: The dataset has no perturbed cells, or the model no mixed model.
    """
    config, expected = model.config, expected_profiles(model, means)
    said = network_views(model, dataset, batch_size=batch_size)
    if not said:
        raise ValueError("There are no perturbed cells to observe effects in.")
    squares, products = np.zeros((len(said), 2, 2)), np.zeros((len(said), 2))
    for number, (group, network) in enumerate(said.items()):
        profile = expected[group]
        beyond = np.stack([profile.level + network.average - profile.mean, network.interaction])
        squares[number], products[number] = beyond @ beyond.T, beyond @ (means.perturbed[group] - profile.mean)
    used = [0] if config.interaction_scale is None or not squares[:, 1, 1].any() else [0, 1]
    slopes = _slopes(squares[:, used][:, :, used], products[:, used])
    config.effect_scale = slopes[0].scale
    interaction = slopes[1] if len(slopes) > 1 else None
    if interaction is not None:
        config.interaction_scale = interaction.scale
    config.error_scale = 1.0
    config.error_scale, coverage = _calibrate(profiles_with_networks(config, expected, said), model, means)
    networks = max(config.num_networks, 1)
    found = EffectScale(slopes[0], interaction, len(said), networks, config.error_scale, coverage)
    logger.info(str(found))
    return found


def _slopes(squares: np.ndarray, products: np.ndarray) -> list[Slope]:
    """Least squares from the sums of groups, (groups, slopes, slopes) and (groups, slopes)."""
    groups = len(products)
    slopes = _solve(squares.sum(axis=0), products.sum(axis=0))
    errors, scales = np.full(len(slopes), np.nan), np.zeros(len(slopes))
    if groups >= _LEAST_GROUPS:
        without = np.stack(
            [_solve(squares.sum(axis=0) - one, products.sum(axis=0) - other)
             for one, other in zip(squares, products, strict=True)]
        )  # fmt: skip
        errors = np.sqrt((groups - 1) / groups * np.square(without - without.mean(axis=0)).sum(axis=0))
        scales = np.clip(slopes - errors, 0, 1)
    numbers = zip(slopes.tolist(), errors.tolist(), scales.tolist(), strict=True)
    return [Slope(value, error, round(scale, 6)) for value, error, scale in numbers]


def _solve(squares: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Least squares; 0 for what nothing is said of."""
    return np.asarray(np.linalg.lstsq(squares, products, rcond=_SINGULAR)[0])


def _calibrate(
    predicted: dict[Group, MeanCell], model: StateTransitionForPerturbation, means: ScreenMeans
) -> tuple[float, float]:
    """Factor on stated standard errors that makes observed means most likely, and the part that 95 % intervals hold."""
    noise: np.ndarray = np.asarray(cast(MixedEffectsTables, model.mixed_effects).noise.detach().double().cpu())
    errors, stated, sampled = [], [], []
    for (context, perturbation), profile in predicted.items():
        errors.append(means.perturbed[context, perturbation] - profile.mean)
        stated.append(profile.variance)
        sampled.append(noise[context[1]] / means.cells[context, perturbation])
    squares, variance, sampling = np.square(errors).ravel(), np.ravel(stated), np.ravel(sampled)
    # Of a feature that is the same everywhere there is nothing to be sure of.
    there = (variance > 0) & (sampling > 0)
    squares, variance, sampling = squares[there], variance[there], sampling[there]
    if not there.any():
        return 1.0, float("nan")

    def unlikely(exponent: float) -> float:
        total = np.exp(2 * exponent) * variance + sampling
        return float((np.log(total) + squares / total).mean())

    found = minimize_scalar(unlikely, bounds=(-_LARGEST_FACTOR, _LARGEST_FACTOR), method="bounded")
    factor = round(float(np.exp(found.x)), 6)
    if len(predicted) < _LEAST_GROUPS:
        factor = max(factor, 1.0)
    within = squares <= NORMAL_95**2 * (factor**2 * variance + sampling)
    return factor, float(within.mean())


__all__ = ["EffectScale", "Slope", "attach_mixed_effects", "fit_effect_scale"]
