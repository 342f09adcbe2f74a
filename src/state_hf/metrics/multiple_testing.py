"""Correction for many tests."""

import numpy as np


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """False discovery rates of each row of p-values (Benjamini and Hochberg 1995).

    Args:
        p_values: Families of tests x tests, in [0, 1].

    Returns:
        Adjusted p-values of the same shape.
    """
    adjusted = np.empty_like(p_values, dtype=np.float64)
    n_tests = p_values.shape[-1]
    for row, family in enumerate(p_values):
        order = np.argsort(family)
        scaled = family[order] * (n_tests / np.arange(1, n_tests + 1))
        adjusted[row, order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted
