"""Effects of perturbations that never trained, from the effects of those that did, by features."""

import numpy as np
from transformers.utils import logging

from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.training.feature_likeness import likenesses
from state_hf.training.left_out_errors import Regression, gains, in_fewer_columns, parts_of

logger = logging.get_logger(__name__)


def effects_by_features(effects: np.ndarray, features: np.ndarray) -> FeatureEffects:
    """Regress effects on features, as far as features say anything.

    Effects are normal around 0, with a covariance of a times the likeness of features, and a rest that features do not
    tell. Likeness and a have the least error where perturbations are left out one by one, in closed form. If it is not
    smaller than that of predicting 0, by more than one standard error over perturbations, a is 0.

    Args:
        effects: (trained, genes), each beyond what perturbations have in common.
        features: (trained, features).
    """
    found = likenesses(features, effects.shape[1])
    number = np.arange(len(effects))
    alike = {"features": [likeness.among_supports() for likeness in found]}
    regression = Regression(in_fewer_columns(effects), np.ones(len(effects)), alike, [parts_of(number)], has_mean=False)
    nothing = {"features": (0, 0.0)}
    chosen = regression.choose(nothing, ["features"])
    (without,), (with_features,) = regression.left_out(nothing), regression.left_out(chosen)
    if not gains(without, with_features, number):
        chosen = nothing
    _, dual = regression.solve(chosen, effects)
    alternative, weight = chosen["features"]
    told = "say nothing of effects" if weight == 0 else f"tell {1 - with_features.sum() / without.sum():.0%} of effects"
    logger.info(f"features {told}, where perturbations are left out one by one")
    found[alternative].set_weights(weight * dual)
    return found[alternative]


__all__ = ["effects_by_features"]
