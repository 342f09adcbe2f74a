"""Fits the baselines of a perturbation screen: seconds, and the numbers that a trained model has to beat."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from state_hf.configuration.perturbation_baseline import BaselineMethod, PerturbationBaselineConfig
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.wording import listed
from state_hf.modeling.perturbation_baseline import PerturbationBaseline
from state_hf.training.bilinear_effects import fit_bilinear
from state_hf.training.feature_neighbours import nearest_effects
from state_hf.training.kernel_ridge import fit_kernel_ridge
from state_hf.training.mean_effects import context_profiles, mean_effect, perturbation_effects, treated_levels
from state_hf.training.mixed_effects import mixed_effects_tables
from state_hf.training.perturbation_ridge import ridge_coefficients
from state_hf.training.screen_effects import ScreenEffects
from state_hf.training.screen_means import ScreenMeans
from state_hf.training.treated_effects import TreatedEffects

_Parts: TypeAlias = Mapping[str, Any]
"""Parameters, as arrays, and modules of a `PerturbationBaseline` by name."""


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What a method is fitted to."""

    means: ScreenMeans
    screen: ScreenEffects
    vocabulary: PerturbationVocabulary
    features: np.ndarray | None
    ridge_penalty: float

    @property
    def size(self) -> int:
        """Number of perturbations."""
        return len(self.vocabulary.perturbations)

    @property
    def known_features(self) -> np.ndarray:
        """The features, where there have to be some."""
        if self.features is None:
            raise ValueError(f"{listed(_OF_FEATURES)} needs perturbation_features.")
        return self.features

    @functools.cached_property
    def perturbation_effects(self) -> np.ndarray:
        """(perturbations, features), see `perturbation_effects`, which logs whom it says nothing of."""
        return perturbation_effects(self.screen, self.vocabulary)


def _perturbation_ridge(data: _Fitted) -> _Parts:
    features = np.eye(data.size) if data.features is None else data.features
    return {
        "perturbation_table": features,
        "coefficients": ridge_coefficients(data.screen, features, data.ridge_penalty),
    }


def _treated(effects: TreatedEffects) -> _Parts:
    parts = {
        "shifts": effects.effects,
        "common": effects.common,
        "share": np.array(effects.share),
        "by_features": effects.by_features,
        "by_level": effects.by_level,
    }
    return {name: part for name, part in parts.items() if part is not None}


# Parameters and modules of `PerturbationBaseline` by name.
_METHODS: dict[BaselineMethod, Callable[[_Fitted], _Parts]] = {
    "control_copy": lambda data: {},
    "context_mean": lambda data: {"shifts": mean_effect(data.screen, data.size)},
    "perturbation_mean": lambda data: {"shifts": data.perturbation_effects},
    "perturbation_profile": lambda data: {"shifts": data.perturbation_effects},
    "perturbation_ridge": _perturbation_ridge,
    "treated_mean": lambda data: _treated(treated_levels(data.screen, data.size)),
    "context_profile": lambda data: {"profiles": context_profiles(data.means, len(data.vocabulary.cell_types))},
    "nearest_perturbation": lambda data: _treated(nearest_effects(data.screen, data.size, data.known_features)),
    "bilinear": lambda data: _treated(fit_bilinear(data.screen, data.vocabulary, data.features)),
    "kernel_ridge": lambda data: _treated(fit_kernel_ridge(data.screen, data.size, data.features)),
    "mixed_effects": lambda data: {
        "mixed_effects": mixed_effects_tables(data.means, data.vocabulary, data.features)
    },
}  # fmt: skip
_OF_FEATURES: tuple[BaselineMethod, ...] = ("nearest_perturbation",)


def fit_baselines(
    means: ScreenMeans,
    vocabulary: PerturbationVocabulary,
    *,
    feature_key: str = "X",
    feature_scale: Literal["counts", "log1p", "embedding"] = "log1p",
    target_sum: float | None = None,
    cell_set_length: int = 512,
    perturbation_features: np.ndarray | None = None,
    ridge_penalty: float = 1.0,
    methods: Sequence[BaselineMethod] | None = None,
) -> dict[BaselineMethod, PerturbationBaseline]:
    """Fit the baselines.

    All means are over (context, perturbation) pairs with the same weight each, however many cells they have. A
    perturbation without training cells gets the mean effect of all perturbations, which is logged; methods that read
    features predict it from these.

    Args:
        means: Means of the training cells, from `screen_means`.
        vocabulary: Perturbations, cell types and genes in the order of the screens' ids.
        feature_key: Where the features come from in an AnnData, as in `StateTransitionConfig`.
        feature_scale: "log1p", "counts" or "embedding".
        target_sum: Counts per cell that they were normalised to, if known.
        cell_set_length: Cells that are predicted together.
        perturbation_features: (perturbations, features) in the vocabulary's order, if there are any.
        ridge_penalty: Penalty on the squared coefficients of "perturbation_ridge", above 0.
        methods: Which to fit. By default all that there is what they need.

    Returns:
        Fitted models by method.

    Raises:
        ValueError: No perturbation has training cells and controls, or the features do not fit the vocabulary, or a
            method needs them.
    """
    screen = ScreenEffects.of(means)
    num_perturbations, width = len(vocabulary.perturbations), screen.treated.shape[1]
    if perturbation_features is not None and len(perturbation_features) != num_perturbations:
        raise ValueError(
            f"perturbation_features have {len(perturbation_features)} rows for {num_perturbations} perturbations."
        )
    if ridge_penalty <= 0:
        raise ValueError(f"ridge_penalty must be above 0, and is {ridge_penalty}.")
    if methods is None:
        methods = [name for name in _METHODS if perturbation_features is not None or name not in _OF_FEATURES]
    data = _Fitted(means, screen, vocabulary, perturbation_features, ridge_penalty)
    fitted: dict[BaselineMethod, PerturbationBaseline] = {}
    for method in methods:
        parts = _METHODS[method](data)
        config = PerturbationBaselineConfig(
            method=method,
            input_dim=width,
            num_perturbations=num_perturbations,
            num_cell_types=len(vocabulary.cell_types),
            feature_key=feature_key,
            feature_scale=feature_scale,
            target_sum=target_sum,
            cell_set_length=cell_set_length,
            **_sizes(parts),
        )
        model = PerturbationBaseline(config).eval()
        model.vocabulary = vocabulary
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(model, name, part.float())
            else:
                getattr(model, name).data.copy_(torch.from_numpy(part))
        fitted[method] = model
    return fitted


def _sizes(parts: _Parts) -> dict[str, Any]:
    """Fields of the configuration."""
    sizes = {}
    if "coefficients" in parts:
        sizes["perturbation_dim"] = parts["perturbation_table"].shape[1]
    by_features = parts.get("by_features", getattr(parts.get("mixed_effects"), "by_features", None))
    if by_features is not None:
        sizes["num_supports"], sizes["perturbation_dim"] = by_features.support.shape
    if "by_level" in parts:
        sizes["num_levels"] = len(parts["by_level"].support)
    return sizes


__all__ = ["fit_baselines"]
