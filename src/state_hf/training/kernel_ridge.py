"""Kernel ridge regression of treated means on who was perturbed, on features, and on the level of the context."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from transformers.utils import logging

from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.training.feature_likeness import WAYS, evenly, likeness
from state_hf.training.left_out_errors import Regression, Weights, gains, in_fewer_columns, parts_of
from state_hf.training.screen_effects import ScreenEffects
from state_hf.training.treated_effects import TreatedEffects

logger = logging.get_logger(__name__)

# Rows that weights are chosen on, at most.
_ROWS = 200
# Of the control level that is subtracted; the first of equals is taken.
_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
# Of a pair without any; cells of one group may be all alike.
_LEAST_NOISE = 1e-3
# Among the partitions, where there are several perturbations.
_BY_PERTURBATION = 0


def fit_kernel_ridge(screen: ScreenEffects, num_perturbations: int, features: np.ndarray | None) -> TreatedEffects:
    """Fit the regression in closed form.

    The treated mean of context c and perturbation p, minus a share of the control mean of c, has the covariance
    a [p = p'] + b k(f_p, f_p') + d (x_c - x) (x_c' - x), plus noise by numbers of cells, around a common mean: k is the
    likeness of features, x_c the control mean of a context. Share, a, b and d have the least error where pairs are left
    out alone, with all of their perturbation, and with all of their context. Features count (b > 0) where perturbations
    that are left out are predicted better with them, by more than one standard error. Of perturbations that one context
    has each, a is what their effects show beyond the noise of numbers of cells.

    Args:
        screen: Means of the training cells.
        num_perturbations: Perturbations of the vocabulary.
        features: (perturbations, features) of the vocabulary, or None.
    """
    some = _part(screen)
    covariances = _covariances(some, features, WAYS)
    regressions = {share: _regression(some, share, covariances) for share in _SHARES}
    repeated = len(some.trained) < len(some.perturbation)
    names = ("own", "level") if repeated else ("level",)
    start = {"own": (0, 1.0 if repeated else _own_weight(some)), "level": (0, 0.0)}
    chosen = {share: regression.choose(start, names) for share, regression in regressions.items()}
    errors = {share: regression.error(chosen[share]) for share, regression in regressions.items()}
    # The first of those that are equal but for rounding: one context does not tell.
    share = next(share for share, error in errors.items() if error <= min(errors.values()) * (1 + 1e-9))
    regression, weights = regressions[share], chosen[share]
    if features is not None and len(some.trained) > 1:
        with_features = regression.choose({**weights, "features": (0, 0.0)}, (*names, "features"))
        apart, together = (regression.left_out(one)[_BY_PERTURBATION] for one in (weights, with_features))
        if gains(apart, together, some.perturbation):
            weights = with_features
    told = ", ".join(f"{name} {weight:.2g}" for name, (_, weight) in weights.items())
    logger.info(f"kernel ridge: {share:.2g} of the control level, and in units of a pair's noise {told}")
    return _solved(screen, share, weights, num_perturbations, features)


def _own_weight(screen: ScreenEffects) -> float:
    """What effects vary beyond the noise of numbers of cells, in its units."""
    effects = screen.effects
    around = [np.square(effects[rows] - effects[rows].mean(axis=0)).mean(axis=1) for rows in parts_of(screen.context)]
    noise = screen.sampling.mean()
    return max(0.0, float(np.concatenate(around).mean() / noise - 1)) if noise > 0 else 1.0


def _part(screen: ScreenEffects) -> ScreenEffects:
    """So many rows of the screen as weights are chosen on: of perturbations at equal distances."""
    trained = screen.trained
    number = max(2, len(trained) * _ROWS // len(screen.perturbation))
    kept = np.isin(screen.perturbation, trained[evenly(len(trained), number)])
    return replace(
        screen,
        context=screen.context[kept],
        perturbation=screen.perturbation[kept],
        treated=screen.treated[kept],
        sampling=screen.sampling[kept],
    )


def _level_likeness(screen: ScreenEffects) -> FeatureEffects:
    """Products of control means around those of the contexts that train; 1 on average for one with itself."""
    levels = screen.controls[np.unique(screen.context)]
    centre = levels.mean(axis=0)
    size = np.sqrt(np.square(levels - centre).sum(axis=1).mean())
    return FeatureEffects.of(
        levels, likeness="linear", centre=centre, scale=size if size > 0 else 1.0, width=levels.shape[1]
    )


def _covariances(
    screen: ScreenEffects, features: np.ndarray | None, ways: Sequence[int]
) -> dict[str, list[np.ndarray]]:
    row = np.searchsorted(np.unique(screen.context), screen.context)
    levels = _level_likeness(screen).among_supports()
    found = {"own": [_same(screen.perturbation)], "level": [levels[np.ix_(row, row)]]}
    if features is not None:
        row, known = np.searchsorted(screen.trained, screen.perturbation), features[screen.trained]
        found["features"] = [likeness(known, way).among_supports()[np.ix_(row, row)] for way in ways]
    return found


def _regression(screen: ScreenEffects, share: float, covariances: dict[str, list[np.ndarray]]) -> Regression:
    outputs = screen.treated - share * screen.controls[screen.context]
    partitions = [parts_of(screen.perturbation), parts_of(np.arange(len(outputs))), parts_of(screen.context)]
    return Regression(
        in_fewer_columns(outputs - outputs.mean(axis=0)),
        _noise(screen),
        covariances,
        [partition for partition in partitions if len(partition) > 1],
    )


def _same(labels: np.ndarray) -> np.ndarray:
    return (labels[:, None] == labels).astype(float)


def _noise(screen: ScreenEffects) -> np.ndarray:
    mean = screen.sampling.mean()
    return np.maximum(screen.sampling / mean, _LEAST_NOISE) if mean > 0 else np.ones_like(screen.sampling)


def _solved(
    screen: ScreenEffects, share: float, weights: Weights, num_perturbations: int, features: np.ndarray | None
) -> TreatedEffects:
    """The regression on all rows, with weights that are known."""
    outputs = screen.treated - share * screen.controls[screen.context]
    way, feature_weight = weights.get("features", (0, 0.0))
    counted = features if feature_weight > 0 else None
    regression = Regression(outputs, _noise(screen), _covariances(screen, counted, [way]), ())
    common, dual = regression.solve({**weights, "features": (0, feature_weight)}, outputs)
    by_level = _level_likeness(screen)
    summed = np.stack([dual[rows].sum(axis=0) for rows in parts_of(screen.context)])
    by_level.set_weights(weights["level"][1] * summed)
    by_perturbation = np.stack([dual[screen.perturbation == number].sum(axis=0) for number in screen.trained])
    effects = screen.by_perturbation(weights["own"][1] * by_perturbation, num_perturbations)
    by_features = None
    if features is not None:
        by_features = likeness(features[screen.trained], way, width=outputs.shape[1])
        by_features.set_weights(feature_weight * by_perturbation)
        effects += by_features.of_array(features)
    return TreatedEffects(common, effects, share, by_features, by_level)


__all__ = ["fit_kernel_ridge"]
