"""Agreement of two DE tables: the measures of 2025, and the simple ones of 2026.

All functions take arrays of perturbations x genes (the same genes on both sides) and return one value a perturbation;
NaN where the measure is undefined for it.
"""

import numpy as np
from scipy.stats import rankdata


def top_genes_agreement(
    significant_reference: np.ndarray,
    significant_prediction: np.ndarray,
    size_reference: np.ndarray,
    size_prediction: np.ndarray,
    *,
    k: int | None,
    of: str,
) -> np.ndarray:
    """Share of the top k significant genes, by absolute fold change, that both sides have in common.

    Args:
        significant_reference: Real calls, P x G.
        significant_prediction: Predicted calls, P x G.
        size_reference: Real absolute log2 fold changes, P x G.
        size_prediction: Predicted ones, P x G.
        k: Number of genes; None for all of the side named by `of`.
        of: `reference`: k is at most the number of real calls (overlap, a recall). `prediction`: at most the number of
            predicted calls (precision).

    Returns:
        |top_k(real) & top_k(predicted)| / k in [0, 1], best 1; 0 where k is 0. Genes with equal fold changes stand in
        the order of the genes.
    """
    values = np.zeros(len(size_reference))
    for row in range(len(values)):
        real = _largest_first(significant_reference[row], size_reference[row])
        predicted = _largest_first(significant_prediction[row], size_prediction[row])
        available = len(real) if of == "reference" else len(predicted)
        used = available if k is None else min(k, available)
        if used:
            values[row] = len(np.intersect1d(real[:used], predicted[:used])) / used
    return values


def most_significant_overlap(
    significant_reference: np.ndarray, significant_prediction: np.ndarray, p_prediction: np.ndarray
) -> np.ndarray:
    """Share of the real DE genes that the prediction calls, in the form of the 2025 primer.

    A prediction that calls more genes than are real is cut to its most significant ones, as many as are real. In
    [0, 1], best 1; 0 where no gene is really changed.
    """
    values = np.zeros(len(p_prediction))
    for row in range(len(values)):
        real = np.flatnonzero(significant_reference[row])
        predicted = np.flatnonzero(significant_prediction[row])
        if len(predicted) > len(real):
            order = np.argsort(p_prediction[row, predicted], kind="stable")
            predicted = predicted[order[: len(real)]]
        if len(real):
            values[row] = len(np.intersect1d(real, predicted)) / len(real)
    return values


def significant_recall(significant_reference: np.ndarray, significant_prediction: np.ndarray) -> np.ndarray:
    """Share of the real DE genes that the prediction calls, in [0, 1]; NaN where no gene is really changed."""
    return _ratio((significant_reference & significant_prediction).sum(axis=1), significant_reference.sum(axis=1))


def significant_jaccard(significant_reference: np.ndarray, significant_prediction: np.ndarray) -> np.ndarray:
    """Jaccard index of the two sets of DE genes, in [0, 1]; 1 where both are empty."""
    union = (significant_reference | significant_prediction).sum(axis=1)
    both = (significant_reference & significant_prediction).sum(axis=1)
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def direction_match(
    significant_reference: np.ndarray, change_reference: np.ndarray, change_prediction: np.ndarray
) -> np.ndarray:
    """Share of the real DE genes whose predicted fold change has the real sign (0 matches 0); NaN where none is."""
    same = np.sign(change_reference) == np.sign(change_prediction)
    return _ratio((same & significant_reference).sum(axis=1), significant_reference.sum(axis=1))


def fold_change_correlation(
    significant_reference: np.ndarray, change_reference: np.ndarray, change_prediction: np.ndarray
) -> np.ndarray:
    """Spearman correlation of fold changes over the real DE genes, in [-1, 1]; NaN for fewer than two, or constant."""
    return np.array(
        [
            spearman(real[chosen], predicted[chosen])
            for chosen, real, predicted in zip(significant_reference, change_reference, change_prediction, strict=True)
        ]
    )


def significant_count_correlation(significant_reference: np.ndarray, significant_prediction: np.ndarray) -> float:
    """Spearman correlation, over perturbations with a real DE gene, of the numbers of DE genes; 1 if there are none."""
    real, predicted = significant_reference.sum(axis=1), significant_prediction.sum(axis=1)
    changed = real > 0
    return spearman(real[changed], predicted[changed]) if changed.any() else 1.0


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps: sum of (R_n - R_n-1) P_n; NaN where all labels are equal.

    Args:
        labels: Real DE genes, P x G.
        scores: Confidence, higher first; equal scores are one step.
    """
    return np.array([_average_precision(*pair) for pair in zip(labels, scores, strict=True)])


def roc_area(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Probability that a real DE gene has the higher score (equal scores count half); NaN where all labels are equal.

    Args:
        labels: Real DE genes, P x G.
        scores: Confidence.
    """
    positives = labels.sum(axis=1)
    negatives = labels.shape[1] - positives
    ranks = rankdata(scores, axis=1)
    wins = np.where(labels, ranks, 0.0).sum(axis=1) - positives * (positives + 1) / 2
    return _ratio(wins, positives * negatives)


def fold_change_error(
    significant_reference: np.ndarray, change_reference: np.ndarray, change_prediction: np.ndarray, *, min_genes: int
) -> np.ndarray:
    """Absolute error of log fold changes over the real DE genes, relative to their size (2026 challenge).

    Args:
        significant_reference: Real calls, P x G, without the genes to leave out.
        change_reference: Real log2 fold changes, P x G.
        change_prediction: Predicted ones, P x G; those that are not finite count as 0.
        min_genes: Perturbations with fewer usable genes have no value.

    Returns:
        sum|predicted - real| / sum|real|: 0 is best, 1 is predicting no change.
    """
    used = significant_reference & np.isfinite(change_reference)
    real = np.where(used, change_reference, 0.0)
    predicted = np.where(used & np.isfinite(change_prediction), change_prediction, 0.0)
    values = _ratio(np.abs(predicted - real).sum(axis=1), np.abs(real).sum(axis=1))
    values[used.sum(axis=1) < min_genes] = np.nan
    return values


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman correlation with mean ranks for ties; NaN for fewer than two values, or if a side is constant."""
    if len(left) < 2:
        return np.nan
    left, right = rankdata(left), rankdata(right)
    left, right = left - left.mean(), right - right.mean()
    norm = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / norm) if norm > 0 else np.nan


def _largest_first(significant: np.ndarray, size: np.ndarray) -> np.ndarray:
    genes = np.flatnonzero(significant)
    return genes[np.argsort(-size[genes], kind="stable")]


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    positives = labels.sum()
    if not 0 < positives < len(labels):
        return np.nan
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    step_ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    hits = labels[order].cumsum()[step_ends]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (step_ends + 1)).sum() / positives)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
