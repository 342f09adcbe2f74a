"""Effects of perturbations that never trained, from the effects of those that did, by features."""

import numpy as np
from transformers.utils import logging

from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.training.feature_likeness import WAYS, evenly, likeness
from state_hf.training.left_out_errors import Regression, Weights, gains, in_fewer_columns, parts_of

logger = logging.get_logger(__name__)

# Perturbations that the choice is made on, at most.
_ROWS = 300


def effects_by_features(effects: np.ndarray, features: np.ndarray) -> FeatureEffects:
    """Regress effects on features, as far as features say anything.

    Effects are normal around 0, with a covariance of a times the likeness of features, and a rest that features do not
    tell. Likeness and a have the least error where perturbations are left out one by one, in closed form. If it is not
    smaller than that of predicting 0, by more than one standard error over perturbations, a is 0.

    Args:
        effects: (trained, genes), each beyond what perturbations have in common.
        features: (trained, features).
    """
    rows = evenly(len(effects), _ROWS)
    alike = [likeness(features[rows], way).among_supports() for way in WAYS]
    regression = _regression(effects[rows], alike)
    nothing: Weights = {"features": (0, 0.0)}
    chosen = regression.choose(nothing, ["features"])
    (without,), (with_features,) = regression.left_out(nothing), regression.left_out(chosen)
    way, weight = chosen["features"] if gains(without, with_features, rows) else (0, 0.0)
    told = "say nothing of effects" if weight == 0 else f"tell {1 - with_features.sum() / without.sum():.0%} of effects"
    logger.info(f"features {told}, where perturbations are left out one by one")
    found = likeness(features, way, width=effects.shape[1])
    if weight > 0:
        _, dual = _regression(effects, [found.among_supports()]).solve({"features": (0, weight)}, effects)
        found.set_weights(weight * dual)
    return found


def _regression(effects: np.ndarray, alike: list[np.ndarray]) -> Regression:
    partition = parts_of(np.arange(len(effects)))
    return Regression(
        in_fewer_columns(effects), np.ones(len(effects)), {"features": alike}, [partition], has_mean=False
    )


__all__ = ["effects_by_features"]
