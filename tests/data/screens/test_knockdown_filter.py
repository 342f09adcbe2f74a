import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from state_hf.data.screens.knockdown_filter import KnockdownFilter, filter_knockdown

NAMES = ["A", "B", "C", "ctrl", "no gene"]


def kept_one_by_one(codes, own, means, thresholds):
    """The three stages as cell-load's documentation tells them."""
    kept = set(np.flatnonzero(codes == 3))
    for perturbation in (0, 1, 2, 4):
        cells = [cell for cell in range(len(codes)) if codes[cell] == perturbation]
        if not cells or np.isnan(means[perturbation]) or np.isclose(means[perturbation], 0):
            continue
        if not np.mean(own[cells]) / means[perturbation] < thresholds.residual_expression:
            continue
        cells = [cell for cell in cells if own[cell] / means[perturbation] < thresholds.cell_residual_expression]
        if len(cells) >= thresholds.min_cells:
            kept |= set(cells)
    return kept


def test_stages_by_hand():
    # A keeps 20 %, B 60 %, C keeps one cell, and the last is no gene.
    codes = np.repeat([0, 1, 2, 3, 4], [5, 3, 2, 2, 1])
    own = np.array([0, 0, 0, 4, 6, 6, 6, 6, 0, 9, 0, 0, 0], dtype=float)
    means = np.array([10.0, 10.0, 20.0, 1.0, np.nan])
    thresholds = KnockdownFilter(min_cells=2)
    result = filter_knockdown(codes, own, means, NAMES, control=3, thresholds=thresholds)
    assert np.flatnonzero(result.kept).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert [cells for cells, _ in result.dropped.values()] == [1, 0, 3, 1, 0]
    assert [names for _, names in result.dropped.values()] == [["no gene"], [], ["B"], [], []]
    stricter = filter_knockdown(codes, own, means, NAMES, control=3, thresholds=KnockdownFilter(min_cells=3))
    assert np.flatnonzero(stricter.kept).tolist() == [0, 1, 2, 3, 10, 11]
    assert list(stricter.dropped.values())[-1] == (2, ["C"])


def test_a_target_that_controls_do_not_express():
    result = filter_knockdown(
        np.array([0, 3]), np.zeros(2), np.array([0.0, 1, 1, 1, 1]), NAMES, control=3, thresholds=KnockdownFilter()
    )
    assert result.kept.tolist() == [False, True]
    assert result.dropped["whose target no control cell expresses"] == (1, ["A"])


def test_every_target_of_a_combination_must_be_knocked_down():
    # A+B: both low in two of four cells; A+C: C is not low; A+no gene.
    names = ["A+B", "A+C", "A+?", "ctrl"]
    codes = np.repeat([0, 1, 2, 3], [4, 2, 1, 2])
    own = np.array([[0, 0], [1, 0], [6, 0], [0, 6], [0, 9], [0, 9], [0, 0], [0, 0], [0, 0]], dtype=float)
    means = np.array([[10, 10], [10, 10], [10, np.nan], [np.inf, np.inf]], dtype=float)
    result = filter_knockdown(codes, own, means, names, control=3, thresholds=KnockdownFilter(min_cells=2))
    assert np.flatnonzero(result.kept).tolist() == [0, 1, 7, 8]
    assert [names for _, names in result.dropped.values()] == [["A+?"], [], ["A+C"], [], []]
    assert [cells for cells, _ in result.dropped.values()] == [1, 0, 2, 2, 0]


def test_a_single_among_combinations_has_one_target():
    one = filter_knockdown(
        np.array([0, 0, 1]),
        np.array([[1.0, 9], [8, 0], [0, 0]]),
        np.array([[10.0, np.inf], [np.inf, np.inf]]),
        ["A", "ctrl"],
        control=1,
        thresholds=KnockdownFilter(residual_expression=0.6, min_cells=1),
    )
    assert one.kept.tolist() == [True, False, True]


@given(
    codes=npst.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 4)),
    means=npst.arrays(np.float64, 5, elements=st.sampled_from([0.0, 1.0, 3.0, np.nan])),
    seed=st.integers(0, 99),
    min_cells=st.integers(1, 5),
)
def test_the_same_cells_as_one_by_one(codes, means, seed, min_cells):
    own = np.random.default_rng(seed).choice([0.0, 0.2, 0.5, 1.0, 3.0], len(codes))
    thresholds = KnockdownFilter(min_cells=min_cells)
    result = filter_knockdown(codes, own, means, NAMES, control=3, thresholds=thresholds)
    assert set(np.flatnonzero(result.kept)) == kept_one_by_one(codes, own, means, thresholds)
    assert result.kept.sum() + sum(cells for cells, _ in result.dropped.values()) == len(codes)
