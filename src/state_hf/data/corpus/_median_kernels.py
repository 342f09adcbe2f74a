"""Compiled counting for medians of a stream: how many of a gene's values lie in each interval of a search."""

import math

import numpy as np

from state_hf.compiled import kernel


@kernel()
def count_values(data, indices, indptr, columns, is_counts, low, shift, seen, number):
    """Add the non-zero values of cells, per 10,000 of their totals, to the intervals of every gene.

    A value's key is the whole number that its float32 is written as, which grows with it. The keys of interval i of a
    gene's search s begin with `low[s, gene] + (i << shift)`; `seen` (searches, genes, intervals) takes the counts, and
    `number` (genes,) that of all values. Returns how many values lie outside of all intervals of a search that is the
    only one: then the intervals are to hold every value.
    """
    value = np.zeros(1, np.float32)
    key = value.view(np.int32)
    searches, _, intervals = seen.shape
    outside = 0
    for cell in range(indptr.size - 1):
        total = 0.0
        for k in range(indptr[cell], indptr[cell + 1]):
            total += np.float64(data[k]) if is_counts else math.expm1(np.float64(data[k]))
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[indices[k]]
            if gene < 0 or not data[k] > 0:
                continue
            value[0] = (np.float64(data[k]) if is_counts else math.expm1(np.float64(data[k]))) / total * 10_000
            number[gene] += 1
            for search in range(searches):
                at = (np.int64(key[0]) - low[search, gene]) >> shift
                if 0 <= at < intervals:
                    seen[search, gene, at] += 1
                elif searches == 1:
                    outside += 1
    return outside
