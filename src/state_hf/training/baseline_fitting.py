"""Fits the baselines of a perturbation screen: seconds, and the numbers that a trained model has to beat."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from transformers.utils import logging

from state_hf.configuration.perturbation_baseline import BaselineMethod, PerturbationBaselineConfig
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.modeling.perturbation_baseline import PerturbationBaseline
from state_hf.training.mixed_effects import mixed_effects_tables
from state_hf.training.screen_means import ContextId, ScreenMeans

logger = logging.get_logger(__name__)

_Shifts = Mapping[tuple[ContextId, int], np.ndarray]


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

    All effects are means over (context, perturbation) pairs with the same weight each, however many cells they have. A
    perturbation without training cells gets the mean effect of all perturbations, which is logged; a ridge regression
    predicts it from its features.

    Args:
        means: Means of the training cells, from `screen_means`.
        vocabulary: Perturbations, cell types and genes in the order of the screens' ids.
        feature_key: Where the features come from in an AnnData, as in `StateTransitionConfig`.
        feature_scale: "log1p", "counts" or "embedding".
        target_sum: Counts per cell that they were normalised to, if known.
        cell_set_length: Cells that are predicted together.
        perturbation_features: (perturbations, features) for "perturbation_ridge"; one-hot by default, which shrinks
            every perturbation's effect towards the mean effect.
        ridge_penalty: Penalty on the squared coefficients, above 0.
        methods: Which to fit. By default all.

    Returns:
        Fitted models by method.

    Raises:
        ValueError: No perturbation has training cells and controls, or the features do not fit the vocabulary.
    """
    shifts = means.shifts()
    if not shifts:
        raise ValueError("The training cells have no perturbation with control cells of the same context.")
    num_perturbations = len(vocabulary.perturbations)
    if perturbation_features is None:
        perturbation_features = np.eye(num_perturbations)
    if len(perturbation_features) != num_perturbations:
        raise ValueError(
            f"perturbation_features have {len(perturbation_features)} rows for {num_perturbations} perturbations."
        )
    if ridge_penalty <= 0:
        raise ValueError(f"ridge_penalty must be above 0, and is {ridge_penalty}.")
    width = len(next(iter(shifts.values())))
    mean_shifts = _perturbation_means(shifts, vocabulary)
    parameters: dict[BaselineMethod, dict[str, np.ndarray]] = {
        "control_copy": {},
        "context_mean": {"shifts": np.tile(_mean_shift(shifts), (num_perturbations, 1))},
        "perturbation_mean": {"shifts": mean_shifts},
        "perturbation_profile": {"shifts": mean_shifts},
        "perturbation_ridge": _ridge(shifts, perturbation_features, ridge_penalty),
        "context_profile": {"profiles": _context_profiles(means, len(vocabulary.cell_types))},
        "mixed_effects": {},
    }
    fitted: dict[BaselineMethod, PerturbationBaseline] = {}
    for method in methods or parameters:
        config = PerturbationBaselineConfig(
            method=method,
            input_dim=width,
            num_perturbations=num_perturbations,
            perturbation_dim=perturbation_features.shape[1] if method == "perturbation_ridge" else 0,
            num_cell_types=len(vocabulary.cell_types),
            feature_key=feature_key,
            feature_scale=feature_scale,
            target_sum=target_sum,
            cell_set_length=cell_set_length,
        )
        model = PerturbationBaseline(config).eval()
        model.vocabulary = vocabulary
        with torch.no_grad():
            for name, values in parameters[method].items():
                getattr(model, name).copy_(torch.from_numpy(values))
        if method == "mixed_effects":
            model.mixed_effects = mixed_effects_tables(means, vocabulary)
        fitted[method] = model
    return fitted


def _mean_shift(shifts: _Shifts) -> np.ndarray:
    return np.mean(list(shifts.values()), axis=0)


def _perturbation_means(shifts: _Shifts, vocabulary: PerturbationVocabulary) -> np.ndarray:
    """(perturbations, features): each one's mean over contexts, or that of all where it was never seen."""
    rows = np.tile(_mean_shift(shifts), (len(vocabulary.perturbations), 1))
    seen = {perturbation for _, perturbation in shifts}
    for perturbation in seen:
        rows[perturbation] = np.mean([shift for key, shift in shifts.items() if key[1] == perturbation], axis=0)
    unseen = [
        name
        for number, name in enumerate(vocabulary.perturbations)
        if number not in seen and name != vocabulary.control_perturbation
    ]
    if unseen:
        logger.warning(
            f"{len(unseen)} perturbations have no training cells, {unseen[0]!r} among them: "
            "the perturbation means give them the mean effect of all perturbations"
        )
    return rows


def _ridge(shifts: _Shifts, features: np.ndarray, penalty: float) -> dict[str, np.ndarray]:
    """Ridge regression of effects on features, with an intercept that is not penalised, in closed form."""
    keys = list(shifts)
    inputs, outputs = features[[perturbation for _, perturbation in keys]], np.stack([shifts[key] for key in keys])
    input_mean, output_mean = inputs.mean(axis=0), outputs.mean(axis=0)
    centred = inputs - input_mean
    # The dual form: there are fewer pairs than features, or about as many.
    gram = centred @ centred.T + penalty * np.eye(len(keys))
    slopes = centred.T @ np.linalg.solve(gram, outputs - output_mean)
    return {
        "perturbation_table": features,
        "coefficients": np.concatenate([slopes, (output_mean - input_mean @ slopes)[None]]),
    }


def _context_profiles(means: ScreenMeans, num_cell_types: int) -> np.ndarray:
    """(cell types, features): mean of the cell type's perturbations; NaN where none trains, which the model reports."""
    width = len(next(iter(means.perturbed.values())))
    profiles = np.full((num_cell_types, width), np.nan)
    for cell_type in {cell_type for (_, cell_type), _ in means.perturbed}:
        profiles[cell_type] = np.mean(
            [mean for ((_, other), _), mean in means.perturbed.items() if other == cell_type], axis=0
        )
    return profiles


__all__ = ["fit_baselines"]
