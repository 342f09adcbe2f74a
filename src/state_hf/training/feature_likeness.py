"""How alike perturbations are by their features: the ways that are tried."""

import numpy as np

from state_hf.modeling.layers.feature_effects import FeatureEffects

# Of the median distance.
_LENGTHS = (0.5, 1.0, 2.0)


def likenesses(features: np.ndarray, width: int) -> list[FeatureEffects]:
    """Gaussian likenesses to the perturbations of a screen, without weights.

    Features are taken in their own units, and each in units of its standard deviation; the length is half, once and
    twice the median distance.

    Args:
        features: (perturbations, features) of those that trained.
        width: Width of an effect.
    """
    features = features.astype(float)
    centre, spread = features.mean(axis=0), features.std(axis=0)
    overall = np.sqrt(np.square(spread).mean())
    found: list[FeatureEffects] = []
    for scale in (np.full_like(spread, overall if overall > 0 else 1.0), np.where(spread > 0, spread, 1.0)):
        standardised = (features - centre) / scale
        squares = np.square(standardised).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * standardised @ standardised.T, 0))
        median = np.median(distances[np.triu_indices(len(features), 1)]) if len(features) > 1 else 0.0
        found += [
            FeatureEffects.of(
                features, likeness="gaussian", centre=centre, scale=scale, width=width, length=float(length)
            )
            for length in np.array(_LENGTHS) * (median if median > 0 else 1.0)
        ]
    return found


__all__ = ["likenesses"]
