import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from state_hf.metrics.expression_error import (
    mean_absolute_error,
    mean_squared_error,
    pearson,
    unbiased_capped_error,
)


def test_errors_by_hand():
    prediction, reference = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 5.0], [1.0, -1.0]])
    np.testing.assert_array_equal(mean_absolute_error(prediction, reference), [1.5, 1.0])
    np.testing.assert_array_equal(mean_squared_error(prediction, reference), [4.5, 1.0])


def test_correlation_by_hand():
    # (1, 2, 3) with (1, 2, 3), with its mirror image, and with a constant.
    reference = np.array([[2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]])
    found = pearson(np.array([[1.0, 2.0, 3.0]] * 3), reference)
    np.testing.assert_allclose(found, [1.0, -1.0, np.nan])


def test_unbiased_error_by_hand():
    # Two perturbations, three genes; the first targets gene 0, where it is far off: that counts nowhere.
    prediction = np.array([[9.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    reference = np.array([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    control = np.zeros(3)
    error, effect = unbiased_capped_error(
        prediction, reference, control, np.zeros(2), np.array([0.5, 0.25]), 0.25, np.array([0, -1])
    )
    # Errors 1 and 4, less the reference's noise; per gene counted: 2 and 3. No noise of its own, no credit.
    np.testing.assert_allclose(error, [(1 - 0.5) / 2, (4 - 0.25) / 3])
    np.testing.assert_allclose(effect, [(4 - 0.5 - 0.25) / 2, (1 - 0.25 - 0.25) / 3])


def test_credit_is_capped_by_the_references_noise_and_by_the_spread():
    reference, control, target = np.array([[1.0], [-1.0]]), np.zeros(1), np.array([-1, -1])
    noise = np.array([0.1, 0.1])
    # Predictions 2 and -2: spread 8, so each is credited with its noise, but not above the reference's 0.1.
    error, _ = unbiased_capped_error(
        np.array([[2.0], [-2.0]]), reference, control, np.array([9.0, 0.0]), noise, 0.0, target
    )
    np.testing.assert_allclose(error, [1 - 0.1 - 0.1, 1 - 0.1])
    # Predictions 0.1 and -0.1: spread 0.02 for a claim of 0.2, so only a tenth of it is credited.
    error, _ = unbiased_capped_error(np.array([[0.1], [-0.1]]), reference, control, noise, noise, 0.0, target)
    np.testing.assert_allclose(error, [0.81 - 0.01 - 0.1] * 2)
    # One profile for everything: no spread, no credit.
    error, _ = unbiased_capped_error(np.zeros((2, 1)), reference, control, noise, noise, 0.0, target)
    np.testing.assert_allclose(error, [1 - 0.1] * 2)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 7))
def test_unbiased_error_against_loops(seed, n, genes):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.normal(size=(2, n, genes))
    control, target = rng.normal(size=genes), rng.integers(-1, genes, n)
    mine, real, base = rng.gamma(1, 1, n), rng.gamma(1, 1, n), 0.3
    kept = [[gene for gene in range(genes) if gene != target[p]] for p in range(n)]
    claim = sum(min(mine[p], real[p]) / len(kept[p]) for p in range(n))
    budget = 0.0
    for gene in range(genes):
        rows = [p for p in range(n) if gene in kept[p]]
        if len(rows) >= 2:
            weights = np.array([1 / len(kept[p]) for p in rows])
            values = prediction[rows, gene]
            budget += (weights * (values - (weights * values).sum() / weights.sum()) ** 2).sum()
    share = min(1.0, budget / claim)
    error, effect = unbiased_capped_error(prediction, reference, control, mine, real, base, target)
    for p in range(n):
        squared = sum((prediction[p, gene] - reference[p, gene]) ** 2 for gene in kept[p])
        expected = (squared - share * min(mine[p], real[p]) - real[p]) / len(kept[p])
        np.testing.assert_allclose(error[p], expected, rtol=1e-9, atol=1e-12)
        squared = sum((reference[p, gene] - control[gene]) ** 2 for gene in kept[p])
        np.testing.assert_allclose(effect[p], (squared - real[p] - base) / len(kept[p]), rtol=1e-9, atol=1e-12)
