"""The models that a fine-tuned one is held against find what is plain to see."""

import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.analysis import simple_models
from state_hf.analysis.label_scores import class_scores, regression_scores
from state_hf.analysis.simple_models import VariableGeneModels, some_examples


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("is_counts", [True, False])
def test_variable_genes_tell_what_they_are_made_to_tell(by_class, is_counts):
    rng = np.random.default_rng(0)
    kind = np.arange(200) % 2
    counts = rng.poisson(np.where((np.arange(30) < 5) & (kind[:, None] == 1), 6.0, 1.0))
    labels = np.array(["a", "b"])[kind] if by_class else kind.astype(float)
    cells = sp.csr_matrix((counts if is_counts else np.log1p(counts)).astype(np.float32))
    found = (
        VariableGeneModels(is_counts=is_counts, by_class=by_class).fit(cells[:150], labels[:150]).predict(cells[150:])
    )
    names = ("logistic regression", "random forest", "support vectors") if by_class else ("ridge",)
    assert list(found) == [f"variable genes, PCA, {name}" for name in names]
    for name, predicted in found.items():
        if by_class:
            least = 0.9 if name.endswith("logistic regression") else 0.85
            assert class_scores(labels[150:], predicted)["accuracy"] > least
        else:
            # The mean of the training cells is off by a half everywhere.
            assert regression_scores(labels[150:], predicted)["mae"] < 0.35


def test_a_draw_of_examples_has_every_class(monkeypatch):
    labels = np.array(["common"] * 998 + ["rare", "rarer"], dtype=object)
    assert some_examples(labels, 0).tolist() == list(range(1000))
    monkeypatch.setattr(simple_models, "_SUPPORT_EXAMPLES", 20)
    rows = some_examples(labels, 0)
    assert set(labels[rows]) == {"common", "rare", "rarer"}
    assert 20 <= len(rows) <= 23
    assert rows.tolist() == some_examples(labels, 0).tolist() != some_examples(labels, 1).tolist()
