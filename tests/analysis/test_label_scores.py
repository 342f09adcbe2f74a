"""Scores of labels by hand."""

import numpy as np
import pytest

from state_hf.analysis.label_scores import (
    class_scores,
    confusion,
    per_class_scores,
    regression_scores,
)

TRUTH = np.array(["a", "a", "a", "b"])
FOUND = np.array(["a", "a", "b", "b"])


def test_class_scores_by_hand():
    scores = class_scores(TRUTH, FOUND)
    assert scores["accuracy"] == pytest.approx(3 / 4)
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    # F1 of a: precision 1, recall 2/3; of b: precision 1/2, recall 1.
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_a_label_that_no_cell_has_is_no_class():
    scores = class_scores(TRUTH, np.array(["a", "a", "a", "c"]))
    assert scores["balanced_accuracy"] == pytest.approx(1 / 2)


def test_tables_by_hand():
    table = per_class_scores(TRUTH, FOUND, ["a", "b", "c"])
    assert table.loc["a"].tolist() == pytest.approx([1, 2 / 3, 4 / 5, 3])
    assert np.isnan(table.loc["c", "precision"])
    assert confusion(TRUTH, FOUND, ["a", "b"]).to_numpy().tolist() == [[2, 1], [0, 1]]


def test_regression_scores_by_hand():
    scores = regression_scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0]))
    assert scores["mae"] == pytest.approx(2 / 3)
    assert scores["r2"] == pytest.approx(1 - 4 / 2)
    assert np.isnan(regression_scores(np.array([1.0, 2.0]), np.array([3.0, 3.0]))["pearson"])
