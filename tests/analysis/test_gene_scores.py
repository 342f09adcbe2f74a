"""Scores of held-out genes by hand, and profiles of genes that say what their expression does."""

import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.analysis.gene_profiles import gene_profiles
from state_hf.analysis.gene_scores import held_out_scores
from state_hf.data.gene_labels import GeneLabels

CLASSES = np.array(["a", "b", "a", "b", "a", "b", "a", "a"], dtype=object)
FOLDS = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def test_scores_by_hand():
    genes = GeneLabels(np.arange(8), CLASSES, None, [])
    second = np.array([0.1, 0.9, 0.4, 0.3, 0.2, 0.8, 0.6, 0.1])
    shares = np.column_stack([1 - second, second])
    plain = {"told": np.column_stack([CLASSES == "b", np.zeros(8)]).astype(float)}
    scores = held_out_scores(shares, plain, genes, ["a", "b"], FOLDS)
    assert list(scores.index) == [
        "fine-tuned", "told, logistic regression", "told, random forest", "told, support vectors", "majority",
    ]  # fmt: skip
    assert scores.loc["fine-tuned", "accuracy"] == 6 / 8
    assert scores.loc["fine-tuned", "balanced_accuracy"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    # Within folds: 0.9 and 0.3 against 0.1 and 0.4 win 3 of 4; 0.8 against 0.2, 0.6 and 0.1 all.
    assert scores.loc["fine-tuned", "auroc"] == pytest.approx((3 / 4 + 1) / 2)
    assert scores.loc["fine-tuned", "auroc_sd"] == pytest.approx(1 / 8)
    assert (scores.loc[["told, logistic regression", "told, random forest"], "accuracy"] == 1).all()
    # The first fold's majority is learnt from the second, and the other way round: of two and two, the first name.
    assert scores.loc["majority", "accuracy"] == 5 / 8


def test_three_classes_have_no_curve():
    classes = np.array(["a", "b", "c"] * 4, dtype=object)
    genes = GeneLabels(np.arange(12), classes, None, [])
    shares = np.eye(3)[[0, 1, 2] * 4]
    scores = held_out_scores(shares, {}, genes, ["a", "b", "c"], np.repeat([0, 1], 6))
    assert "auroc" not in scores
    assert scores.loc["fine-tuned", "macro_f1"] == 1


@pytest.mark.parametrize("is_counts", [True, False])
def test_profiles_by_hand(is_counts):
    cells = np.array([[2.0, 0, 8, 0], [0, 5, 5, 0], [1, 0, 0, 9]])
    columns, rows = np.array([4, -1, 0, 2]), np.array([0, 2, 4, 5])
    found = gene_profiles(sp.csr_array(cells), columns, rows, is_counts=is_counts)
    values = np.log1p(cells / 10 * 10_000) if is_counts else cells
    for at, column in enumerate([2, 3, 0]):
        own = values[:, column]
        above = own[own > 0]
        assert found[at, :4] == pytest.approx([own.mean(), own.std(), len(above) / 3, above.mean()])
    # A gene of the vocabulary that the data do not have.
    assert found[3, :4].tolist() == [0, 0, 0, 0]
    assert found.shape == (4, 4 + 3)
