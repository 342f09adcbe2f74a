import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from state_hf.metrics.discrimination import discrimination_score, profile_distances

SCIPY = {"l1": "cityblock", "l2": "euclidean", "cosine": "cosine"}


def test_distances_by_hand():
    prediction, reference = np.array([[3.0, 4.0]]), np.array([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0]])
    np.testing.assert_allclose(profile_distances(prediction, reference, "l1"), [[0, 7, 8]])
    np.testing.assert_allclose(profile_distances(prediction, reference, "l2"), [[0, 5, np.sqrt(50)]])
    np.testing.assert_allclose(profile_distances(prediction, reference, "cosine"), [[0, 1, 1]], atol=1e-15)


@pytest.mark.parametrize("distance", list(SCIPY))
def test_a_left_out_gene_counts_nowhere(distance):
    rng = np.random.default_rng(0)
    prediction, reference = rng.normal(size=(3, 6)), rng.normal(size=(5, 6))
    target = np.array([4, -1, 0])
    found = profile_distances(prediction, reference, distance, target=target)
    for row, gene in enumerate(target):
        kept = [column for column in range(6) if column != gene]
        np.testing.assert_allclose(
            found[row], cdist(prediction[[row]][:, kept], reference[:, kept], SCIPY[distance])[0]
        )


def test_scores_by_hand():
    # Own distances on the diagonal. Row 0: nobody closer. Row 1: one closer. Row 2: ties with both others.
    distances = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    for ties, denominator, expected in (
        ("first", "n", [1.0, 1 - 1 / 3, 1 - 2 / 3]),
        ("middle", "n-1", [1.0, 1 - 1 / 2, 1 - 1 / 2]),
        ("closer", "n", [1.0, 1 - 1 / 3, 1.0]),
    ):
        np.testing.assert_allclose(discrimination_score(distances, ties=ties, denominator=denominator), expected)


def test_the_primers_case():
    # Four perturbations; the prediction of the first has two real transcriptomes closer than its own: PDisc = 2/4,
    # PDiscNorm = 1 - 2 * 2/4 = 0.
    reference = np.array([[0.0, 9.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    prediction = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    rank = 1 - discrimination_score(profile_distances(prediction, reference, "l1"), ties="closer", denominator="n")
    np.testing.assert_allclose(rank, [0.5, 0, 0, 0])
    np.testing.assert_allclose(1 - 2 * rank, [0, 1, 1, 1])


@settings(max_examples=30)
@given(
    st.integers(0, 10**6),
    st.integers(2, 8),
    st.sampled_from(["first", "middle", "closer"]),
    st.sampled_from(["n", "n-1"]),
    st.sampled_from(list(SCIPY)),
)
def test_bounds_and_truth(seed, n, ties, denominator, distance):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.normal(size=(2, n, 5))
    scores = discrimination_score(
        profile_distances(prediction, reference, distance), ties=ties, denominator=denominator
    )
    assert ((scores >= 0) & (scores <= 1)).all()
    truth = profile_distances(reference, reference, distance)
    np.testing.assert_array_equal(discrimination_score(truth, ties=ties, denominator=denominator), 1.0)


def test_one_profile_for_all_says_nothing():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(7, 30))
    constant = np.repeat(rng.normal(size=(1, 30)), 7, axis=0)
    scores = discrimination_score(profile_distances(constant, reference, "cosine"), ties="middle", denominator="n-1")
    assert scores.mean() == pytest.approx(0.5)
    nothing = discrimination_score(
        profile_distances(np.zeros((7, 30)), reference, "cosine"), ties="middle", denominator="n-1"
    )
    np.testing.assert_array_equal(nothing, 0.5)


def test_a_single_perturbation():
    assert discrimination_score(np.array([[3.0]]), ties="middle", denominator="n-1") == [1.0]
