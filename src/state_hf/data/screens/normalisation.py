"""What expression was normalised to: as the file records it, or as its values show; and whether files agree on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.tokenization.input_scale import SCALE_SAMPLE, SeenValues

logger = logging.get_logger(__name__)

SAME_TOTAL = 0.01
"""Relative difference up to which two totals are one: it changes no log1p value by more than 0.01."""

# Shares of counts that the genes of two files have in common differ so much for other reasons than cell types.
_LIKE_SHARES = 1.25
# What writes of it into `uns`, and the matrices that it is of.
_RECORDED_SLOTS = {"preprocess": ("X", "obsm/X_hvg"), "prediction": ("X",)}
RECORDS = tuple(_RECORDED_SLOTS)
"""The entries of `uns` that say what cells were normalised to."""


@dataclass(frozen=True)
class Normalisation:
    """What a matrix of log1p values was normalised to.

    Attributes:
        place: What messages call the matrix.
        total: Counts that every cell was scaled to; None where that is not known.
        genes: A digest of the genes that were counted; "" where that is not known.
    """

    place: str
    total: float | None
    genes: str = ""


def same_total(one: float, other: float) -> bool:
    """Whether two totals are one, but for rounding and medians of nearly the same cells."""
    return abs(one - other) <= SAME_TOTAL * max(one, other)


def recorded_total(uns: Mapping[str, Any], slot: str) -> tuple[float, str] | None:
    """The target sum that `uns` records for a slot, and the digest of the genes that it is of ("" where unknown).

    Args:
        uns: The entries `RECORDS`, where the data have them.
        slot: "X", "obsm/NAME", ...
    """
    for key, slots in _RECORDED_SLOTS.items():
        record = uns.get(key)
        if slot not in slots or not isinstance(record, Mapping) or str(record.get("scale")) != "log1p":
            continue
        try:
            total = float(record["target_sum"])
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite(total) and total > 0:
            return total, str(record.get("genes_sha256", ""))
    return None


def normalisation(uns: Mapping[str, Any], slot: str, place: str, seen: SeenValues) -> Normalisation:
    """What a matrix was normalised to, from the record in `uns` or, where the cells show it, from their values.

    Where the two disagree, the values are believed, and the disagreement is logged.

    Args:
        uns: See `recorded_total`.
        slot: The matrix.
        place: What messages call it.
        seen: What its values are.

    Raises:
        ValueError: The cells show several totals.
    """
    if len(seen.totals) > 1:
        listed = ", ".join(f"{total:,g}" for total in seen.totals)
        raise ValueError(
            f"the cells of {place} are normalised to different totals, {listed} counts, so that one value means "
            "different expression from cell to cell. Normalise all of them to one (state-hf preprocess of their counts)"
        )
    if seen.scale != "log1p" or seen.is_empty:
        return Normalisation(place, None)
    recorded = recorded_total(uns, slot)
    if recorded is None:
        return Normalisation(place, seen.total)
    if seen.total is not None and not same_total(recorded[0], seen.total):
        logger.warning_once(
            f"{place}: uns says that cells were normalised to {recorded[0]:,g} counts, but they add up to "
            f"{seen.total:,g}, which is believed"
        )
        return Normalisation(place, seen.total)
    return Normalisation(place, *recorded)


def normalisation_of(rows: CellMatrix, seen: SeenValues) -> Normalisation:
    """The same for a slot that is open."""
    return normalisation({key: rows.uns.get(key) for key in RECORDS}, rows.slot, rows.place, seen)


def agreed_total(found: Sequence[Normalisation], *ways: str) -> float | None:
    """The one total of several matrices whose cells are used together; None where it is not known of any.

    Where it is known of some only, that is logged.

    Args:
        found: One entry a matrix.
        ways: What to do about totals that differ, in place of preprocessing the files to that of the first.

    Raises:
        ValueError: Two totals are known, and differ.
    """
    known = [entry for entry in found if entry.total is not None]
    if not known:
        return None
    first = known[0]
    for other in known[1:]:
        if first.total is not None and other.total is not None and not same_total(first.total, other.total):
            problem = (
                f"{first.place} is normalised to {first.total:,g} counts a cell, and {other.place} to "
                f"{other.total:,g}, so that one value means different expression in the two"
            )
            default = f"preprocess all files to one total (`state-hf preprocess --target-sum {first.total:g}`)"
            raise ValueError(Advised(problem, *(ways or [default])))
    for entry in found:
        if entry.total is None:
            logger.warning(
                f"what {entry.place} was normalised to is not known: it records no target sum, and its cells do not "
                f"add up to one number. {first.place} is normalised to {first.total:,g} counts a cell"
            )
    return first.total


def check_counted_genes(one: CellMatrix, other: CellMatrix) -> None:
    """Refuse two files whose cells have one total over genes so different that it means another scale.

    The same variable genes, chosen from all genes here and from a panel there, hold a small share of the counts here
    and a large one there: normalised to one total, they are on two scales.

    Args:
        one: X of one file: all genes that were normalised.
        other: X of another.

    Raises:
        ValueError: The genes that both have hold shares of the counts that differ by more than a quarter.
    """
    if one.feature_names is None or other.feature_names is None:
        return
    shared = set(one.feature_names) & set(other.feature_names)
    shares = [_share(rows, shared) for rows in (one, other)]
    if min(shares) == 0 or max(shares) / min(shares) > _LIKE_SHARES:
        raise ValueError(
            f"{one.place} and {other.place} have one total, but counted other genes to it: the {len(shared):,} genes "
            f"that both have hold {shares[0]:.0%} of a cell's counts in the one and {shares[1]:.0%} in the other, so "
            "that one value means different expression in the two. Keep the genes that both have "
            "(adata[:, genes].copy()), then preprocess"
        )


def _share(rows: CellMatrix, genes: set[str]) -> float:
    chosen = np.array([name in genes for name in rows.feature_names or ()])
    molecules = rows.sample(SCALE_SAMPLE).astype(np.float64)
    molecules.data = np.expm1(molecules.data)
    totals = np.asarray(molecules.sum(axis=1)).ravel()
    parts = np.asarray(molecules[:, np.flatnonzero(chosen)].sum(axis=1)).ravel()
    return float(np.median(parts[totals > 0] / totals[totals > 0])) if (totals > 0).any() else 1.0


__all__ = [
    "RECORDS",
    "SAME_TOTAL",
    "Normalisation",
    "agreed_total",
    "check_counted_genes",
    "normalisation",
    "normalisation_of",
    "recorded_total",
    "same_total",
]
