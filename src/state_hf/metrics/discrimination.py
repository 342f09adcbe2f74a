"""Perturbation discrimination: is the real perturbation the nearest to its prediction?"""

from typing import Literal

import numpy as np

from state_hf.metrics import _summary_kernels


def profile_distances(
    prediction: np.ndarray,
    reference: np.ndarray,
    distance: Literal["l1", "l2", "cosine"],
    *,
    target: np.ndarray | None = None,
) -> np.ndarray:
    """Distance from each predicted row to each real row.

    Args:
        prediction: P x G.
        reference: Q x G.
        distance: `l1`, `l2` or `cosine` (1 - cosine similarity; 1 where either row is zero).
        target: For each predicted row a gene that its distances leave out; -1 for none. None leaves out nothing.

    Returns:
        P x Q.
    """
    left_out = np.full(len(prediction), -1, dtype=np.int64) if target is None else target.astype(np.int64)
    prediction, reference = np.ascontiguousarray(prediction), np.ascontiguousarray(reference)
    if distance == "cosine":
        return _cosine_distances(prediction, reference, left_out)
    distances = np.empty((len(prediction), len(reference)))
    _summary_kernels.minkowski_distances(prediction, reference, left_out, distance == "l2", distances)
    return np.sqrt(distances) if distance == "l2" else distances


def discrimination_score(
    distances: np.ndarray, *, ties: Literal["first", "middle", "closer"], denominator: Literal["n", "n-1"]
) -> np.ndarray:
    """1 - rank / n of each prediction's own perturbation by ascending distance; the rank starts at 0.

    Args:
        distances: P x P, own perturbation on the diagonal.
        ties: Which equally distant perturbations count as closer: those that come `first` in the order of the labels,
            half of them (`middle`), or none (`closer`: only strictly closer ones count).
        denominator: Number of perturbations, or one less.

    Returns:
        Values in [0, 1], best 1; for `n`, at least 1/n. A prediction that says nothing scores about 0.5.
    """
    own = np.diag(distances)[:, None]
    closer = (distances < own).sum(axis=1).astype(np.float64)
    equal = distances == own
    if ties == "first":
        closer += np.tril(equal, k=-1).sum(axis=1)
    elif ties == "middle":
        closer += (equal.sum(axis=1) - 1) / 2
    among = len(distances) - (denominator == "n-1")
    return 1.0 - closer / among if among > 0 else np.ones(len(distances))


def _cosine_distances(prediction: np.ndarray, reference: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    product = prediction @ reference.T
    left = np.repeat((prediction**2).sum(axis=1)[:, None], len(reference), axis=1)
    right = np.repeat((reference**2).sum(axis=1)[None, :], len(prediction), axis=0)
    rows = np.flatnonzero(left_out >= 0)
    genes = left_out[rows]
    product[rows] -= prediction[rows, genes][:, None] * reference[:, genes].T
    left[rows] -= prediction[rows, genes][:, None] ** 2
    right[rows] -= reference[:, genes].T ** 2
    norms = np.sqrt(np.maximum(left, 0.0)) * np.sqrt(np.maximum(right, 0.0))
    return 1.0 - np.divide(product, norms, out=np.zeros_like(product), where=norms > 0)
