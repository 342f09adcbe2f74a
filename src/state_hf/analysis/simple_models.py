"""What a fine-tuned model has to beat: classical models of the same training examples."""

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC

_SOLVER_STEPS = 2000
_TREES = 200
# The time of support vectors grows with the square of the examples.
_SUPPORT_EXAMPLES = 5000
_COMPONENTS = 50
_VARIABLE_GENES = 2000


def simple_classifiers(seed: int = 0) -> dict[str, Any]:
    """Unfitted classifiers by name, in all of which every class weighs the same; scikit-learn's defaults else.

    Logistic regression, a random forest of 200 trees, and support vectors with a radial kernel. All see the features as
    they are: principal components are not to be standardised, as that would make the last of them as loud as the first.

    Args:
        seed: Of the forest.
    """
    return {
        "logistic regression": LogisticRegression(class_weight="balanced", max_iter=_SOLVER_STEPS),
        "random forest": RandomForestClassifier(_TREES, class_weight="balanced", random_state=seed),
        "support vectors": SVC(class_weight="balanced"),
    }


class VariableGeneModels:
    """Models on variable genes: principal components, and classifiers (or ridge, for numbers) on these.

    log1p of counts per 10,000 (or the values as they are, if they are log1p), the 2,000 genes whose variance over mean
    is largest in the training cells, 50 components, then `simple_classifiers`, or ridge. Support vectors are fitted to
    5,000 training cells, drawn at random, where there are more.

    Args:
        is_counts: Whether values are counts.
        by_class: Whether labels are classes; else numbers.
        seed: Of the components' solver, the forest and the draw.
    """

    def __init__(self, *, is_counts: bool, by_class: bool, seed: int = 0) -> None:
        self.is_counts, self.by_class, self.seed = is_counts, by_class, seed

    def _logged(self, cells: sparse.csr_matrix) -> sparse.csr_matrix:
        values = cells.astype(np.float32)
        if self.is_counts:
            totals = np.asarray(values.sum(axis=1)).ravel()
            values = sparse.csr_matrix(sparse.diags_array(1e4 / np.maximum(totals, 1), dtype=np.float32) @ values)
            values.data = np.log1p(values.data)
        return values

    def fit(self, cells: sparse.csr_matrix, labels: np.ndarray) -> "VariableGeneModels":
        """Fit to training cells.

        Args:
            cells: (cells, genes) CSR.
            labels: (cells,) class names or numbers.
        """
        values = self._logged(cells)
        means = np.asarray(values.mean(axis=0)).ravel()
        squares = np.asarray(values.multiply(values).mean(axis=0)).ravel()
        dispersion = (squares - means**2) / np.maximum(means, 1e-12)
        self.genes = np.sort(np.argsort(-dispersion, kind="stable")[:_VARIABLE_GENES])
        chosen = values[:, self.genes].toarray()
        size = min(_COMPONENTS, *chosen.shape)
        self.components = PCA(size, random_state=self.seed).fit(chosen)
        features = self.components.transform(chosen)
        self.models: dict[str, Any] = simple_classifiers(self.seed) if self.by_class else {"ridge": Ridge()}
        for name, model in self.models.items():
            rows = some_examples(labels, self.seed) if name == "support vectors" else slice(None)
            model.fit(features[rows], labels[rows])
        return self

    def predict(self, cells: sparse.csr_matrix) -> dict[str, np.ndarray]:
        """(cells,) labels of (cells, genes) CSR, by the name of each model."""
        features = self.components.transform(self._logged(cells)[:, self.genes].toarray())
        return {f"variable genes, PCA, {name}": model.predict(features) for name, model in self.models.items()}


def some_examples(labels: np.ndarray, seed: int) -> np.ndarray:
    """Row numbers of the examples that support vectors are fitted to: all, or 5,000, with one of every class at least.

    Args:
        labels: (examples,) class names.
        seed: Of the draw.
    """
    if len(labels) <= _SUPPORT_EXAMPLES:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    _, firsts = np.unique(labels[order].astype(str), return_index=True)
    kept = np.zeros(len(labels), np.bool_)
    kept[order[:_SUPPORT_EXAMPLES]] = kept[order[firsts]] = True
    return np.flatnonzero(kept)


__all__ = ["VariableGeneModels", "simple_classifiers", "some_examples"]
