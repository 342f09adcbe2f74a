"""Effects of the nearest perturbation by features."""

import numpy as np

from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.training.screen_effects import ScreenEffects
from state_hf.training.treated_effects import TreatedEffects


def nearest_effects(screen: ScreenEffects, num_perturbations: int, features: np.ndarray) -> TreatedEffects:
    """The mean effect over contexts of the perturbation with the nearest features, in units of standard deviations.

    A perturbation that trained is its own neighbour.

    Args:
        screen: Means of the training cells.
        num_perturbations: Perturbations of the vocabulary.
        features: (perturbations, features) of the vocabulary.
    """
    observed, known = screen.over_contexts(screen.effects), features[screen.trained].astype(float)
    common, spread = observed.mean(axis=0), known.std(axis=0)
    nearest = FeatureEffects.of(
        known,
        likeness="nearest",
        centre=known.mean(axis=0),
        scale=np.where(spread > 0, spread, 1.0),
        width=len(common),
    )
    nearest.set_weights(observed - common)
    own = screen.by_perturbation(observed - common, num_perturbations)
    unseen = np.setdiff1d(np.arange(num_perturbations), screen.trained)
    own[unseen] = nearest.of_array(features[unseen])
    return TreatedEffects(common, own, by_features=nearest)


__all__ = ["nearest_effects"]
