"""How well labels are predicted, class by class, and what simple answers on the same cells reach."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
)

_SOLVER_STEPS = 2000
_COMPONENTS = 50
_VARIABLE_GENES = 2000


def class_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy (mean recall) and macro F1 over the labels that the truth has, each in [0, 1].

    Args:
        truth: (cells,) labels.
        predicted: (cells,) labels.
    """
    names = np.unique(truth)
    f1 = precision_recall_fscore_support(truth, predicted, labels=names, average="macro", zero_division=0)[2]
    # Balanced over the true labels: a predicted label that no cell has is wrong, and no class of its own.
    recall = precision_recall_fscore_support(truth, predicted, labels=names, average="macro", zero_division=0)[1]
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall),
        "macro_f1": float(f1),
    }


def per_class_scores(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 and number of cells of every class; NaN precision where a class is never predicted.

    Args:
        truth: (cells,) labels.
        predicted: (cells,) labels.
        names: The classes.
    """
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=list(names), zero_division=np.nan
    )
    columns = {"precision": precision, "recall": recall, "f1": f1, "cells": support}
    return pd.DataFrame(columns, index=pd.Index(names, name="class"))


def confusion(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """(true classes, predicted classes) numbers of cells."""
    counts = confusion_matrix(truth, predicted, labels=list(names))
    return pd.DataFrame(counts, index=pd.Index(names, name="true"), columns=pd.Index(names, name="predicted"))


def regression_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Mean absolute error, R2, and Pearson correlation (NaN where one side is constant)."""
    constant = np.ptp(truth) == 0 or np.ptp(predicted) == 0
    return {
        "mae": float(mean_absolute_error(truth, predicted)),
        "r2": float(r2_score(truth, predicted)),
        "pearson": float("nan") if constant else float(np.corrcoef(truth, predicted)[0, 1]),
    }


class VariableGeneModel:
    """What a fine-tuned model has to beat: variable genes, principal components, and a linear model on these.

    log1p of counts per 10,000 (or the values as they are, if they are log1p), the 2,000 genes whose variance over mean
    is largest in the training cells, 50 components, then logistic regression with balanced classes, or ridge.

    Args:
        is_counts: Whether values are counts.
        by_class: Whether labels are classes; else numbers.
        seed: Of the components' solver.
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

    def _features(self, cells: sparse.csr_matrix) -> np.ndarray:
        return self.components.transform(self._logged(cells)[:, self.genes].toarray())

    def fit(self, cells: sparse.csr_matrix, labels: np.ndarray) -> "VariableGeneModel":
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
        self.model: Any = (
            LogisticRegression(class_weight="balanced", max_iter=_SOLVER_STEPS) if self.by_class else Ridge()
        )
        self.model.fit(features, labels)
        return self

    def predict(self, cells: sparse.csr_matrix) -> np.ndarray:
        """(cells,) labels of (cells, genes) CSR."""
        return self.model.predict(self._features(cells))


__all__ = ["VariableGeneModel", "class_scores", "confusion", "per_class_scores", "regression_scores"]
