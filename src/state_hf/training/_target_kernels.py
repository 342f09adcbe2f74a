"""Compiled loops that make the targets of pretraining, cell by cell.

Every draw is a function of a cell's 64-bit key and a counter, so that it does not depend on the cells around it.
"""

import math

import numpy as np

from state_hf.compiled import kernel
from state_hf.tokenization._keyed_draws import GOLDEN, U32, mix

_U11 = np.uint64(11)
_TO_UNIT = 2.0**-53


@kernel()
def _uniform(key, counter):
    """In [0, 1)."""
    return np.float64(mix(key + np.uint64(counter) * GOLDEN) >> _U11) * _TO_UNIT


@kernel()
def _below(key, counter, limit):
    """A whole number from 0 to limit - 1."""
    return np.int64(((mix(key + np.uint64(counter) * GOLDEN) >> U32) * np.uint64(limit)) >> U32)


@kernel()
def downsample(values, indptr, keys, lowest_share, out):
    """Draw a share, uniform between `lowest_share` and 1, of each cell's counts with replacement, into `out`."""
    for cell in range(keys.size):
        start, stop = indptr[cell], indptr[cell + 1]
        ends = np.cumsum(values[start:stop])
        out[start:stop] = 0
        if ends.size == 0 or ends[-1] <= 0:
            continue
        share = lowest_share + (1.0 - lowest_share) * _uniform(keys[cell], 1)
        for draw in range(int(share * ends[-1])):
            out[start + np.searchsorted(ends, _uniform(keys[cell], draw + 2) * ends[-1], side="right")] += 1


@kernel()
def draw_targets(
    values,
    genes,
    indptr,
    columns,
    known,
    num_genes,
    keys,
    hidden_low,
    hidden_high,
    unexpressed_below,
    expressed,
    visible,
    targets,
):
    """Choose each cell's target genes, and which of its expressed genes the model sees.

    `visible` (stored values,) is set to whether the model sees them; `targets` (cells, genes) takes `expressed`
    expressed genes, the hidden ones first, then genes of `known` whose value is at most `unexpressed_below`.
    """
    used = np.full(num_genes, -1, np.int64)
    for cell in range(keys.size):
        key, counter = keys[cell], 2
        order = np.empty(indptr[cell + 1] - indptr[cell], np.int64)
        number, high = 0, 0
        for k in range(indptr[cell], indptr[cell + 1]):
            visible[k] = True
            if columns[genes[k]] >= 0 and values[k] > 0:
                order[number] = k
                number += 1
                if values[k] > unexpressed_below:
                    used[columns[genes[k]]] = cell
                    high += 1
        hidden = int(number * (hidden_low + (hidden_high - hidden_low) * _uniform(key, 1)))
        hidden = max(0, min(hidden, number - 1))
        own = expressed if number > 0 else 0
        for place in range(min(number, max(own, hidden))):
            other = place + _below(key, counter, number - place)
            counter += 1
            order[place], order[other] = order[other], order[place]
        for place in range(hidden):
            visible[order[place]] = False
        for place in range(own):
            if place < number:
                chosen = order[place]
            else:
                chosen = order[_below(key, counter, number)]
                counter += 1
            targets[cell, place] = columns[genes[chosen]]
        candidates = known.size - high
        once = candidates >= targets.shape[1] - own
        for place in range(own, targets.shape[1]):
            while True:
                gene = known[_below(key, counter, known.size)]
                counter += 1
                if used[gene] != cell or candidates == 0:
                    break
            if once:
                used[gene] = cell
            targets[cell, place] = gene


@kernel()
def write_target_labels(values, genes, indptr, columns, is_known, is_counts, targets, shared, missing, labels):
    """log1p expression of each cell's targets, then of the shared genes; `missing` where the file lacks the gene."""
    stored = np.zeros(is_known.size, np.float32)
    own = targets.shape[1]
    for cell in range(targets.shape[0]):
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[genes[k]]
            if gene >= 0:
                stored[gene] = values[k]
        for place in range(own + shared.size):
            gene = targets[cell, place] if place < own else shared[place - own]
            value = stored[gene]
            if value > 0 and is_counts:
                value = math.log1p(value)
            labels[cell, place] = value if place < own or is_known[gene] else missing
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[genes[k]]
            if gene >= 0:
                stored[gene] = 0
