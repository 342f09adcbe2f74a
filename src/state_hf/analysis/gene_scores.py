"""How well classes of genes are predicted when genes are held out, beside simple models with the same folds."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from state_hf.analysis.label_scores import class_scores
from state_hf.analysis.simple_models import simple_classifiers
from state_hf.data.gene_labels import GeneLabels


def held_out_scores(
    shares: np.ndarray,
    features: Mapping[str, np.ndarray],
    genes: GeneLabels,
    names: list[str],
    fold_of: np.ndarray,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores over all genes, each predicted when it was held out, of a fine-tuned model and of simple ones.

    Args:
        shares: (genes, classes) probabilities of the fine-tuned model.
        features: Kind of features -> (genes, features), which `simple_classifiers` are fitted to, fold by fold,
            standardised by the genes that they learn from.
        genes: The genes and their classes.
        names: The classes, in the order of `shares`.
        fold_of: (genes,) the fold in which each gene is held out.
        seed: Of the forests.

    Returns:
        One row a model: "fine-tuned", every kind of features with every classifier, and "majority", which answers the
        most frequent class of the other folds. For two classes, `auroc` is the mean of the folds' areas under the curve
        of the second class, and `auroc_sd` their standard deviation.
    """
    truth = genes.labels.astype(str)
    positive = {"fine-tuned": shares[:, -1]}
    predicted = {"fine-tuned": np.array(names)[shares.argmax(axis=1)]}
    for kind, values in features.items():
        for name in simple_classifiers():
            row = f"{kind}, {name}"
            predicted[row], positive[row] = np.empty(len(truth), object), np.zeros(len(truth))
            for fold in np.unique(fold_of):
                held_out = fold_of == fold
                fitted = make_pipeline(StandardScaler(), simple_classifiers(seed)[name])
                fitted.fit(values[~held_out], truth[~held_out])
                predicted[row][held_out] = fitted.predict(values[held_out])
                if len(names) == 2:
                    has_shares = hasattr(fitted, "predict_proba")
                    found = (
                        fitted.predict_proba(values[held_out])[:, 1]
                        if has_shares
                        else fitted.decision_function(values[held_out])
                    )
                    positive[row][held_out] = found
    common = [pd.Series(truth[fold_of != fold]).mode()[0] for fold in range(fold_of.max() + 1)]
    predicted["majority"], positive["majority"] = np.array(common)[fold_of], np.zeros(len(truth))
    rows = {}
    for row, found in predicted.items():
        rows[row] = class_scores(truth, found.astype(str))
        if len(names) == 2:
            # Within folds, since the scores of different models have no common scale.
            areas = [
                roc_auc_score(truth[fold_of == f] == names[1], positive[row][fold_of == f]) for f in np.unique(fold_of)
            ]
            rows[row] |= {"auroc": float(np.mean(areas)), "auroc_sd": float(np.std(areas))}
    return pd.DataFrame(rows).T.rename_axis("model")


__all__ = ["held_out_scores"]
