"""Baselines that are means of the training cells."""

import numpy as np
from transformers.utils import logging

from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.wording import listed
from state_hf.training.screen_effects import ScreenEffects
from state_hf.training.screen_means import ScreenMeans
from state_hf.training.treated_effects import TreatedEffects

logger = logging.get_logger(__name__)


def mean_effect(screen: ScreenEffects, num_perturbations: int) -> np.ndarray:
    """(perturbations, features): the mean effect of all pairs, for every perturbation."""
    return np.tile(screen.effects.mean(axis=0), (num_perturbations, 1))


def perturbation_effects(screen: ScreenEffects, vocabulary: PerturbationVocabulary) -> np.ndarray:
    """(perturbations, features): each one's mean effect over contexts, or that of all pairs where it never trained."""
    rows = mean_effect(screen, len(vocabulary.perturbations))
    rows[screen.trained] = screen.over_contexts(screen.effects)
    known = {*screen.trained.tolist()}
    unseen = [
        name
        for number, name in enumerate(vocabulary.perturbations)
        if number not in known and name != vocabulary.control_perturbation
    ]
    if unseen:
        logger.warning(
            f"{len(unseen)} perturbations have no training cells ({listed(unseen, limit=5)}): the perturbation means "
            "give them the mean effect of all perturbations"
        )
    return rows


def treated_levels(screen: ScreenEffects, num_perturbations: int) -> TreatedEffects:
    """Mean treated cells over contexts, whatever their controls; for one that never trained, that of all."""
    levels = screen.over_contexts(screen.treated)
    common = levels.mean(axis=0)
    return TreatedEffects(common, screen.by_perturbation(levels - common, num_perturbations), share=0.0)


def context_profiles(means: ScreenMeans, num_cell_types: int) -> np.ndarray:
    """(cell types, features): mean of the cell type's perturbations; NaN where none trains, which the model reports."""
    width = len(next(iter(means.perturbed.values())))
    profiles = np.full((num_cell_types, width), np.nan)
    for cell_type in {cell_type for (_, cell_type), _ in means.perturbed}:
        profiles[cell_type] = np.mean(
            [mean for ((_, other), _), mean in means.perturbed.items() if other == cell_type], axis=0
        )
    return profiles


__all__ = ["context_profiles", "mean_effect", "perturbation_effects", "treated_levels"]
