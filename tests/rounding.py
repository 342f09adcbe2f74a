"""How far apart two right computations of the same number may be.

The processor, its libraries and the number of threads decide in which order terms are added and what the last bit of a
logarithm is. A tolerance is therefore a bound on rounding, for the precision and the length of the computation, and not
what one machine has shown. Bounds: N. J. Higham, Accuracy and Stability of Numerical Algorithms (2nd edition
2002), sections 2.2, 3.1 and 4.2.
"""

import numpy as np
import torch

# The vector libraries of NumPy and torch promise 4 units in the last place for exp, log and their kind: 8 roundings.
FUNCTION = 8


def unit_roundoff(dtype: np.dtype | type | torch.dtype) -> float:
    """Largest relative error of one rounding: half the distance from 1 to the next number."""
    eps = torch.finfo(dtype).eps if isinstance(dtype, torch.dtype) else np.finfo(dtype).eps
    return float(eps) / 2


def bound(length: int, dtype: np.dtype | type | torch.dtype, scale: float = 1.0) -> float:
    """Largest distance of two computed sums of products, in whatever order each was added.

    Each is off by at most ``gamma * scale`` with ``gamma = n u / (1 - n u)``.

    Args:
        length: Roundings (n) that a term of the sum goes through: the number of terms, and `FUNCTION` for each exp or
            log on its way.
        dtype: Precision of the computation, whose unit roundoff is u.
        scale: Sum of the absolute values of the terms. 1 for a relative distance of a sum without cancellation.
    """
    share = length * unit_roundoff(dtype)
    if share >= 0.5:
        raise ValueError(f"{length} roundings in {dtype} leave no digit")
    return 2 * share / (1 - share) * scale
