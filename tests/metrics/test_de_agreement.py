import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from state_hf.metrics import de_agreement

# One perturbation, six genes. Really changed, by descending size: 0, 1, 2. Predicted: 1, 3, 0, 4.
REAL = np.array([[True, True, True, False, False, False]])
PREDICTED = np.array([[True, True, False, True, True, False]])
REAL_CHANGE = np.array([[3.0, -2.0, 1.0, 0.5, 0.0, 0.0]])
PREDICTED_CHANGE = np.array([[2.0, 4.0, 0.0, -3.0, 1.0, 0.0]])
NOTHING = np.zeros((1, 6), dtype=bool)


@pytest.mark.parametrize(
    ("k", "of", "expected"),
    [
        (None, "reference", 2 / 3),  # top 3: 0, 1, 2 and 1, 3, 0
        (2, "reference", 1 / 2),  # 0, 1 and 1, 3
        (50, "reference", 2 / 3),
        (None, "prediction", 2 / 4),  # all 4 predicted, of which 2 are real
        (1, "prediction", 0.0),  # 0 and 1
    ],
)
def test_top_genes_by_hand(k, of, expected):
    found = de_agreement.top_genes_agreement(REAL, PREDICTED, abs(REAL_CHANGE), abs(PREDICTED_CHANGE), k=k, of=of)
    assert found == [pytest.approx(expected)]


def test_top_genes_without_genes():
    sizes = abs(REAL_CHANGE), abs(PREDICTED_CHANGE)
    for of in ("reference", "prediction"):
        assert de_agreement.top_genes_agreement(NOTHING, NOTHING, *sizes, k=None, of=of) == [0.0]
    assert de_agreement.top_genes_agreement(REAL, NOTHING, *sizes, k=None, of="reference") == [0.0]


def test_equal_sizes_stand_in_the_order_of_the_genes():
    real, predicted = np.array([[True] * 4]), np.array([[True] * 4])
    sizes = np.array([[np.inf, np.inf, np.inf, 1.0]])
    found = de_agreement.top_genes_agreement(
        real, predicted, sizes, np.array([[1.0, 1.0, 1.0, 1.0]]), k=2, of="reference"
    )
    assert found == [1.0]  # genes 0 and 1 on both sides


def test_the_primers_de_score():
    real = np.array([[True, True, False, False]] * 3)
    p = np.array([[0.03, 0.5, 0.01, 0.02]] * 3)
    predicted = np.array([[True, False, False, False], [True, False, True, True], [False] * 4])
    # Fewer than real: 1 of 2. More than real: the two most significant are genes 2 and 3, none is real. None: 0.
    np.testing.assert_array_equal(de_agreement.most_significant_overlap(real, predicted, p), [0.5, 0.0, 0.0])
    assert de_agreement.most_significant_overlap(NOTHING, NOTHING, np.ones((1, 6))) == [0.0]


def test_sets_by_hand():
    np.testing.assert_allclose(de_agreement.significant_recall(REAL, PREDICTED), [2 / 3])
    np.testing.assert_array_equal(de_agreement.significant_recall(NOTHING, PREDICTED), [np.nan])
    np.testing.assert_allclose(de_agreement.significant_jaccard(REAL, PREDICTED), [2 / 5])
    np.testing.assert_array_equal(de_agreement.significant_jaccard(NOTHING, NOTHING), [1.0])


def test_directions_by_hand():
    # Genes 0, 1, 2: right, wrong, no change predicted.
    np.testing.assert_allclose(de_agreement.direction_match(REAL, REAL_CHANGE, PREDICTED_CHANGE), [1 / 3])
    # Ranks of 3, -2, 1 are 3, 1, 2; of 2, 4, 0 are 2, 3, 1: correlation -0.5.
    np.testing.assert_allclose(de_agreement.fold_change_correlation(REAL, REAL_CHANGE, PREDICTED_CHANGE), [-0.5])
    np.testing.assert_array_equal(de_agreement.direction_match(NOTHING, REAL_CHANGE, PREDICTED_CHANGE), [np.nan])


def test_counts_by_hand():
    counts = np.array([[0, 1, 2, 3], [5, 1, 2, 9]])
    called = [np.arange(10)[None, :] < count[:, None] for count in counts]
    # Without the first perturbation, which has no real gene, both sides rise together.
    assert de_agreement.significant_count_correlation(*called) == pytest.approx(1.0)
    assert de_agreement.significant_count_correlation(np.zeros((2, 3), bool), np.ones((2, 3), bool)) == 1.0
    assert np.isnan(de_agreement.significant_count_correlation(np.ones((2, 3), bool), np.ones((2, 3), bool)))


def test_areas_by_hand():
    labels, scores = np.array([[True, False, True, False]]), np.array([[0.9, 0.8, 0.7, 0.1]])
    # Real genes at ranks 1 and 3: precision 1 and 2/3. Pairs won: 2 of 2 and 1 of 2.
    np.testing.assert_allclose(de_agreement.average_precision(labels, scores), [(1 + 2 / 3) / 2])
    np.testing.assert_allclose(de_agreement.roc_area(labels, scores), [3 / 4])
    np.testing.assert_allclose(de_agreement.roc_area(labels, np.ones((1, 4))), [1 / 2])
    np.testing.assert_allclose(de_agreement.average_precision(labels, np.ones((1, 4))), [1 / 2])
    for area in (de_agreement.average_precision, de_agreement.roc_area):
        np.testing.assert_array_equal(area(np.array([[False] * 4, [True] * 4]), np.ones((2, 4))), [np.nan, np.nan])


@given(st.integers(0, 10**6), st.integers(3, 30))
def test_areas_equal_scikit_learn(seed, n):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels, scores = rng.random(n) < 0.4, rng.integers(0, 6, n).astype(float)
    labels[:2] = [True, False]
    found = de_agreement.average_precision(labels[None], scores[None])[0]
    assert found == pytest.approx(metrics.average_precision_score(labels, scores), rel=1e-12)
    found = de_agreement.roc_area(labels[None], scores[None])[0]
    assert found == pytest.approx(metrics.roc_auc_score(labels, scores), rel=1e-12)


def test_fold_change_error_by_hand():
    # |2 - 3| + |4 + 2| + |0 - 1| over 3 + 2 + 1.
    found = de_agreement.fold_change_error(REAL, REAL_CHANGE, PREDICTED_CHANGE, min_genes=3)
    np.testing.assert_allclose(found, [8 / 6])
    unusable = np.array([[np.inf, 4.0, np.nan, 0, 0, 0]])  # counts as no change
    np.testing.assert_allclose(
        de_agreement.fold_change_error(REAL, REAL_CHANGE, unusable, min_genes=3), [(3 + 6 + 1) / 6]
    )
    infinite = np.array([[np.inf, -2.0, 1.0, 0, 0, 0]])  # a real fold change without size is not used
    np.testing.assert_allclose(de_agreement.fold_change_error(REAL, infinite, PREDICTED_CHANGE, min_genes=2), [7 / 3])
    np.testing.assert_array_equal(
        de_agreement.fold_change_error(REAL, infinite, PREDICTED_CHANGE, min_genes=3), [np.nan]
    )
    assert de_agreement.fold_change_error(REAL, REAL_CHANGE, np.zeros((1, 6)), min_genes=1) == [1.0]


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_spearman_equals_scipy(pairs):
    left, right = np.array(pairs, dtype=float).T
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        assert np.isnan(de_agreement.spearman(left, right))
    else:
        assert de_agreement.spearman(left, right) == pytest.approx(spearmanr(left, right).statistic, abs=1e-12)
