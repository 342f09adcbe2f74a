"""What effects of in-silico perturbations are worth: beside random genes of like expression, with intervals and tests.

Cells of one data set are no independent repeats of an experiment, and a test over cells sees differences between genes
that are too small to matter: read the size of a difference and its interval first, the p-value last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu, norm, rankdata, wilcoxon
from sklearn.mixture import GaussianMixture

from state_hf.configuration.wording import listed
from state_hf.metrics.multiple_testing import benjamini_hochberg

SIGNIFICANCE = 0.05
"""False discovery rate below which checks count a perturbation."""

COSINES = ("gene_cosine", "cell_cosine")
"""Effects that are 1 where nothing changes, and smaller for more; the others are 0, and larger for more."""

_COLUMN_ENDS = tuple(f"{test}_{end}" for test in ("", "_minus_random", "_beyond_sum")
                     for end in ("low", "high", "p", "q", "p_all", "q_all"))  # fmt: skip

_DRAWS = 1000
_INTERVAL = (2.5, 97.5)
_DRAWS_AT_ONCE = 100
_MIN_FOR_MIXTURE = 10
_MAX_COMPARED = 2000


@dataclass(frozen=True)
class Combination:
    """Places of a combination and its parts in a list of perturbations."""

    together: int
    anchor: int
    other: int


def effect_statistics(
    values: np.ndarray,
    effects: Sequence[str],
    asked: Sequence[int],
    randoms: Mapping[int, Sequence[int]],
    combinations: Sequence[Combination] = (),
    *,
    seed: int,
) -> pd.DataFrame:
    """Means, intervals and tests of effects over cells.

    For every effect E the table has `E`, its mean over the cells that have a number; `E_low` and `E_high`, the 95 %
    percentile interval of that mean over 1,000 resamplings of cells; and, where there are random genes,
    `E_minus_random` with its own `_low` and `_high` (of the same resamplings), `E_beyond_random`, the share of the
    random genes whose mean is smaller (larger for cosines, where smaller is the greater effect); `E_p` and `E_q`, a
    two-sided Wilcoxon rank-sum test of its cells against all cells of the random genes, and Benjamini and Hochberg's
    false discovery rate over the perturbations; `E_p_all` and `E_q_all`, the published test against the cells of all
    other perturbations (of which the original draws 100,000). Of combinations, `E_beyond_sum` is the effect beyond the
    sum of its parts', with `_low`, `_high`, and `_p` and `_q` of a Wilcoxon signed-rank test over cells. A value that
    there is not, as an interval over one cell, is NaN.

    Args:
        values: (cells, perturbations, effects), NaN where a cell has no number.
        effects: Names of the effects.
        asked: The perturbations that the table has a row of each.
        randoms: For a perturbation, the random ones that it is held against.
        combinations: Those of which the table says what is beyond the sum.
        seed: Of the resamplings and draws.

    Returns:
        One row a perturbation that was asked for, in order, with `cells` and `cells_without` (a number).
    """
    there = np.isfinite(values[:, :, 0])
    check_effect_names(effects)
    table = pd.DataFrame({"cells": there.sum(axis=0)[list(asked)], "cells_without": (~there).sum(axis=0)[list(asked)]})
    table["random_genes"] = [sum(bool(there[:, other].any()) for other in randoms.get(one, ())) for one in asked]
    for number, effect in enumerate(effects):
        columns = _of_one_effect(values[:, :, number], effect, asked, randoms, combinations, seed=seed)
        table = pd.concat([table, pd.DataFrame(columns)], axis=1)
    return table


def check_effect_names(effects: Sequence[str]) -> None:
    """Refuse effects of which one has the name of a column of another.

    Raises:
        ValueError: Two states lead to such effects.
    """
    ends = (*_COLUMN_ENDS, "_minus_random", "_beyond_random", "_beyond_sum")
    twice = sorted({f"{effect}{end}" for effect in effects for end in ends} & set(effects))
    if twice:
        raise ValueError(f"Two effects have columns of one name, {listed(twice)}: give the states other names.")


def _of_one_effect(
    values: np.ndarray,
    effect: str,
    asked: Sequence[int],
    randoms: Mapping[int, Sequence[int]],
    combinations: Sequence[Combination],
    *,
    seed: int,
) -> dict[str, np.ndarray]:
    means, draws = resampled_means(values, seed=seed)
    places, cells = list(asked), np.isfinite(values).sum(axis=0)
    columns: dict[str, np.ndarray] = {effect: means[places]}
    columns[f"{effect}_low"], columns[f"{effect}_high"] = _interval(draws[:, places], cells[places])
    finite = [column[np.isfinite(column)] for column in values.T]
    columns |= _against_random(effect, asked, randoms, means, draws, finite)
    columns[f"{effect}_p_all"] = _against_all(places, finite)
    if combinations:
        columns |= _beyond_sum(effect, asked, combinations, values, seed=seed)
    for test in ("", "_beyond_sum"):
        for suffix in ("", "_all"):
            p = columns.get(f"{effect}{test}_p{suffix}")
            if p is not None:
                columns[f"{effect}{test}_q{suffix}"] = _rates(p)
    return columns


def resampled_means(values: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over cells, and those of 1,000 resamplings of the cells, the same ones for every column.

    Args:
        values: (cells, columns), NaN where a cell has no number.
        seed: Of the resamplings.

    Returns:
        (columns,) and (1000, columns); NaN where no cell, or none of a resampling, has a number.
    """
    there = np.isfinite(values)
    # About the mean: sums of numbers that are nearly 1 would lose the digits in which they differ.
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(there, values, 0).sum(axis=0, dtype=np.float64) / there.sum(axis=0)
        deviations = np.where(there, values - means, 0).astype(np.float64)
        rng = np.random.default_rng(seed)
        draws = np.empty((_DRAWS, values.shape[1]))
        for start in range(0, _DRAWS, _DRAWS_AT_ONCE):
            chance = np.full(len(values), 1 / len(values))
            weights = rng.multinomial(len(values), chance, size=_DRAWS_AT_ONCE).astype(np.float64)
            draws[start : start + _DRAWS_AT_ONCE] = means + (weights @ deviations) / (weights @ there)
    return means, draws


def _interval(draws: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile interval of each column; NaN for fewer than two cells."""
    low, high = np.full((2, draws.shape[1]), np.nan)
    enough = (cells > 1) & np.isfinite(draws).any(axis=0)
    if enough.any():
        low[enough], high[enough] = np.nanpercentile(draws[:, enough], _INTERVAL, axis=0)
    return low, high


def _against_random(
    effect: str,
    asked: Sequence[int],
    randoms: Mapping[int, Sequence[int]],
    means: np.ndarray,
    draws: np.ndarray,
    finite: list[np.ndarray],
) -> dict[str, np.ndarray]:
    if not any(randoms.get(one) for one in asked):
        return {}
    difference, beyond, p = np.full((3, len(asked)), np.nan)
    drawn = np.full((len(draws), len(asked)), np.nan)
    sign = -1 if effect in COSINES else 1
    for at, one in enumerate(asked):
        others = [other for other in randoms.get(one, ()) if len(finite[other])]
        if not others or not len(finite[one]):
            continue
        difference[at] = means[one] - means[others].mean()
        drawn[:, at] = draws[:, one] - np.nanmean(draws[:, others], axis=1)
        larger, equal = sign * means[one] > sign * means[others], means[one] == means[others]
        beyond[at] = (larger + 0.5 * equal).mean()
        p[at] = _rank_sum(finite[one], np.concatenate([finite[other] for other in others]))
    low, high = _interval(drawn, np.array([len(finite[one]) for one in asked]))
    return {
        f"{effect}_minus_random": difference,
        f"{effect}_minus_random_low": low,
        f"{effect}_minus_random_high": high,
        f"{effect}_beyond_random": beyond,
        f"{effect}_p": p,
    }


def _against_all(asked: list[int], finite: list[np.ndarray]) -> np.ndarray:
    """Rank-sum tests of each against the cells of all others, which one ranking of all cells gives at once."""
    p = np.full(len(asked), np.nan)
    sizes = np.array([len(column) for column in finite])
    total = int(sizes.sum())
    if not total:
        return p
    ranks, (_, ties) = rankdata(pooled := np.concatenate(finite)), np.unique(pooled, return_counts=True)
    ends = np.cumsum(sizes)
    sums = np.diff(np.concatenate([[0.0], np.cumsum(ranks)])[np.concatenate([[0], ends])])
    # Mann and Whitney's normal approximation, with ties and a correction for continuity.
    spread = (total + 1) - float((ties.astype(float) ** 3 - ties).sum()) / max(total * (total - 1), 1)
    for at, one in enumerate(asked):
        size, others = int(sizes[one]), total - int(sizes[one])
        if not size or not others:
            continue
        away = abs(sums[one] - size * (size + 1) / 2 - size * others / 2) - 0.5
        deviation = np.sqrt(size * others / 12 * spread)
        p[at] = min(1.0, 2 * norm.sf(away / deviation)) if deviation > 0 else 1.0
    return p


def _rank_sum(one: np.ndarray, other: np.ndarray) -> float:
    if one.min() == one.max() == other.min() == other.max():
        return 1.0
    return float(mannwhitneyu(one, other, alternative="two-sided", method="asymptotic").pvalue)


def _beyond_sum(
    effect: str, asked: Sequence[int], combinations: Sequence[Combination], values: np.ndarray, *, seed: int
) -> dict[str, np.ndarray]:
    """Published: combination - (1 - ((1 - anchor) + (1 - other))) of cosines; of what is 0 without effect, the sum."""
    places = {one: at for at, one in enumerate(asked)}
    beyond, low, high, p = np.full((4, len(asked)), np.nan)
    none = 1.0 if effect in COSINES else 0.0
    kept = [one for one in combinations if one.together in places]
    if kept:
        parts = [np.stack([values[:, getattr(one, part)] for one in kept], axis=1).astype(np.float64)
                 for part in ("together", "anchor", "other")]  # fmt: skip
        excess = (parts[0] - none) - (parts[1] - none) - (parts[2] - none)
        means, draws = resampled_means(excess, seed=seed)
        at = [places[one.together] for one in kept]
        beyond[at] = means
        low[at], high[at] = _interval(draws, np.isfinite(excess).sum(axis=0))
        for place, column in zip(at, excess.T, strict=True):
            cells = column[np.isfinite(column)]
            if len(cells):
                p[place] = float(wilcoxon(cells).pvalue) if cells.any() else 1.0
    return {f"{effect}_beyond_sum": beyond, f"{effect}_beyond_sum_low": low,
            f"{effect}_beyond_sum_high": high, f"{effect}_beyond_sum_p": p}  # fmt: skip


def _rates(p: np.ndarray) -> np.ndarray:
    rates, known = np.full(len(p), np.nan), np.isfinite(p)
    if known.any():
        rates[known] = benjamini_hochberg(p[known][None])[0]
    return rates


def impact_probabilities(means: np.ndarray, *, seed: int) -> np.ndarray | None:
    """The chance that a perturbation is of the group that moves cells, of two Gaussian ones of their mean cosines.

    The group whose mean is farther from 1 is the one that moves cells. Published as the mixture model.

    Args:
        means: (perturbations,) mean cosines; NaN stays NaN.
        seed: Of the fit's start.

    Returns:
        (perturbations,) in [0, 1], or None where there are too few perturbations, or their means do not differ.
    """
    known = np.isfinite(means)
    found = np.full(len(means), np.nan)
    spread = means[known].std() if known.any() else 0.0
    if known.sum() < _MIN_FOR_MIXTURE or not spread > 0:
        return None
    scaled = ((means[known] - means[known].mean()) / spread)[:, None]
    model = GaussianMixture(2, random_state=seed, n_init=5).fit(scaled)
    found[known] = model.predict_proba(scaled)[:, int(model.means_[:, 0].argmin())]
    return found


def distinctness(displacement: np.ndarray, displaced: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Whether perturbations move cells in directions of their own, judged by two halves of the cells.

    Args:
        displacement: (2, perturbations, width) sums over the cells of each half of what was added to their embeddings.
        displaced: (2, perturbations) cells in each sum.
        seed: Of the draw where there are more than 2,000 perturbations.

    Returns:
        `compared` perturbations, those with cells in both halves, and of them: `alike`, the mean cosine between the
        directions of two perturbations; `found_again`, the share whose direction in one half is nearest to its own in
        the other; `discrimination`, the mean share of other perturbations that are farther from it than itself is
        (0.5 by chance, 1 at best). The three are None where fewer than two can be compared.
    """
    chosen = np.flatnonzero((displaced > 0).all(axis=0))
    if len(chosen) > _MAX_COMPARED:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, _MAX_COMPARED, replace=False))
    means = displacement[:, chosen] / displaced[:, chosen, None]
    length = np.linalg.norm(means, axis=2, keepdims=True)
    moving = (length > 0).all(axis=(0, 2))
    means = means[:, moving] / length[:, moving]
    number = means.shape[1]
    if number < 2:
        return {"compared": number, "alike": None, "found_again": None, "discrimination": None}
    similar = means[0] @ means[1].T
    own = similar.diagonal()[:, None]
    apart = ~np.eye(number, dtype=bool)
    farther = ((similar < own) + 0.5 * (similar == own))[apart].reshape(number, number - 1)
    return {
        "compared": number,
        "alike": float(similar[apart].mean()),
        "found_again": float((similar.argmax(axis=1) == np.arange(number)).mean()),
        "discrimination": float(farther.mean()),
    }


__all__ = [
    "COSINES",
    "SIGNIFICANCE",
    "Combination",
    "check_effect_names",
    "distinctness",
    "effect_statistics",
    "impact_probabilities",
    "resampled_means",
]
