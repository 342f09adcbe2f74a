"""The counts behind log-normalised values, where the values show them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from state_hf.metrics import _rank_kernels
from state_hf.metrics.screen import CellBlock, RowScaling, Screen

# Units in the last place by which a log-normalised value may be off; see `rank_test.TIE_ULPS`.
_VALUE_ULPS = 8
# Its own cells and the controls of the other side may be normalised to two totals.
_MOST_TARGETS = 2
# Totals that cells are normalised to are whole or half numbers: a round one, or a median of whole numbers.
_LARGEST_TARGET = 1_000_000
_SEARCHED_ROWS = 1000
# How unlikely it has to be that a target fits other data by chance.
_CHANCE = 1e-9


def counts_behind(screen: Screen) -> list[RowScaling] | None:
    """How log-normalised values become count / total * target again, for each block; None where that is not certain.

    Before the logarithm the values of a cell are whole multiples of one step, target / total. If no gene was left out
    after the normalisation, a cell's total is the sum of its counts, and step * total is the same target for all cells.
    Otherwise the total is target / step, with the target for which that is a whole number in every cell. Either
    coincidence proves the counts that were found. Other values, such as a network's predictions, have neither.

    Args:
        screen: Log-normalised cells.
    """
    # Values of double precision, or the scales of their cells, may have been rounded to single precision on their way.
    single, double = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
    for ulp in (double, single) if screen.dtype == np.float64 else (single,):
        found = _counts_behind(screen, _VALUE_ULPS * ulp)
        if found is not None:
            return found
    return None


def _counts_behind(screen: Screen, error: float) -> list[RowScaling] | None:
    blocks = []
    for block in screen.blocks:
        rows = _recovered(block, error)
        if rows is None:
            return None
        blocks.append(rows)
    if (targets := _targets(blocks, _Rows.summed_target, _Rows.sums_to)) is not None:
        return [rows.normalisation(target, rows.counted) for rows, target in zip(blocks, targets, strict=True)]
    if (targets := _targets(blocks, _Rows.searched_target, _Rows.divides)) is not None:
        return [rows.normalisation(target, rows.totals(target)) for rows, target in zip(blocks, targets, strict=True)]
    return None


@dataclass(frozen=True)
class _Rows:
    """What the rows of a block that have values show.

    Args:
        expressed: Whether each row of the block has values.
        steps: What one count is before the logarithm.
        counted: Sum of the counts found.
        errors: Largest relative error of a step.
    """

    expressed: np.ndarray
    steps: np.ndarray
    counted: np.ndarray
    errors: np.ndarray

    def summed_target(self) -> float | None:
        return float(np.median(self.steps * self.counted))

    def sums_to(self, target: float) -> bool:
        off = np.abs(self.steps * self.counted / target - 1)
        return bool((off <= self.errors + self.errors.max()).all())

    def totals(self, target: float) -> np.ndarray:
        return np.rint(target / self.steps)

    def divides(self, target: float) -> bool:
        totals = self.totals(target)
        near = np.abs(target / self.steps - totals) <= totals * self.errors
        return bool((near & (totals >= self.counted)).all())

    def searched_target(self) -> float | None:
        rows = np.argsort(self.errors / self.steps, kind="stable")[:_SEARCHED_ROWS]
        # Beyond that, the best row leaves room for a quarter, where whole numbers are nothing special.
        largest = min(_LARGEST_TARGET, 0.25 * self.steps[rows[0]] / self.errors[rows[0]])
        candidates = np.arange(1, int(2 * largest) + 1) / 2
        log_chance = np.log(2 * _LARGEST_TARGET)
        for row in rows:
            totals = candidates / self.steps[row]
            slack = totals * self.errors[row]
            near = np.flatnonzero((np.abs(totals - np.rint(totals)) <= slack) & (slack <= 0.25))
            candidates = candidates[near]
            log_chance = np.broadcast_to(log_chance, totals.shape)[near] + np.log(2 * slack[near])
            sure = log_chance < np.log(_CHANCE)
            for target in candidates[sure]:
                if self.divides(target):
                    return float(target)
            candidates, log_chance = candidates[~sure], log_chance[~sure]
            if not len(candidates):
                return None
        return None

    def normalisation(self, target: float, totals: np.ndarray) -> RowScaling:
        all_totals, all_steps = np.ones((2, len(self.expressed)))
        all_totals[self.expressed], all_steps[self.expressed] = totals, self.steps
        return RowScaling(all_totals, target, all_steps)


def _recovered(block: CellBlock, error: float) -> _Rows | None:
    """The rows of a block, if the values of each are whole multiples of a step, as far as their error lets one see."""
    matrix = block.matrix
    if isinstance(matrix, np.ndarray):
        data, indptr = matrix.reshape(-1), np.arange(matrix.shape[0] + 1, dtype=np.int64) * matrix.shape[1]
    else:
        data, indptr = matrix.data, matrix.indptr
    steps, counted, errors = np.empty((3, len(block.codes)))
    _rank_kernels.recover_counts(indptr, data, error, steps, counted, errors)
    if (counted < 0).any():
        return None
    rows = counted > 0
    return _Rows(rows, steps[rows], counted[rows], errors[rows])


def _targets(
    blocks: Sequence[_Rows], find: Callable[[_Rows], float | None], fits: Callable[[_Rows, float], bool]
) -> list[float] | None:
    """The target of each block: one for all, or two."""
    known: list[float] = []
    targets = []
    for rows in blocks:
        if not rows.expressed.any():
            targets.append(1.0)
            continue
        target = next((target for target in known if fits(rows, target)), None)
        if target is None:
            target = find(rows) if len(known) < _MOST_TARGETS else None
            if target is None or not fits(rows, target):
                return None
            known.append(target)
        targets.append(target)
    return targets


__all__ = ["counts_behind"]
