"""Compiled loops over the cells of a CSR block: ranking a cell's genes by expression over a value of each gene.

A sort key of 32 bits holds the leading bits of a ratio over its place in the cell. Sorting whole numbers is several
times faster than sorting pairs, and what the bits do not tell apart is put right afterwards.
"""

import math

import numpy as np

from state_hf.compiled import kernel

# The upper bits of a key are those of the ratio's float64, counted from the largest: five of its exponent, for ratios
# from 2^-16 to 2^16, beyond which all are alike, and of the mantissa what the place leaves.
_SMALLEST_EXPONENT, _EXPONENT_BITS = 1023 - 16, 5
_NO_RANK = np.uint32(0xFFFFFFFF)
# From so many on, sorting ties by merging is faster than by insertion.
_LONG_RUN = 24


@kernel()
def write_ratio_keys(start, data, indices, indptr, divisors, is_counts, place_bits, keys, counts):
    """Write the sort keys of the cells from `start` on into `keys` (cells, width): the smallest is of the first gene.

    `divisors` (dataset genes,) are of the columns, NaN for those that are left out; their keys, and those behind a
    cell's values, are the largest. The places of the cells' values have to be below the largest number of `place_bits`.
    `counts` takes how many values of each cell have a rank.
    """
    # In one loop each, without branches, the compiler makes vectors of them.
    ratios = np.empty(keys.shape[1], np.float64)
    bits = ratios.view(np.uint64)
    mantissa_bits = 32 - place_bits - _EXPONENT_BITS
    dropped, shift = np.uint64(52 - mantissa_bits), np.uint32(place_bits)
    lowest, most = _SMALLEST_EXPONENT << mantissa_bits, (1 << (mantissa_bits + _EXPONENT_BITS)) - 1
    for at in range(keys.shape[0]):
        first, size, row = indptr[start + at], indptr[start + at + 1] - indptr[start + at], keys[at]
        values, columns = data[first : first + size], indices[first : first + size]
        if is_counts:
            for place in range(size):
                ratios[place] = np.float64(values[place]) / divisors[np.uint32(columns[place])]
        else:
            for place in range(size):
                ratios[place] = math.expm1(np.float64(values[place])) / divisors[np.uint32(columns[place])]
        number = 0
        for place in range(size):
            number += ratios[place] > 0
        for place in range(size):
            leading = most - min(max(np.int64(bits[place] >> dropped) - lowest, 0), most)
            key = (np.uint32(leading) << shift) | np.uint32(place)
            row[place] = key if ratios[place] > 0 else _NO_RANK
        row[size:] = _NO_RANK
        counts[start + at] = number


@kernel()
def _order_run(genes, ratios, size):
    """Order the first genes of a run by falling ratio; of equal ones, the first in the vocabulary comes first."""
    if size > _LONG_RUN:
        by_gene = np.argsort(genes[:size])
        genes[:size], ratios[:size] = genes[by_gene], ratios[by_gene]
        by_ratio = np.argsort(-ratios[:size], kind="mergesort")
        genes[:size], ratios[:size] = genes[by_ratio], ratios[by_ratio]
        return
    for position in range(1, size):
        gene, ratio = genes[position], ratios[position]
        before = position
        while before > 0 and (ratios[before - 1] < ratio or (ratios[before - 1] == ratio and genes[before - 1] > gene)):
            genes[before], ratios[before] = genes[before - 1], ratios[before - 1]
            before -= 1
        genes[before], ratios[before] = gene, ratio


@kernel()
def write_ranked_ids(
    start, data, indices, indptr, divisors, is_counts, place_bits, keys, counts, columns, first_id, pad_id, ids
):
    """Write the token ids of the cells from `start` on into `ids` (all cells, length) by rank, `pad_id` behind them.

    `keys` (cells, width) are those of `write_ratio_keys`, each row sorted. The id of a gene is `first_id` and its row
    in the vocabulary, `columns` (dataset genes,).
    """
    length, width, bits = ids.shape[1], keys.shape[1], np.uint32(place_bits)
    last_place = np.uint32((1 << place_bits) - 1)
    genes, ratios, tied = np.empty(width, np.int64), np.empty(width, np.float64), np.empty(width + 1, np.int64)
    for at in range(keys.shape[0]):
        first, row, ranked = indptr[start + at], keys[at], ids[start + at]
        own, values = indices[first : indptr[start + at + 1]], data[first : indptr[start + at + 1]]
        number = counts[start + at]
        filled = min(number, length)
        for rank in range(filled):
            ranked[rank] = first_id + columns[np.uint32(own[row[rank] & last_place])]
        ranked[filled:] = pad_id
        # Ranks whose ratio the bits do not tell from the next one's; without a branch, this costs next to nothing.
        ties = 0
        for rank in range(min(filled, number - 1)):
            tied[ties] = rank
            ties += row[rank] >> bits == row[rank + 1] >> bits
        after = 0
        for tie in range(ties):
            rank = tied[tie]
            if rank < after:
                continue
            # The run may go on behind the last rank that is kept.
            leading, after = row[rank] >> bits, rank + 2
            while after < number and row[after] >> bits == leading:
                after += 1
            for run in range(after - rank):
                place = row[rank + run] & last_place
                value = np.float64(values[place])
                genes[run] = columns[own[place]]
                ratios[run] = (value if is_counts else math.expm1(value)) / divisors[own[place]]
            _order_run(genes, ratios, after - rank)
            for run in range(min(after, filled) - rank):
                ranked[rank + run] = first_id + genes[run]


@kernel()
def write_mask(lengths, mask):
    """Write 1 into the first tokens of every cell of `mask` (cells, tokens), as many as its length, and 0 behind."""
    for cell in range(mask.shape[0]):
        mask[cell, : lengths[cell]] = 1
        mask[cell, lengths[cell] :] = 0
