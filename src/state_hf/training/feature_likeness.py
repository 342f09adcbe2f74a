"""How alike perturbations are by their features: the ways that are tried."""

import numpy as np

from state_hf.modeling.layers.feature_effects import FeatureEffects

# Of the median distance.
_LENGTHS = (0.5, 1.0, 2.0)
_FEWER = 300
WAYS = range(2 * len(_LENGTHS))


def likeness(features: np.ndarray, way: int, *, width: int = 1) -> FeatureEffects:
    """A Gaussian likeness to the perturbations of a screen, without weights.

    Features are taken in their own units in the first half of the ways, and each in units of its standard deviation in
    the second; the length is half, once and twice the median distance.

    Args:
        features: (perturbations, features) of those that trained.
        way: One of `WAYS`.
        width: Width of an effect.
    """
    features = features.astype(float)
    each, number = divmod(way, len(_LENGTHS))
    centre, spread = features.mean(axis=0), features.std(axis=0)
    scale = spread if each else np.full_like(spread, np.sqrt(np.square(spread).mean()))
    scale = np.where(scale > 0, scale, 1.0)
    some = ((features - centre) / scale)[evenly(len(features), _FEWER)]
    squares = np.square(some).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * some @ some.T, 0)[np.triu_indices(len(some), 1)]
    median = np.sqrt(np.median(distances)) if len(distances) else 0.0
    length = float(_LENGTHS[number] * (median if median > 0 else 1.0))
    return FeatureEffects.of(features, likeness="gaussian", centre=centre, scale=scale, width=width, length=length)


def evenly(number: int, most: int) -> np.ndarray:
    """(at most `most`,) numbers below `number`, at equal distances."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(int))


__all__ = ["WAYS", "evenly", "likeness"]
