"""Whether expression values are counts or log1p of normalised counts: decided once for a dataset, never per cell."""

from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from transformers.utils import logging

logger = logging.get_logger(__name__)

InputType = Literal["counts", "log1p"]

# The thresholds of the original (which applies them to each cell): log1p of anything below 1e15 is under 35, and no
# cell holds five million molecules.
_LARGEST_LOG1P = 35.0
_LARGEST_LIBRARY = 5_000_000.0


def _stored(block: Any) -> sp.csr_array:
    # Dense blocks may be of a type that sparse ones cannot be, such as float16.
    matrix: Any = block if sp.issparse(block) else np.asarray(block, dtype=np.float64)
    return sp.csr_array(matrix)


def _largest_library(block: sp.csr_array) -> float:
    """The largest number of molecules in a cell, if the values are log1p."""
    molecules = sp.csr_array((np.expm1(block.data.astype(np.float64)), block.indices, block.indptr), shape=block.shape)
    return float(molecules.sum(axis=1).max(initial=0.0))


def check_input_type(blocks: Any, input_type: Literal["counts", "log1p", "auto"]) -> InputType:
    """Hold what a dataset's values look like against what they are said to be.

    Whole numbers are counts. So are values that no log1p can be: above 35, or adding up to more than five million
    molecules in one cell. All others are log1p.

    Args:
        blocks: One (cells, genes) matrix, sparse or dense, or an iterable of several: a sample of the dataset's cells.
        input_type: What the values are: `"counts"` (raw or corrected), `"log1p"` (natural log of 1 + normalised
            counts), or `"auto"` to decide by the values and log the choice.

    Returns:
        `"counts"` or `"log1p"`.

    Raises:
        ValueError: If the values contradict `input_type`, or are negative or not finite.
    """
    if input_type not in ("counts", "log1p", "auto"):
        raise ValueError(f"input_type is {input_type!r}; it has to be 'counts', 'log1p' or 'auto'.")
    whole, largest, library, seen = True, 0.0, 0.0, False
    for block in map(_stored, [blocks] if hasattr(blocks, "shape") else blocks):
        values = block.data
        if values.size == 0:
            continue
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError(
                "The values hold NaN, infinite or negative numbers, so they are neither counts nor log1p "
                "(scaled data, perhaps). Choose the layer with counts or log1p values."
            )
        largest = max(largest, float(values.max()))
        seen = seen or largest > 0
        block_is_whole = values.dtype.kind in "ui" or bool((values == np.floor(values)).all())
        whole = whole and block_is_whole
        if not block_is_whole and largest <= _LARGEST_LOG1P:
            library = max(library, _largest_library(block))
    return _decide(input_type, whole=whole, largest=largest, library=library, seen=seen)


def _decide(input_type: str, *, whole: bool, largest: float, library: float, seen: bool) -> InputType:
    if whole:
        found: InputType = "counts"
        reason = "all values are whole numbers"
    elif largest > _LARGEST_LOG1P:
        found, reason = "counts", f"the largest value, {largest:g}, is more than a log1p value can be"
    elif library > _LARGEST_LIBRARY:
        found, reason = "counts", f"as log1p they would mean a cell of {library:,.0f} molecules"
    else:
        found, reason = "log1p", f"not all values are whole numbers, and the largest is {largest:g}"
    if input_type == "auto":
        logger.warning("input_type='auto': the values are taken for %s (%s).", found, reason)
        return found
    if seen and found != input_type:
        raise ValueError(
            f"The values are said to be {input_type}, but they look like {found}: {reason}. "
            f"Pass input_type={found!r}, or choose the layer with {input_type}."
        )
    return input_type  # type: ignore[return-value]
