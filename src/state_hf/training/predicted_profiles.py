"""The mean cells that a mixed model, and networks beyond it, predict of a part of a screen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.state_transition import StateTransitionForPerturbation
from state_hf.training.screen_means import ContextId, ScreenMeans
from state_hf.training.set_effects import sum_effects

Group: TypeAlias = tuple[ContextId, int]
"""Context and perturbation id."""


@dataclass(frozen=True, eq=False)
class MeanCell:
    """A predicted mean cell.

    Attributes:
        level: (genes,) mean control cell.
        mean: (genes,) mean perturbed cell.
        variance: (genes,) of the true one around it.
    """

    level: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def expected_profiles(model: StateTransitionForPerturbation, means: ScreenMeans) -> dict[Group, MeanCell]:
    """What the mixed model of a model expects of the perturbations and contexts of a part of a screen.

    Args:
        model: A trained model with a mixed model.
        means: Means of the part, whose control cells are the ones that are predicted from.

    Raises:
        ValueError: The model has no mixed model.
    """
    if model.mixed_effects is None:
        raise ValueError("The model has no mixed model: fit one first (attach_mixed_effects).")
    found = {}
    for context, perturbation in means.perturbed:
        ids, cells = torch.tensor([[-1], [perturbation]]), means.control_cells[context]
        level, mean = model.mixed_effects.profiles(ids, context[1], means.controls[context], cells)
        variance = model.mixed_effects.profile_variances(ids[1:], context[1], cells)[0]
        found[context, perturbation] = MeanCell(level, mean, variance)
    return found


def predicted_profiles(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, means: ScreenMeans, *, batch_size: int = 8
) -> dict[Group, MeanCell]:
    """Mean cells that `predict` gives a model's tilted cells, but for the draw of control cells.

    Args:
        model: A trained model with a mixed model.
        dataset: Sets of a part.
        means: Means of that part.
        batch_size: Sets that go through the model together, where its network counts.

    Raises:
        ValueError: The model has no mixed model.
    """
    config, expected, said = model.config, expected_profiles(model, means), {}
    if config.effect_scale > 0 or config.interaction_scale:
        said = network_views(model, dataset, batch_size=batch_size)
    return profiles_with_networks(config, expected, said)


def profiles_with_networks(
    config: StateTransitionConfig, expected: Mapping[Group, MeanCell], said: Mapping[Group, "NetworkView"]
) -> dict[Group, MeanCell]:
    """Mean cells of what a mixed model expects and networks say, by the scales of a configuration.

    Args:
        config: Its scales.
        expected: What the mixed model expects.
        said: What the networks say; a group without is as the mixed model expects.
    """
    found = {}
    for group, profile in expected.items():
        mean, variance = profile.mean, (config.error_scale or 0.0) ** 2 * profile.variance
        if group in said:
            mean = mean + config.effect_scale * (profile.level + said[group].average - mean)
            mean = mean + (config.interaction_scale or 0.0) * said[group].interaction
            variance = variance + config.effect_scale**2 * said[group].variance
        found[group] = MeanCell(profile.level, np.maximum(mean, 0), variance)
    return found


@dataclass(frozen=True, eq=False)
class NetworkView:
    """What networks say of a perturbation in a context.

    Attributes:
        average: (genes,) effect, on average over training contexts and networks; of a perturbation that did not train,
            the effect in this context.
        variance: (genes,) of it among the networks.
        interaction: (genes,) how the model's own network differs from it in this context.
    """

    average: np.ndarray
    variance: np.ndarray
    interaction: np.ndarray


def network_views(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, *, batch_size: int = 8
) -> dict[Group, NetworkView]:
    """What a model's networks say of the perturbations and contexts of a dataset.

    Args:
        model: A trained model.
        dataset: Sets of cells.
        batch_size: Sets that go through the model together.
    """
    found = {}
    for (context, perturbation), effect in network_effects(model, dataset, batch_size=batch_size).items():
        tables = model.network_effects
        known = None if tables is None else tables(torch.tensor([perturbation]))
        if known is None:
            found[context, perturbation] = NetworkView(effect, np.zeros_like(effect), np.zeros_like(effect))
        else:
            average, variance = (np.asarray(table.double().cpu()) for table in known)
            found[context, perturbation] = NetworkView(average, variance, effect - average)
    return found


def network_effects(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, *, batch_size: int = 8
) -> dict[Group, np.ndarray]:
    """(genes,) change of the mean cell that a network predicts, by context and perturbation id.

    Args:
        model: A trained model.
        dataset: Sets of cells.
        batch_size: Sets that go through the model together.
    """
    total: dict[Group, np.ndarray] = {}
    cells: dict[Group, int] = {}
    # A dataset may be of several files.
    for ((screen, cell_type), perturbation), sums in sum_effects(model, dataset, batch_size).items():
        group = ((dataset.screens.screens[screen].dataset, cell_type), perturbation)
        total[group] = total.get(group, 0) + sums.effect
        cells[group] = cells.get(group, 0) + sums.cells
    return {group: effect / cells[group] for group, effect in total.items()}


def average_effects(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, *, batch_size: int = 8
) -> dict[int, np.ndarray]:
    """(genes,) effect that a network predicts of a perturbation, on average over the contexts that it trained in.

    Args:
        model: A trained model.
        dataset: Its training sets.
        batch_size: Sets that go through the model together.
    """
    found: dict[int, list[np.ndarray]] = {}
    for (_, perturbation), effect in network_effects(model, dataset, batch_size=batch_size).items():
        found.setdefault(perturbation, []).append(effect)
    return {perturbation: np.mean(effects, axis=0) for perturbation, effects in found.items()}


__all__ = [
    "Group",
    "MeanCell",
    "NetworkView",
    "average_effects",
    "expected_profiles",
    "network_effects",
    "network_views",
    "predicted_profiles",
    "profiles_with_networks",
]
