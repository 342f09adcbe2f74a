"""Whether expression values are counts or log1p of normalised counts: decided once for a dataset, never per cell."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from transformers.utils import logging

from state_hf.configuration.advice import Advised

logger = logging.get_logger(__name__)

InputType = Literal["counts", "log1p"]

SCALE_SAMPLE = 1024
"""Cells of a dataset, spread over it, whose values say what its scale is."""

# The thresholds of the original (which applies them to each cell): log1p of anything below 1e15 is under 35, and no
# cell holds five million molecules.
_LARGEST_LOG1P = 35.0
_LARGEST_LIBRARY = 5_000_000.0
# Of a matrix of one scale, all cells hold fractions or none does.
_MIXED_SHARE = 0.1
# Cells that were normalised add up to one total, but for the rounding of their logs: in half precision that is 2e-3 of
# the largest gene, and less of a sum. Few cells prove nothing, and one in a hundred may be a special case.
_SAME_TOTAL = 2e-3
_MIN_CELLS = 5
_SAME_SHARE = 0.99
_MOST_TOTALS = 8
# Logarithms that people take beside the natural one, and the cells by which they are told from it.
_OTHER_BASES = (2.0, 10.0)
_BASE_CELLS = 256


@dataclass(frozen=True, eq=False)
class SeenValues:
    """What the values of a matrix are, or of a sample of its cells.

    Attributes:
        scale: "counts" or "log1p"; None where they are neither.
        reason: By what this was decided.
        is_empty: Whether no value is above 0, so that they are of any scale.
        molecules: (cells,) what the cells with a value above 0 add up to before the log, if they are log1p; for counts,
            their totals.
    """

    scale: InputType | None
    reason: str
    is_empty: bool
    molecules: np.ndarray

    @property
    def totals(self) -> list[float]:
        """What the cells were normalised to, where they show it by adding up to one of a few totals; else empty.

        They do where the matrix has all genes that were normalised together: a part of them has other sums. More than
        one is of files that were normalised apart.
        """
        if self.scale != "log1p" or len(self.molecules) < _MIN_CELLS:
            return []
        ordered, covered, start = np.sort(self.molecules), 0, 0
        found: list[float] = []
        while start < len(ordered) and len(found) <= _MOST_TOTALS:
            stop = int(np.searchsorted(ordered, ordered[start] * (1 + 2 * _SAME_TOTAL), side="right"))
            if stop - start >= _MIN_CELLS:
                found.append(float(f"{np.median(ordered[start:stop]):.5g}"))
                covered += stop - start
            start = stop
        return found if covered >= _SAME_SHARE * len(ordered) else []

    @property
    def total(self) -> float | None:
        """The one that all cells have; None where they show none, or several."""
        totals = self.totals
        return totals[0] if len(totals) == 1 else None


def _stored(block: Any) -> sp.csr_array:
    # Dense blocks may be of a type that sparse ones cannot be, such as float16.
    matrix: Any = block if sp.issparse(block) else np.asarray(block, dtype=np.float64)
    stored = sp.csr_array(matrix)
    if not stored.has_canonical_format:  # a value may lie there in parts, which SciPy adds up where it comes to them
        stored = stored.copy()
        stored.sum_duplicates()
    return stored


def _sums(block: sp.csr_array, values: np.ndarray) -> np.ndarray:
    """(cells,) sums of what stands in the place of a block's values."""
    return np.asarray(sp.csr_array((values, block.indices, block.indptr), shape=block.shape).sum(axis=1), dtype=float)


def look_at_values(blocks: Any) -> SeenValues:
    """Find out what values are.

    Whole numbers are counts. So are values that no log1p can be: above 35, or adding up to more than five million
    molecules in one cell. All others are log1p. Values that are negative or not finite are neither, nor are cells of
    which some hold counts and others log1p, nor logs to the base 2 or 10 of cells with one total (as log2(CPM + 1)).

    Args:
        blocks: One (cells, genes) matrix, sparse or dense, or an iterable of several: a sample of the dataset's cells.
    """
    largest, fractions, totals, molecules = [], [], [], []
    of_bases: dict[float, list[np.ndarray]] = {base: [] for base in _OTHER_BASES}
    for block in map(_stored, [blocks] if hasattr(blocks, "shape") else blocks):
        values = block.data
        if not values.size:
            continue
        if not np.isfinite(values).all():
            return SeenValues(None, "some are NaN or infinite", is_empty=False, molecules=np.empty(0))
        if values.min() < 0:
            reason = f"some are negative, the least of those looked at is {values.min():g} (scaled data, perhaps)"
            return SeenValues(None, reason, is_empty=False, molecules=np.empty(0))
        exact = values.astype(np.float64)
        most = np.asarray(block.max(axis=1).todense(), dtype=float).ravel()
        cells = most > 0
        largest.append(most[cells])
        totals.append(_sums(block, exact)[cells])
        whole = values.dtype.kind in "ui"
        fractions.append(np.zeros(int(cells.sum())) if whole else _sums(block, exact != np.floor(exact))[cells])
        molecules.append(_sums(block, np.expm1(np.minimum(exact, _LARGEST_LOG1P)))[cells])
        wanted = _BASE_CELLS - sum(map(len, of_bases[2.0]))
        if wanted > 0:
            first = block[:wanted]
            for base, sums in of_bases.items():
                powers = np.expm1(np.minimum(first.data.astype(np.float64), _LARGEST_LOG1P) * np.log(base))
                sums.append(_sums(first, powers)[cells[:wanted]])
    if not largest or not sum(map(len, largest)):
        return SeenValues("counts", "all values are 0", is_empty=True, molecules=np.empty(0))
    decided = [np.concatenate(parts) for parts in (largest, fractions, totals, molecules)]
    seen, are_logs = _decide(*decided), decided[1].any() and decided[0].max() <= _LARGEST_LOG1P
    for base, sums in of_bases.items() if are_logs and not seen.totals else ():
        total = SeenValues("log1p", "", is_empty=False, molecules=np.concatenate(sums)).total
        if total is not None:
            reason = (
                f"as logs to the base {base:g}, its cells add up to {total:,g} counts each, and natural ones are read "
                f"(values times ln {base:g})"
            )
            return SeenValues(None, reason, is_empty=False, molecules=np.empty(0))
    return seen


def _decide(largest: np.ndarray, fractions: np.ndarray, totals: np.ndarray, molecules: np.ndarray) -> SeenValues:
    """From the largest value, the number of fractions, the sum, and the molecules if it is log1p, of every cell."""
    most, fractional = float(largest.max()), fractions > 0
    if not fractional.any():
        return SeenValues("counts", "all values are whole numbers", is_empty=False, molecules=totals)
    if largest[fractional].max() > _LARGEST_LOG1P:
        reason = f"the largest value, {most:g}, is more than a log1p value can be"
        return SeenValues("counts", reason, is_empty=False, molecules=totals)
    if (library := float(molecules[fractional].max())) > _LARGEST_LIBRARY:
        reason = f"as log1p they would mean a cell of {library:,.0f} molecules"
        return SeenValues("counts", reason, is_empty=False, molecules=totals)
    if _MIXED_SHARE < fractional.mean() < 1 - _MIXED_SHARE:
        reason = (
            f"{int(fractional.sum()):,} of the {len(fractional):,} cells looked at hold fractions, "
            "and the others whole numbers only: two scales in one matrix"
        )
        return SeenValues(None, reason, is_empty=False, molecules=np.empty(0))
    reason = f"not all values are whole numbers, and the largest is {most:g}"
    return SeenValues("log1p", reason, is_empty=False, molecules=molecules)


def check_scale(seen: SeenValues, wanted: InputType, place: str, *ways: str) -> None:
    """Refuse a slot whose values are not of the scale that is read from it.

    Args:
        seen: What its values are.
        wanted: The scale.
        place: The slot and its file, for the message.
        ways: What the user can do about it, see `Advised`.

    Raises:
        ValueError: They are not.
    """
    if seen.is_empty or seen.scale == wanted:
        return
    found = {"counts": "counts", "log1p": "log1p values", None: "neither counts nor log1p values"}[seen.scale]
    raise ValueError(Advised(f"{place} is read as {wanted}, but holds {found}: {seen.reason}", *ways))


def check_input_type(
    blocks: Any,
    input_type: Literal["counts", "log1p", "auto"],
    *,
    declare: str = "say so (input_type={scale!r})",
    instead: str = "choose the layer with counts or log1p values",
) -> InputType:
    """Hold what a dataset's values look like against what they are said to be.

    Args:
        blocks: One (cells, genes) matrix, sparse or dense, or an iterable of several: a sample of the dataset's cells.
        input_type: What the values are: `"counts"` (raw or corrected), `"log1p"` (natural log of 1 + normalised
            counts), or `"auto"` to decide by the values, see `look_at_values`, and log the choice.
        declare: For the message: how the user says that the values are of another `scale`.
        instead: For the message: how other values are read.

    Returns:
        `"counts"` or `"log1p"`.

    Raises:
        ValueError: If the values contradict `input_type`, or are neither.
    """
    if input_type not in ("counts", "log1p", "auto"):
        raise ValueError(f"input_type is {input_type!r}; it has to be 'counts', 'log1p' or 'auto'.")
    seen = look_at_values(blocks)
    if seen.scale is None:
        raise ValueError(Advised(f"The values are neither counts nor log1p: {seen.reason}", instead))
    if input_type == "auto":
        logger.warning("input_type='auto': the values are taken for %s (%s).", seen.scale, seen.reason)
        return seen.scale
    if not seen.is_empty and seen.scale != input_type:
        raise ValueError(
            Advised(
                f"The values are said to be {input_type}, but they look like {seen.scale}: {seen.reason}",
                declare.format(scale=seen.scale),
                instead,
            )
        )
    return input_type
