"""Compiled loops over the cells of a CSR block: ranking a cell's genes by expression over a value of each gene.

A sort key holds the leading bits of the ratio's float64 over the gene's place in the vocabulary. Sorting whole numbers
is several times faster than sorting pairs, and what the bits do not tell apart is put right afterwards.
"""

import math

import numpy as np

from state_hf.compiled import kernel
from state_hf.tokenization._sentence_kernels import MAX_GENES

_U23, _U24 = np.uint64(23), np.uint64(24)
_LOW_24 = np.uint64(MAX_GENES - 1)


@kernel()
def _ratio(value, divisor, is_counts):
    return (np.float64(value) if is_counts else math.expm1(np.float64(value))) / divisor


@kernel()
def write_ratio_keys(start, data, indices, indptr, columns, divisors, is_counts, keys, counts):
    """Write the sort keys of the cells from `start` on into `keys` (cells, width), zeros behind them.

    Of equal ratios, the gene that comes first in the vocabulary has the larger key. Genes without a divisor (NaN) are
    left out; `counts` takes how many are not.
    """
    ratio = np.zeros(1, np.float64)
    bits = ratio.view(np.uint64)
    for at in range(keys.shape[0]):
        cell = start + at
        number = 0
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[indices[k]]
            if gene < 0 or data[k] == 0 or not divisors[gene] > 0:
                continue
            ratio[0] = _ratio(data[k], divisors[gene], is_counts)
            keys[at, number] = ((bits[0] >> _U23) << _U24) | (_LOW_24 - np.uint64(gene))
            number += 1
        keys[at, number:] = 0
        counts[cell] = number


@kernel()
def _order_run(rows, ratios, start, stop):
    """Sort rows[start:stop] by falling ratio; equal ones stay in the order of the vocabulary."""
    for position in range(start + 1, stop):
        row = rows[position]
        before = position
        while before > start and ratios[rows[before - 1]] < ratios[row]:
            rows[before] = rows[before - 1]
            before -= 1
        rows[before] = row


@kernel()
def write_ranked_ids(start, data, indices, indptr, columns, divisors, is_counts, keys, counts, first_id, pad_id, ids):
    """Write the token ids of the cells from `start` on into `ids` (all cells, length) by rank, `pad_id` behind them.

    `keys` (cells, width) are those of `write_ratio_keys`, each row sorted. A gene's id is `first_id` and its row.
    """
    length, width = ids.shape[1], keys.shape[1]
    ratios = np.empty(0, np.float64)
    run = np.empty(width, np.int64)
    for at in range(keys.shape[0]):
        cell = start + at
        number = counts[cell]
        filled = min(number, length)
        tied = False
        for rank in range(filled):
            key = keys[at, width - 1 - rank]
            ids[cell, rank] = first_id + np.int64(_LOW_24 - (key & _LOW_24))
            tied = tied or (rank + 1 < number and key >> _U24 == keys[at, width - 2 - rank] >> _U24)
        ids[cell, filled:] = pad_id
        if not tied:
            continue

        if ratios.size == 0:
            ratios = np.empty(divisors.size, np.float64)
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[indices[k]]
            if gene >= 0 and data[k] != 0:
                ratios[gene] = _ratio(data[k], divisors[gene], is_counts)
        first = 0
        while first < filled:
            last = first + 1
            leading = keys[at, width - 1 - first] >> _U24
            # A run may go on behind the last rank that is kept.
            while last < number and keys[at, width - 1 - last] >> _U24 == leading:
                last += 1
            if last - first > 1:
                for rank in range(first, last):
                    run[rank] = np.int64(_LOW_24 - (keys[at, width - 1 - rank] & _LOW_24))
                _order_run(run, ratios, first, last)
                for rank in range(first, min(last, filled)):
                    ids[cell, rank] = first_id + run[rank]
            first = last
