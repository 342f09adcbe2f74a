"""How this package compiles loops with numba: the options, once."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(*, parallel: bool = False, fastmath: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that compiles a loop: the GIL released, divisions by zero as in NumPy, cached on disk where possible.

    Args:
        parallel: Whether `prange` loops run on numba's threads.
        fastmath: Whether sums may be reordered (needed to vectorise a reduction).
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "parallel": parallel, "fastmath": fastmath}
        try:
            return numba.njit(cache=True, **options)(function)  # noqa: TID251
        except RuntimeError:  # numba found no folder to cache in: a read-only installation without a home
            return numba.njit(**options)(function)  # noqa: TID251

    return decorate


__all__ = ["kernel"]
