"""How well labels are predicted: scores over all classes, class by class, and of numbers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
)


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


__all__ = ["class_scores", "confusion", "per_class_scores", "regression_scores"]
