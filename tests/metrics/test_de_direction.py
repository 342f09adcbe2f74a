import numpy as np
import pytest

from state_hf.metrics.de_direction import direction_fidelity_yield, direction_reach


def test_fidelity_yield_by_hand():
    real = np.array([[True, True, True, False]] * 4 + [[False] * 4] * 2)
    predicted = np.array(
        [
            [True, True, False, False],
            [True] * 4,
            [False] * 4,
            [False, False, False, True],
            [True, True, False, False],
            [False] * 4,
        ]
    )
    change = np.array([[1.0, -2.0, 1.0, 0.0]] * 6)
    mine = np.array([[1.0, 2.0, 1.0, 5.0]] * 6)
    # Row 0: calls 0 and 1, one right, three real: 1/3. Row 1: gene 3 did not really change, so it is not judged:
    # three calls, two right. Row 2: no call. Row 3: its only call is not judged. Row 4: nothing real: the bare
    # fraction. Row 5: nothing on either side.
    found = direction_fidelity_yield(real, predicted, change, mine)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 0.0, 0.0, 1 / 2, np.nan])


def test_an_infinite_change_has_a_sign():
    found = direction_fidelity_yield(
        np.array([[True]]), np.array([[True]]), np.array([[np.inf]]), np.array([[-np.inf]])
    )
    assert found == [0.0]


def reach(right, *, purity=0.9, fdr=None, p=None, size=None, names=None, called=None, real=None):
    """Reach of one perturbation whose genes have right or wrong signs, in an order of confidence that is given."""
    n = len(right)
    change = np.ones((1, n))
    mine = np.where(right, 1.0, -1.0)[None] * (np.ones(n) if size is None else np.array(size))
    fdr = np.linspace(0.1, 0.2, n)[None] if fdr is None else np.array([fdr])
    return direction_reach(
        np.ones((1, n), dtype=bool) if real is None else np.array([real]),
        change,
        mine,
        np.zeros((1, n), dtype=bool) if called is None else np.array([called]),
        fdr,
        fdr if p is None else np.array([p]),
        np.array([f"g{gene}" for gene in range(n)] if names is None else names),
        purity=purity,
    )[0]


def test_reach_by_hand():
    assert reach([True] * 4) == 1.0
    assert reach([False] * 4) == 0.0
    assert reach([True, True, False, True]) == 2 / 4  # 2/3 and 3/4 are below 0.9
    assert reach([True, True, False, True], purity=0.75) == 1.0  # a dip is forgiven where purity recovers
    assert reach([False] + [True] * 9) == 1.0  # 9 of 10
    assert np.isnan(reach([True] * 3, real=[False] * 3))


def test_the_order_of_confidence():
    equal = [0.5, 0.5]
    # The wrong gene is first in the arrays; each criterion in turn puts the right one before it.
    wrong_first = {"right": [False, True]}
    assert reach(**wrong_first, fdr=equal) == 0.0
    assert reach(**wrong_first, fdr=[0.5, 0.4]) == 1 / 2
    assert reach(**wrong_first, fdr=equal, p=[0.2, 0.1]) == 1 / 2
    assert reach(**wrong_first, fdr=equal, size=[1.0, 2.0]) == 1 / 2
    assert reach(**wrong_first, fdr=equal, names=["z", "a"]) == 1 / 2
    assert reach(**wrong_first, fdr=[0.01, 0.5], called=[False, True]) == 1 / 2


def test_genes_missing_from_the_prediction_stay_in_the_denominator():
    found = direction_reach(
        np.ones((1, 4), dtype=bool),
        np.array([[1.0, 1.0, 0.0, 1.0]]),  # the third did not change: not judged, but counted
        np.array([[1.0, np.nan, 1.0, 1.0]]),
        np.array([[True, False, True, True]]),
        np.array([[0.01, np.nan, 0.01, 0.02]]),
        np.array([[0.01, np.nan, 0.01, 0.02]]),
        np.array(list("abcd")),
        purity=0.9,
    )
    assert found == [pytest.approx(2 / 4)]
