"""Compiled loops of the rank test: which values are ties, and how the values of a gene compare."""

import numba
import numpy as np

from state_hf.compiled import kernel
from state_hf.metrics._summary_kernels import SEEN, SPREAD

# A sort's first two passes see so many bits; its last may move as many values as this times their number.
_DIGIT = 11
_MOVES = 8
_MASK = np.uint64((1 << _DIGIT) - 1)


@kernel()
def _counted(value, step, error, lowest_error):
    """How many counts a log-normalised value is: the count (-1 if it is none), its error, and how far off the step is.

    Which whole number it is can be told while its error is below 1/4.
    """
    count = np.rint((np.exp(value) - 1.0) / step)
    before = count * step
    expected = np.log1p(before)
    off = value - expected
    count_error = error * expected * (1.0 + before) / step
    whole = abs(off) <= error * expected + lowest_error * before / (1.0 + before)
    if not whole or count_error + count * lowest_error > 0.25:
        return -1.0, 0.0, 0.0
    return count, count_error, off * (1.0 + before)


@kernel(parallel=True)
def recover_counts(indptr, data, error, steps, totals, errors):
    """For each row of log-normalised values: what one count is before the logarithm, and the sum of its counts.

    The smallest value stands for one count, or for up to thirty; all others must then be whole multiples of one count,
    as closely as the error of the values lets one see. A row that is not gets a total of -1, and others may, too, once
    there is one.

    Args:
        indptr: Where each row starts, and where the last ends.
        data: The values.
        error: Largest relative error of a value.
        steps: Written, 0 for a row without values.
        totals: Written.
        errors: Written, the relative error of a step.
    """
    none = np.zeros(1, dtype=np.bool_)
    for row in numba.prange(len(steps)):
        steps[row] = totals[row] = errors[row] = 0.0
        if none[0]:
            totals[row] = -1.0
            continue
        n, least = 0, np.inf
        values = np.empty(indptr[row + 1] - indptr[row] + 1)
        for k in range(indptr[row], indptr[row + 1]):
            value = float(data[k])
            values[n] = value
            n += value != 0.0
        for k in range(n):
            if values[k] < least:
                least = values[k]
        if n == 0:
            continue
        totals[row] = -1.0
        lowest = np.expm1(max(least, 0.0))
        lowest_error = error * least * (1.0 + lowest) / lowest
        seen = np.empty((SEEN, 4))
        for copies in range(1, 31 if least > 0.0 else 1):
            step = lowest / copies
            seen[:, 0] = 0.0
            sum_counts = sum_errors = sum_off = 0.0
            for k in range(n):
                value = values[k]
                place = np.int64(value * SPREAD) & (SEEN - 1)
                if seen[place, 0] != value:
                    seen[place, 1], seen[place, 2], seen[place, 3] = _counted(value, step, error, lowest_error)
                    seen[place, 0] = value
                    if seen[place, 1] < 0.0:
                        sum_counts = -1.0
                        break
                sum_counts += seen[place, 1]
                sum_errors += seen[place, 2]
                sum_off += seen[place, 3]
            if sum_counts > 0.0:
                # Summed as what is off from the first guess, so that no digits are lost in long rows.
                steps[row] = step + sum_off / sum_counts
                totals[row] = sum_counts
                errors[row] = sum_errors / sum_counts
                break
        none[0] |= totals[row] < 0.0


@kernel()
def is_single_precision(values):
    """Whether every value is one of float32."""
    other = 0
    for k in range(len(values)):
        other += float(np.float32(values[k])) != values[k]
    return other == 0


@kernel()
def _sort_by_digits(keys, groups, spare_keys, spare_groups, least, low, passes):
    """Stable passes of a radix sort over what keys are above `least`, from bit `low` on, in place."""
    for digit in range(passes):
        shift = np.uint64(low + _DIGIT * digit)
        counts = np.zeros((1 << _DIGIT) + 1, dtype=np.int32)
        for k in range(len(keys)):
            counts[np.int64(((keys[k] - least) >> shift) & _MASK) + 1] += 1
        for lower in range(1 << _DIGIT):
            counts[lower + 1] += counts[lower]
        for k in range(len(keys)):
            bucket = np.int64(((keys[k] - least) >> shift) & _MASK)
            place = counts[bucket]
            counts[bucket] = place + 1
            spare_keys[place], spare_groups[place] = keys[k], groups[k]
        keys, spare_keys = spare_keys, keys
        groups, spare_groups = spare_groups, groups
    if passes % 2:
        spare_keys[:], spare_groups[:] = keys, groups


@kernel()
def _sort_by_value(bits, wide, dropped, keys, groups):
    """Write the keys of one gene's values, sorted, and sort their groups with them.

    Keys are the values' bits without the last `dropped`, in the order of the values. A comparison sort of a few
    thousand floats is bound by branch misses, about ten times slower than a radix sort. Two passes of that see the
    first 22 bits in which the keys differ, and what is left unsorted is inserted where it belongs: little, unless
    values lie very close together. Both are stable, which keeps the groups ascending within equal values.
    """
    sign = np.uint64(1) << np.uint64(63 if wide else 31)
    every = ~np.uint64(0) >> np.uint64(0 if wide else 32)
    least, most = ~np.uint64(0), np.uint64(0)
    for k in range(len(bits)):
        key = np.uint64(bits[k])
        key = (key ^ (every if key & sign else sign)) >> np.uint64(dropped)
        keys[k] = key
        least, most = min(least, key), max(most, key)
    width = 0
    while width < 64 and (most - least) >> np.uint64(width):
        width += 1
    spare_keys, spare_groups = np.empty_like(keys), np.empty_like(groups)
    low = max(width - 2 * _DIGIT, 0)
    _sort_by_digits(keys, groups, spare_keys, spare_groups, least, low, 2)
    moves = _MOVES * len(keys)
    for k in range(1, len(keys)):
        if keys[k] >= keys[k - 1]:
            continue
        key, group, place = keys[k], groups[k], k
        while place > 0 and keys[place - 1] > key:
            keys[place], groups[place] = keys[place - 1], groups[place - 1]
            place -= 1
        keys[place], groups[place] = key, group
        moves -= k - place
        if moves < 0:
            _sort_by_digits(keys, groups, spare_keys, spare_groups, least, 0, (width + _DIGIT - 1) // _DIGIT)
            break


@kernel()
def _tie_term(count):
    return count * count * count - count


@kernel()
def _sweep(keys, groups, within, positive_key, zeros, weights, twice_u, ties):
    """Walk one gene's sorted values, block of ties by block, with the block of zeros where it belongs.

    A block holds the values that lie at most `within` above its smallest. U of a perturbation counts, over its cells,
    the control cells below plus half of the tied ones. The control's own entry of `twice_u` and `ties` is scratch.
    """
    control = len(weights) - 1
    below = control_ties = np.int64(0)
    k, zeros_due = np.int64(0), True
    while k < len(keys) or zeros_due:
        if zeros_due and (k == len(keys) or keys[k] >= positive_key):
            zeros_due = False
            same = zeros[control]
            for group in range(control):
                twice_u[group] += zeros[group] * (2 * below + same)
                ties[group] += _tie_term(zeros[group] + same) - _tie_term(same)
            control_ties += _tie_term(same)
            below += same
            continue
        end = k + 1
        while end < len(keys) and keys[end] - keys[k] <= within:
            end += 1
        if end == k + 1:  # most values of many genes: no branch on whose it is
            group = groups[k]
            twice_u[group] += 2 * weights[group] * below
            ties[group] += _tie_term(weights[group])
            below += group == control
            k = end
            continue
        if keys[end - 1] != keys[k]:
            groups[k:end].sort()
        first_control = end
        while first_control > k and groups[first_control - 1] == control:
            first_control -= 1
        same = np.int64(end - first_control)
        while k < first_control:
            run = k + 1
            while run < first_control and groups[run] == groups[k]:
                run += 1
            group = groups[k]
            copies = np.int64(run - k) * weights[group]
            twice_u[group] += copies * (2 * below + same)
            ties[group] += _tie_term(copies + same) - _tie_term(same)
            k = run
        control_ties += _tie_term(same)
        below += same
        k = end
    for group in range(control):
        ties[group] += control_ties


@kernel(parallel=True)
def rank_groups(bits, wide, dropped, within, starts, n_cells, weights, twice_u, ties):
    """Twice U, and the sum of t^3 - t over tie blocks, of every perturbation against the control, gene by gene.

    Args:
        bits: Gathered non-zero values, seen as unsigned integers of their width.
        wide: Whether they have 64 bits.
        dropped: How many of the last bits do not count.
        within: How far above the smallest of a block of ties its largest may lie, in units of the last bit that counts.
        starts: Offset of each (gene, group) slice; the last group is the control.
        n_cells: Cells of each group, with and without a value.
        weights: How many cells each stored value of a group stands for; 1 for the control.
        twice_u: Written, gene x group.
        ties: Written, gene x group.
    """
    n_groups = starts.shape[1] - 1
    positive_key = np.uint64(1) << np.uint64((63 if wide else 31) - dropped)
    for gene in numba.prange(starts.shape[0]):
        first, last = starts[gene, 0], starts[gene, n_groups]
        groups = np.empty(last - first, dtype=np.int32)
        zeros = np.empty(n_groups, dtype=np.int64)
        for group in range(n_groups):
            groups[starts[gene, group] - first : starts[gene, group + 1] - first] = group
            stored = starts[gene, group + 1] - starts[gene, group]
            zeros[group] = n_cells[group] - stored * weights[group]
        keys = np.empty(last - first, dtype=np.uint64)
        _sort_by_value(bits[first:last], wide, dropped, keys, groups)
        twice_u[gene, :] = 0
        ties[gene, :] = 0
        _sweep(keys, groups, np.uint64(within), positive_key, zeros, weights, twice_u[gene], ties[gene])
