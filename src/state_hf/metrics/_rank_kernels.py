"""Compiled loops of the rank test: which values are ties, and how the values of a gene compare."""

import numba
import numpy as np

from state_hf.compiled import kernel


@kernel(parallel=True)
def recover_counts(indptr, data, error, steps, totals, errors):
    """For each row of log-normalised values: what one count is before the logarithm, and the sum of its counts.

    The smallest value stands for one count, or for up to thirty; all others must then be whole multiples of one count,
    as closely as the error of the values lets one see. A row that is not gets a total of -1.

    Args:
        indptr: Where each row starts, and where the last ends.
        data: The values.
        error: Largest relative error of a value.
        steps: Written, 0 for a row without values.
        totals: Written.
        errors: Written, the relative error of a step.
    """
    for row in numba.prange(len(steps)):
        steps[row] = totals[row] = errors[row] = 0.0
        least = np.inf
        for k in range(indptr[row], indptr[row + 1]):
            if data[k] != 0:
                least = min(least, float(data[k]))
        if least == np.inf:
            continue
        totals[row] = -1.0
        if least <= 0.0:
            continue
        lowest = np.expm1(least)
        lowest_error = error * least * (1.0 + lowest) / lowest
        for copies in range(1, 31):
            step = lowest / copies
            sum_values = sum_counts = sum_errors = 0.0
            whole = True
            for k in range(indptr[row], indptr[row + 1]):
                value = float(data[k])
                if value == 0.0:
                    continue
                before = np.expm1(value)
                count = np.rint(before / step)
                value_error = error * value * (1.0 + before) / before
                slack = count * (value_error + lowest_error)
                if slack > 0.25 or abs(before / step - count) > slack:
                    whole = False
                    break
                sum_values += before
                sum_counts += count
                sum_errors += count * value_error
            if whole:
                steps[row] = sum_values / sum_counts
                totals[row] = sum_counts
                errors[row] = sum_errors / sum_counts
                break


@kernel()
def is_single_precision(values):
    """Whether every value is one of float32."""
    other = 0
    for k in range(len(values)):
        other += float(np.float32(values[k])) != values[k]
    return other == 0


@kernel()
def _sort_by_value(bits, wide, dropped, keys, groups, spare_keys, spare_groups):
    """Sort one gene's values (as float bits) with their groups: a stable radix sort, 11 bits at a time.

    A comparison sort of a few thousand floats is bound by branch misses, about ten times slower. Stability keeps the
    groups ascending within equal values. The last `dropped` bits do not count.
    """
    sign = np.uint64(1) << np.uint64(63 if wide else 31)
    every = ~np.uint64(0) >> np.uint64(0 if wide else 32)
    for k in range(len(bits)):
        key = np.uint64(bits[k])
        keys[k] = (key ^ (every if key & sign else sign)) >> np.uint64(dropped)
    for digit in range(((64 if wide else 32) - dropped + 10) // 11):
        shift = np.uint64(11 * digit)
        counts = np.zeros(2049, dtype=np.int32)
        for k in range(len(bits)):
            counts[np.int64((keys[k] >> shift) & np.uint64(2047)) + 1] += 1
        if counts.max() == len(bits):
            continue
        for bucket in range(2048):
            counts[bucket + 1] += counts[bucket]
        for k in range(len(bits)):
            digits = np.int64((keys[k] >> shift) & np.uint64(2047))
            spare_keys[counts[digits]], spare_groups[counts[digits]] = keys[k], groups[k]
            counts[digits] += 1
        keys, spare_keys = spare_keys, keys
        groups, spare_groups = spare_groups, groups
    return keys, groups


@kernel()
def _tie_term(count):
    return count * count * count - count


@kernel()
def _sweep(keys, groups, within, positive_key, zeros, weights, twice_u, ties):
    """Walk one gene's sorted values, block of ties by block, with the block of zeros where it belongs.

    A block holds the values that lie at most `within` above its smallest. U of a perturbation counts, over its cells,
    the control cells below plus half of the tied ones.
    """
    control = len(weights)
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
        weights: How many cells each stored value of a perturbation stands for.
        twice_u: Written, gene x perturbation.
        ties: Written, gene x perturbation.
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
            zeros[group] = n_cells[group] - stored * (weights[group] if group < n_groups - 1 else 1)
        keys = np.empty(last - first, dtype=np.uint64)
        spare = np.empty_like(keys), np.empty_like(groups)
        keys, groups = _sort_by_value(bits[first:last], wide, dropped, keys, groups, *spare)
        twice_u[gene, :] = 0
        ties[gene, :] = 0
        _sweep(keys, groups, np.uint64(within), positive_key, zeros, weights, twice_u[gene], ties[gene])
