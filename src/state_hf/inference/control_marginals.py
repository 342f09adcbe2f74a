"""Cells with the values of real control cells, and the mean that a model predicts."""

import numpy as np

from state_hf.compiled import kernel
from state_hf.metrics.rank_test import TIE_ULPS

# Beyond this exponent of the most favoured value, all of the weight is on it.
_LARGEST_TILT = 300.0
_NEWTON_STEPS = 100
# Where whole cells do not give a mean, this part of another expressing cell is made up by larger values.
_STRETCH = 0.25
# Cells without a gene where none was seen.
_UNSEEN = 0.5
_LARGEST_FACTOR, _HALVINGS = 15.0, 50
# Equal counts of equally large cells are no further apart than that, whichever processor normalised them.
_TIED = 1 + TIE_ULPS * float(np.finfo(np.float32).eps)
# Values that would move by less stay those of the control cells: they are equal to them, or clearly apart.
_SAME = 4 * TIE_ULPS * float(np.finfo(np.float32).eps)


@kernel()
def _tilt(values, mean):
    """Exponent t, for which weights proportional to exp(t * value / largest value) give ascending values that mean."""
    largest, number = values[-1], len(values)
    low, high, tilt = -_LARGEST_TILT, _LARGEST_TILT, 0.0
    for _ in range(_NEWTON_STEPS):
        top = tilt if tilt > 0 else 0.0
        total = first = second = 0.0
        for k in range(number):
            share = values[k] / largest
            weight = np.exp(tilt * share - top)
            total += weight
            first += weight * share
            second += weight * share * share
        first, second = first / total, second / total
        error = mean / largest - first
        if abs(error) < 1e-9:
            break
        if error > 0:
            low = tilt
        else:
            high = tilt
        variance = second - first * first
        step = tilt + error / variance if variance > 1e-12 else np.inf
        tilt = step if low < step < high else (low + high) / 2
    return tilt


@kernel()
def _expressing(expressed, number, mean):
    """Share of cells that express a gene whose counts change by the factor f that brings its mean to the wanted one.

    The `expressed` ones of `number` values are above 0. With Poisson counts, a share z of zeros becomes z^f, and the
    expressing cells' counts change by f (1 - z) / (1 - z^f). Log1p values y of counts x change by the logarithm of that
    times d y / d log x, which is 1 - exp(-y).
    """
    zeros = number - len(expressed)
    level, response = expressed.mean(), (1 - np.exp(-expressed)).mean()
    # That no cell is without the gene does not show that none can be.
    share, unseen = zeros / number, 0.0
    if zeros == 0:
        share = unseen = _UNSEEN / number
    low, high = -_LARGEST_FACTOR, _LARGEST_FACTOR
    for _ in range(_HALVINGS):
        factor = np.exp((low + high) / 2)
        left = 1 - max(share**factor - unseen, 0.0)
        if left * (level + response * np.log(factor * (1 - share + unseen) / left)) < mean:
            low = np.log(factor)
        else:
            high = np.log(factor)
    return 1 - max(share ** np.exp((low + high) / 2) - unseen, 0.0)


@kernel()
def _levels(values, mean, lone, offset, levels):
    """Fill `levels`, ascending, with evenly spaced quantiles of the reweighted values, and bring them to their mean."""
    number = len(levels)
    levels[:] = 0.0
    if mean <= 0.0:
        return
    if values[-1] > 0.0:
        expressed = values[np.searchsorted(values, 0.0, side="right") :]
        share = _expressing(expressed, len(values), mean)
        tilt = _tilt(expressed, mean / share)
        top = tilt if tilt > 0 else 0.0
        weights = np.exp(tilt * expressed / expressed[-1] - top)
        weights *= share / weights.sum()
        k, reached = -1, 1 - share
        for j in range(number):
            point = (j + offset) / number
            while reached < point and k < len(expressed) - 1:
                k += 1
                reached += weights[k]
            if k >= 0:
                levels[j] = expressed[k]
    missing = mean * number - levels.sum()
    first = np.searchsorted(levels, 0.0, side="right")
    more = int(min(max(np.ceil(missing / lone - _STRETCH), 0.0), float(first)))
    levels[first - more : first] = lone
    achieved = levels.mean()
    if achieved > 0.0:
        if abs(mean / achieved - 1) > _SAME:
            levels *= mean / achieved
    else:
        levels[-1] = mean * number


@kernel()
def _order(values, ties):
    """Cells in the order of their values; within ties, which begin with their smallest value, in that of `ties`."""
    # Equal random numbers in the order of the cells, so that no last bit of a value decides.
    ties = ties + np.arange(len(ties)) * 2.0**-40
    order = np.argsort(np.where(values > 0, values, ties * 1e-30))
    start = (values <= 0).sum()
    while start < len(order):
        end = start + 1
        while end < len(order) and values[order[end]] <= values[order[start]] * _TIED:
            end += 1
        if end > start + 1:
            tied = order[start:end].copy()
            order[start:end] = tied[np.argsort(ties[tied])]
        start = end
    return order


@kernel()
def _draw(references, carriers, means, lone, offsets, ties, drawn):
    number = len(carriers)
    levels = np.empty(number)
    for gene in range(len(means)):
        _levels(references[gene], means[gene], lone[gene], offsets[gene], levels)
        order = _order(carriers[:, gene], ties[:, gene])
        for j in range(number):
            drawn[order[j], gene] = levels[j]


class ControlMarginals:
    """The values that control cells have of every gene, from which cells of another mean can be drawn.

    A shift of all cells by the difference of two means leaves the zeros of sparse expression at small positive values,
    and a network's cells are smoother than real ones: rank tests then find a difference in most genes. Here the values
    of a gene among control cells get weights, which bring their mean to the wanted one. Of all distributions over these
    values with that mean, and a given share of zeros, it is the one closest to the controls' (least Kullback-Leibler
    divergence; I. Csiszar, Ann. Probab. 3, 146, 1975): the weights of expressing cells are proportional to
    exp(t * value). The share of zeros is that of Poisson counts whose mean changes: z^f, for the factor f. So a gene
    that half of the cells express loses and gains expressing cells, and one that all express has another level in all
    of them, as in real cells; by its mean alone a gene of the second kind would be lost in some cells, and tests would
    miss a quarter of what they find among real ones. Genes without a predicted effect keep the controls' distribution.

    Args:
        cells: (controls, genes), not negative.
    """

    def __init__(self, cells: np.ndarray) -> None:
        self._values = np.ascontiguousarray(np.sort(cells, axis=0).T, dtype=np.float64)
        # The least that an expressing cell has of each gene, and of a gene that no control cell expresses.
        least = np.where(self._values > 0, self._values, np.inf).min(axis=1)
        expressed = np.isfinite(least)
        self._lone = np.where(expressed, least, np.median(least[expressed]) if expressed.any() else 1.0)

    def draw(self, carriers: np.ndarray, means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cells of given means.

        Of every gene, evenly spaced quantiles of the reweighted distribution are dealt to the cells in the order of the
        values that their carriers have, equal ones at random (up to rounding: equal counts are equal on any processor):
        so genes go together as in the carriers. Then the expressed values are scaled to the mean, by what the rounding
        to whole cells has left: little, but for genes that one or two cells express, and nothing where it is below
        0.002 %.

        Args:
            carriers: (cells, genes) control cells that lend their order.
            means: (genes,) means of the drawn cells.
            rng: Random numbers.

        Returns:
            (cells, genes) float32.
        """
        drawn = np.empty(carriers.shape, dtype=np.float32)
        offsets, ties = rng.random(len(means)), rng.random(carriers.shape, dtype=np.float32)
        _draw(self._values, carriers, means.astype(np.float64), self._lone, offsets, ties, drawn)
        return drawn


__all__ = ["ControlMarginals"]
