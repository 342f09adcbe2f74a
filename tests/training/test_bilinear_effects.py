"""The linear model of factors of genes and perturbations, against its normal equations."""

import numpy as np
import pytest

from state_hf import PerturbationVocabulary
from state_hf.training.bilinear_effects import fit_bilinear
from state_hf.training.screen_effects import ScreenEffects

GENES = [f"G{number}" for number in range(15)]
NAMES = ["G0", "G1", "G2", "G3", "G0+G4", "elsewhere", "G5", "ctrl"]
TRAINED = 6


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(TRAINED, len(GENES)))
    controls = rng.normal(size=(2, len(GENES)))
    context, perturbation = np.repeat([0, 1], TRAINED), np.tile(np.arange(TRAINED), 2)
    # Means over contexts are the effects.
    moved = np.concatenate([effects + 1, effects - 1])
    screen = ScreenEffects(
        [("s", 0), ("s", 1)], controls, context, perturbation, controls[context] + moved, np.ones(2 * TRAINED)
    )
    return screen, PerturbationVocabulary(NAMES, "ctrl", genes=GENES), effects


def minimum(genes, factors, apart):
    """W of Y - b = G W P', by its normal equations, (G'G + 0.1) W (P'P + 0.1) = G' (Y - b) P, as one system."""
    left = genes.T @ genes + 0.1 * np.eye(genes.shape[1])
    right = factors.T @ factors + 0.1 * np.eye(factors.shape[1])
    product = genes.T @ apart.T @ factors
    solved = np.linalg.solve(np.kron(left, right), product.ravel())
    return solved.reshape(product.shape)


def test_targets_have_the_factors_of_their_genes(data, caplog):
    screen, vocabulary, effects = data
    fitted = fit_bilinear(screen, vocabulary, None)
    np.testing.assert_allclose(fitted.common, effects.mean(axis=0), atol=1e-12)
    apart = effects - effects.mean(axis=0)
    values, vectors = np.linalg.eigh(apart.T @ apart)
    genes = (vectors * np.sqrt(np.maximum(values, 0)))[:, -5:]
    rows = np.stack([genes[0], genes[1], genes[2], genes[3], genes[0] + genes[4]])
    expected = rows @ minimum(genes, rows, apart[:5]).T @ genes.T
    np.testing.assert_allclose(fitted.effects[:5], expected, atol=1e-9)
    # One that never trained, and one that is named after no gene, though it trained.
    np.testing.assert_allclose(fitted.effects[6], genes[5] @ minimum(genes, rows, apart[:5]).T @ genes.T, atol=1e-9)
    assert not fitted.effects[[5, 7]].any()
    assert "1 perturbations are not named after a gene of the screen ('elsewhere')" in caplog.text


def test_features_take_the_place_of_genes(data):
    screen, vocabulary, effects = data
    features = np.random.default_rng(1).normal(size=(len(NAMES), 3)) * [1, 10, 100]
    fitted = fit_bilinear(screen, vocabulary, features)
    apart = effects - effects.mean(axis=0)
    values, vectors = np.linalg.eigh(apart.T @ apart)
    genes = (vectors * np.sqrt(np.maximum(values, 0)))[:, -5:]
    known = features[:TRAINED]
    factors = (features - known.mean(axis=0)) / known.std(axis=0)
    # Scores of principal components are a rotation, which the penalty does not tell from the factors themselves.
    weights = minimum(genes, factors[:TRAINED], apart)
    np.testing.assert_allclose(fitted.effects, factors @ weights.T @ genes.T, atol=1e-9)
    np.testing.assert_allclose(fitted.by_features.of_array(features), fitted.effects, atol=1e-9)
