"""Scores of labels by hand, and the baseline that finds what is plain to see."""

import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.analysis.label_scores import (
    VariableGeneModel,
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


@pytest.mark.parametrize("by_class", [True, False])
def test_the_baseline_learns_what_variable_genes_tell(by_class):
    rng = np.random.default_rng(0)
    kind = np.arange(200) % 2
    counts = rng.poisson(np.where((np.arange(30) < 5) & (kind[:, None] == 1), 6.0, 1.0))
    labels = np.array(["a", "b"])[kind] if by_class else kind.astype(float)
    cells = sp.csr_matrix(counts.astype(np.float32))
    model = VariableGeneModel(is_counts=True, by_class=by_class).fit(cells[:150], labels[:150])
    found = model.predict(cells[150:])
    if by_class:
        assert class_scores(labels[150:], found)["accuracy"] > 0.9
    else:
        # The mean of the training cells is off by a half everywhere.
        assert regression_scores(labels[150:], found)["mae"] < 0.35
