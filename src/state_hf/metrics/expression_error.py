"""Errors of predicted profiles and effects."""

import numpy as np


def mean_absolute_error(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean over genes of |prediction - reference|, for each row. Best 0, no upper limit."""
    return np.abs(prediction - reference).mean(axis=1)


def mean_squared_error(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean over genes of (prediction - reference)^2, for each row. Best 0, no upper limit."""
    return ((prediction - reference) ** 2).mean(axis=1)


def pearson(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Pearson correlation over genes, for each row, in [-1, 1]; NaN where a row is constant."""
    left = prediction - prediction.mean(axis=1, keepdims=True)
    right = reference - reference.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    constant = (prediction == prediction[:, :1]).all(axis=1) | (reference == reference[:, :1]).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.clip((left * right).sum(axis=1) / norms, -1.0, 1.0)
    return np.where(constant, np.nan, correlation)


def unbiased_capped_error(
    prediction: np.ndarray,
    reference: np.ndarray,
    control: np.ndarray,
    noise_prediction: np.ndarray,
    noise_reference: np.ndarray,
    noise_control: float,
    target: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Squared error and squared effect of log profiles, both freed of sampling noise (2026 challenge).

    The error of the panel is sum(numerator) / sum(denominator): 0 for a perfect prediction, about 1 for the control.
    The prediction is credited with its own jackknife noise, at most the reference's, and in total at most the spread
    of its profiles over perturbations: noise that cancels in the pseudobulk is not credited.

    Args:
        prediction: Predicted log profiles, P x G.
        reference: Real log profiles, P x G.
        control: Log profile of the control (G).
        noise_prediction: Jackknife noise of each predicted profile (P).
        noise_reference: Jackknife noise of each real profile (P).
        noise_control: Jackknife noise of the control's profile.
        target: Position of each perturbation's target gene, which is left out; -1 where there is none (P).

    Returns:
        Numerator and denominator of each perturbation, per gene counted.
    """
    kept = np.ones(prediction.shape, dtype=bool)
    rows = np.flatnonzero(target >= 0)
    kept[rows, target[rows]] = False
    n_genes = kept.sum(axis=1)
    weights = np.divide(1.0, n_genes, out=np.zeros(len(n_genes)), where=n_genes > 0)
    credit = np.minimum(noise_prediction, noise_reference)
    claimed = float((credit * weights).sum())
    if claimed > 0:
        credit = credit * min(1.0, _spread(prediction, kept, weights) / claimed)
    error = np.where(kept, (prediction - reference) ** 2, 0.0).sum(axis=1)
    effect = np.where(kept, (reference - control) ** 2, 0.0).sum(axis=1)
    return (error - credit - noise_reference) * weights, (effect - noise_reference - noise_control) * weights


def _spread(profiles: np.ndarray, kept: np.ndarray, weights: np.ndarray) -> float:
    """Weighted sum of squares of profiles around their weighted mean, over the genes that each row keeps."""
    used = kept * weights[:, None]
    total = used.sum(axis=0)
    enough = (kept.sum(axis=0) >= 2) & (total > 0)
    mean = np.divide((used * profiles).sum(axis=0), total, out=np.zeros(len(total)), where=total > 0)
    return float((used * (profiles - mean) ** 2).sum(axis=0)[enough].sum())
