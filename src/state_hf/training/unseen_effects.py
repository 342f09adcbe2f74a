"""Effects of perturbations that never trained, from the effects of those that did, by features."""

import numpy as np
from transformers.utils import logging

from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.training.feature_likeness import WAYS, evenly, likeness
from state_hf.training.left_out_errors import Regression, Weights, gains, in_fewer_columns, parts_of

logger = logging.get_logger(__name__)

# Perturbations that the choice is made on, at most.
_ROWS = 300
_NOTHING: Weights = {"features": (0, 0.0)}


def effects_by_features(effects: np.ndarray, features: np.ndarray) -> FeatureEffects:
    """Regress effects on features, as far as features say anything.

    Effects are normal around 0, with a covariance of a times the likeness of features, and a rest that features do not
    tell. Likeness and a have the least error where perturbations are left out one by one, in closed form. If that error
    is not smaller than without features, by more than one standard error over perturbations, a is 0. That is asked of
    effects around their mean: what all have in common, random numbers would tell as well.

    Args:
        effects: (trained, genes), each beyond what perturbations have in common.
        features: (trained, features).
    """
    rows = evenly(len(effects), _ROWS)
    alike = [likeness(features[rows], way).among_supports() for way in WAYS]
    way, weight, told = 0, 0.0, _told(_regression(effects[rows], alike, has_mean=True))
    if told > 0:
        way, weight = _regression(effects[rows], alike).choose(_NOTHING, ["features"])["features"]
    logger.info(f"features tell {told:.0%} of effects, where perturbations are left out one by one")
    found = likeness(features, way, width=effects.shape[1])
    if weight > 0:
        _, dual = _regression(effects, [found.among_supports()]).solve({"features": (0, weight)}, effects)
        found.set_weights(weight * dual)
    return found


def _told(regression: Regression) -> float:
    """How much less the squared error is with features, of what it is without; 0 where it may as well be chance."""
    chosen = regression.choose(_NOTHING, ["features"])
    (without,), (with_features,) = regression.left_out(_NOTHING), regression.left_out(chosen)
    return 1 - with_features.sum() / without.sum() if gains(without, with_features, np.arange(len(without))) else 0.0


def _regression(effects: np.ndarray, alike: list[np.ndarray], *, has_mean: bool = False) -> Regression:
    around = effects - effects.mean(axis=0) if has_mean else effects
    partition = parts_of(np.arange(len(effects)))
    return Regression(in_fewer_columns(around), np.ones(len(effects)), {"features": alike}, [partition], has_mean)


__all__ = ["effects_by_features"]
