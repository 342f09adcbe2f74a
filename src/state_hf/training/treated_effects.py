"""What perturbations make of a context, given the mean of its control cells."""

from dataclasses import dataclass

import numpy as np

from state_hf.modeling.layers.feature_effects import FeatureEffects


@dataclass(frozen=True, eq=False)
class TreatedEffects:
    """Treated means: `share` * control mean + `common` + `by_level`(control mean) + `effects` of the perturbations.

    Attributes:
        common: (genes,) what all perturbations have in common; it counts once in a combination.
        effects: (perturbations, genes) what each one has beyond that, 0 where nothing is known of it.
        share: How much of the control mean is kept, 0 to 1.
        by_features: `effects` of a perturbation by its features; None without features.
        by_level: What a context's control mean adds; None for nothing.
    """

    common: np.ndarray
    effects: np.ndarray
    share: float = 1.0
    by_features: FeatureEffects | None = None
    by_level: FeatureEffects | None = None


__all__ = ["TreatedEffects"]
