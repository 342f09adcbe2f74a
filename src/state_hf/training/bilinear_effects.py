"""The linear model of genes and perturbations that deep models were found not to beat."""

import numpy as np
from transformers.utils import logging

from state_hf.configuration.perturbation_labels import Perturbation
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.wording import listed
from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.training.screen_effects import ScreenEffects
from state_hf.training.treated_effects import TreatedEffects

logger = logging.get_logger(__name__)

# Both as published.
_FACTORS, _PENALTY = 10, 0.1


def fit_bilinear(
    screen: ScreenEffects, vocabulary: PerturbationVocabulary, features: np.ndarray | None
) -> TreatedEffects:
    """Fit Y = G W P' + b by ridge regression from both sides.

    Y, (genes, perturbations), has the mean effects over contexts, b is their mean; G, (genes, factors), has the scores
    of the genes on the first ten principal components of Y - b. P, (perturbations, factors), has the rows of G of the
    genes that perturbations are named after, a combination their sum; or, with features, the scores of perturbations on
    the first ten principal components of the features. Then W = (G'G + 0.1)^-1 G' (Y - b) P (P'P + 0.1)^-1
    (C. Ahlmann-Eltze, W. Huber, S. Anders, Nature Methods 22, 1657, 2025, for the expression of one cell line, which
    differs from its effects by a constant that is in b).

    Args:
        screen: Means of the training cells.
        vocabulary: Perturbations and genes.
        features: (perturbations, features) of the vocabulary, or None.
    """
    trained, width = screen.trained, screen.treated.shape[1]
    observed = screen.over_contexts(screen.effects)
    common = observed.mean(axis=0)
    apart = observed - common
    _, size, directions = np.linalg.svd(apart, full_matrices=False)
    genes = directions[:_FACTORS].T * size[:_FACTORS]
    by_features = None
    if features is None:
        factors, known = _target_factors(genes, vocabulary)
    else:
        by_features = _principal_components(features[trained], width)
        factors, known = by_features.alike_array(features), np.ones(len(features), dtype=bool)
    used = known[trained]
    own = factors[trained[used]]
    effects_of_factors = (
        _ridge(own.T @ own) @ own.T @ apart[used] @ genes @ _ridge(genes.T @ genes) @ genes.T
    )  # (factors, genes): W' G'
    if by_features is not None:
        by_features.set_weights(effects_of_factors)
    return TreatedEffects(common, np.where(known[:, None], factors @ effects_of_factors, 0), by_features=by_features)


def _ridge(gram: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.inv(gram + _PENALTY * np.eye(len(gram))))


def _principal_components(features: np.ndarray, width: int) -> FeatureEffects:
    """Scores on the first components of features in units of their standard deviations: products with the axes."""
    spread = features.std(axis=0)
    components = FeatureEffects.of(
        features.astype(float),
        likeness="linear",
        centre=features.mean(axis=0),
        scale=np.where(spread > 0, spread, 1.0),
        width=width,
    )
    _, _, axes = np.linalg.svd(np.asarray(components.support), full_matrices=False)
    return components.with_supports(axes[:_FACTORS])


def _target_factors(genes: np.ndarray, vocabulary: PerturbationVocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(perturbations, factors) of the genes that they are named after, and whether these are among the genes."""
    place = {name: number for number, name in enumerate(vocabulary.genes)}
    factors = np.zeros((len(vocabulary.perturbations), genes.shape[1]))
    known = np.zeros(len(factors), dtype=bool)
    for row, name in enumerate(vocabulary.perturbations):
        control = vocabulary.control_perturbation
        targets = (name,) if name in place else Perturbation.of(name, control=control).members
        if name != control and targets and all(target in place for target in targets):
            factors[row], known[row] = genes[[place[target] for target in targets]].sum(axis=0), True
    missing = [
        name
        for name, found in zip(vocabulary.perturbations, known, strict=True)
        if not found and name != vocabulary.control_perturbation
    ]
    if missing:
        logger.warning(
            f"{len(missing)} perturbations are not named after a gene of the screen ({listed(missing, limit=5)}): the "
            "bilinear baseline gives them the mean effect of all; features of perturbations take the place of genes"
        )
    return factors, known


__all__ = ["fit_bilinear"]
