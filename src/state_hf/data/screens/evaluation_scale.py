"""Whether each side of an evaluation is on one scale, and both on the same: what control cells were normalised to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.screens.normalisation import RECORDS, normalisation, same_total
from state_hf.data.screens.screen_reading import labels_of
from state_hf.metrics.input_check import CheckedInputs
from state_hf.tokenization.input_scale import SCALE_SAMPLE, SeenValues, look_at_values

LIKE_TOTALS = 1.25
"""Medians of control cells that differ by a larger factor are noted. The controls of both sides are mostly the same
cells, or drawn from the same: medians of some hundreds differ by a few hundredths. A factor of 1.25 moves log1p values
by up to 0.22, which is as much as most perturbations do."""

CLOSE_TOTALS = 1.1
"""Known totals that differ by a larger factor are refused, and others noted. Files that were normalised to their own
medians often differ by some hundredths, which moves log1p values by as much; a factor of 1.1 moves them by up to
0.1."""

SideName: TypeAlias = Literal["prediction", "reference", "baseline"]


def check_one_scale(side: CellMatrix, name: SideName) -> None:
    """Refuse a side of which some cells hold counts and others log1p values.

    Args:
        side: The cells that are scored, whose values have been found fit for the profile.
        name: The side.

    Raises:
        ValueError: A sample of the cells, spread over it, shows two scales.
    """
    seen = look_at_values(side.sample(SCALE_SAMPLE))
    if seen.scale is None:
        raise ValueError(
            f"{side.place}, the {name}, holds neither counts nor log1p values: {seen.reason}. Bring all cells, control "
            "and perturbed ones, to one scale (`state-hf preprocess`; of predictions, `state-hf predict --counts-slot`)"
        )


def compare_totals(
    name: SideName,
    side: tuple[CellMatrix, CellMatrix],
    reference: tuple[CellMatrix, CellMatrix],
    checked: CheckedInputs,
    *,
    perturbation_key: str,
    control: str,
    names: Mapping[str, str],
    expression: Mapping[str, Any],
) -> tuple[float | None, list[str]]:
    """Hold what a side was normalised to against the reference, for a profile that reads log-normalised expression.

    Args:
        name: The side.
        side: Its cells as they are given, with what they record, and those that are scored.
        reference: Likewise.
        checked: What the check read of the values of both.
        perturbation_key: Column of obs with the perturbations.
        control: Label of the control cells.
        names: What labels of perturbations are called, see `labels_of`.
        expression: What the profile says of expression.

    Returns:
        Ratio of the totals of their control cells, medians; None for a profile of counts. And what is to be said.

    Raises:
        ValueError: The totals are known, and differ.
    """
    if expression["space"] != "lognorm":
        return None, []
    totals = []
    sides = ((name, side, checked.prediction), ("reference", reference, checked.reference))
    for of, (whole, scored), values in sides:
        is_counts = values.largest_fraction <= expression["integer_tolerance"]
        of_control = partial(_controls, perturbation_key=perturbation_key, control=control, names=names)
        seen = None if is_counts else (of_control(whole), of_control(scored))
        totals.append(_side_total(cast(SideName, of), whole, seen, median_counts=values.median_total))
    ratio = totals[0].median / totals[1].median if totals[1].median else np.nan
    return ratio, total_notes(*totals)


@dataclass(frozen=True)
class SideTotal:
    """What the cells of one side add up to before the log.

    Attributes:
        name: The side.
        known: What they were normalised to, as it is recorded or as the control cells show; None where that is not
            known. Of counts, what the profile normalises them to: the median of all cells.
        median: Median of the control cells, over the genes that are scored; of counts, `known`. NaN without any.
        is_counts: Whether the side holds counts.
    """

    name: SideName
    known: float | None
    median: float
    is_counts: bool

    def __str__(self) -> str:
        if self.is_counts:
            return f"the {self.name} holds counts, which the profile normalises to their median, {self.known:,g}"
        return f"the {self.name} is normalised to {self.known:,g} counts a cell"

    @property
    def typical(self) -> str:
        """The median in words."""
        if self.is_counts:
            return f"the {self.name}'s counts are normalised to their median, {self.median:,.0f}"
        return f"a control cell of the {self.name} adds up to {self.median:,.0f} counts before the log"


def _side_total(
    name: SideName, whole: CellMatrix, seen: tuple[SeenValues, SeenValues] | None, *, median_counts: float
) -> SideTotal:
    """What is known of one side.

    Args:
        name: The side.
        whole: Its cells as they are given, with what they record.
        seen: Its control cells as they are given, and those of the genes that are scored; None where they are counts.
        median_counts: Median total of its cells, if they are counts.
    """
    if seen is None:
        return SideTotal(name, median_counts, median_counts, is_counts=True)
    of_all, of_scored = seen
    median = float(np.median(of_scored.molecules)) if len(of_scored.molecules) else np.nan
    records = {key: whole.uns.get(key) for key in RECORDS}
    known = normalisation(records, "X", f"X of the {name}", of_all).total
    return SideTotal(name, known, median, is_counts=False)


def total_notes(side: SideTotal, reference: SideTotal) -> list[str]:
    """What is to be said of the totals of a side and of the reference.

    Raises:
        ValueError: They are known, and differ.
    """
    if side.known is not None and reference.known is not None and not (side.is_counts and reference.is_counts):
        # What the profile itself normalises counts to is a median, which other cells move more.
        most = LIKE_TOTALS if side.is_counts or reference.is_counts else CLOSE_TOTALS
        if not _within(most, side.known, reference.known):
            target = side.known if reference.is_counts else reference.known
            raise ValueError(
                f"the two sides are on different scales, so their values do not compare: {side}, and {reference}. "
                f"Preprocess the counts of both to one total (`state-hf preprocess --target-sum {target:g}`)"
            )
        if not same_total(side.known, reference.known):
            moved = abs(np.log(side.known / reference.known))
            return [f"note: {side}, and {reference}, which alone moves log1p values by up to {moved:.2g}"]
    if np.isnan(side.median) or np.isnan(reference.median) or _within(LIKE_TOTALS, side.median, reference.median):
        return []
    return [
        f"note: {side.typical}, and {reference.typical} (medians, over the scored genes). If the cells are alike, the "
        "two sides are not on one scale, and their values do not compare"
    ]


def _within(factor: float, one: float, other: float) -> bool:
    return max(one, other) <= factor * min(one, other)


def _controls(cells: CellMatrix, *, perturbation_key: str, control: str, names: Mapping[str, str]) -> SeenValues:
    """What a sample of the control cells, spread over the data, looks like; it is empty where there are none."""
    rows = np.flatnonzero(labels_of(cells, perturbation_key, names) == control)
    return look_at_values([cells.sample_of(SCALE_SAMPLE, rows)] if len(rows) else [])


__all__ = ["CLOSE_TOTALS", "LIKE_TOTALS", "SideName", "SideTotal", "check_one_scale", "compare_totals", "total_notes"]
