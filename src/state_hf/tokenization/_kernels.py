"""Compiled loops over the cells of a CSR block: checking them, and writing their sentences.

Every random choice is a function of a 64-bit key and a counter, so a sentence does not depend on the cells around it.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

PAD_FILL, SEEDED_FILL, ORIGINAL_FILL = 0, 1, 2

# Numba turns `uint64 + int64` into a float: every constant that meets a key has to be a uint64 itself.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_U8, _U12, _U24, _U27, _U30, _U31, _U32, _U64 = (np.uint64(bits) for bits in (8, 12, 24, 27, 30, 31, 32, 64))
_BYTE, _LOW_24, _LOW_32 = np.uint64(0xFF), np.uint64(0xFFFFFF), np.uint64(0xFFFFFFFF)

# A gene's place among ties is 24 bits of the sort key.
MAX_GENES = 1 << 24
_ROUND_MULTIPLIERS = (0xB352D5, 0x6C8B35, 0x9E24D3)
_MULTIPLY = np.array(_ROUND_MULTIPLIERS, np.uint64)
_DIVIDE = np.array([pow(multiplier, -1, MAX_GENES) for multiplier in _ROUND_MULTIPLIERS], np.uint64)

# Most counts are small whole numbers: looking their logarithm up is several times faster than computing it.
_LOG1P = np.log1p(np.arange(1024, dtype=np.float64))


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba: GIL released, division by zero as in NumPy, cached on disk where that is possible."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:
        # Neither the package's folder nor the user's cache folder can be written to.
        return numba.njit(nogil=True, error_model="numpy")(function)


@kernel
def _mix(value):
    """Splitmix64's output function (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> _U30)) * _MIX_1
    value = (value ^ (value >> _U27)) * _MIX_2
    return value ^ (value >> _U31)


@kernel
def _shuffle_gene(gene, keys):
    """A keyed bijection of 24-bit numbers: every gene gets a priority of its own, so ties end here."""
    value = gene
    for turn in range(3):
        value = value ^ keys[turn]
        value = value ^ (value >> _U12)
        value = (value * _MULTIPLY[turn]) & _LOW_24
        value = value ^ (value >> _U12)
    return value


@kernel
def _unshuffle_gene(priority, keys):
    """The inverse of `_shuffle_gene`."""
    value = priority
    for turn in range(2, -1, -1):
        value = value ^ (value >> _U12)
        value = (value * _DIVIDE[turn]) & _LOW_24
        value = value ^ (value >> _U12)
        value = value ^ keys[turn]
    return value


@kernel
def _sorted_keys(keys, spare, counts, number):
    """Radix sort of the first `number` keys, ascending. Returns the one of the two buffers that holds the result."""
    every, some = ~np.uint64(0), np.uint64(0)
    for i in range(number):
        every &= keys[i]
        some |= keys[i]
    varying = every ^ some
    source, target = keys, spare
    shift = np.uint64(0)
    while shift < _U64:
        if (varying >> shift) & _BYTE:
            counts[:] = 0
            for i in range(number):
                counts[np.int64((source[i] >> shift) & _BYTE)] += 1
            position = 0
            for digit in range(256):
                count = counts[digit]
                counts[digit] = position
                position += count
            for i in range(number):
                digit = np.int64((source[i] >> shift) & _BYTE)
                target[counts[digit]] = source[i]
                counts[digit] += 1
            source, target = target, source
        shift += _U8
    return source


@kernel
def _log_expression(value, is_counts):
    if not is_counts:
        return np.float64(value)
    if value < _LOG1P.size and value == math.floor(value):
        return _LOG1P[np.int64(value)]
    return math.log1p(np.float64(value))


@kernel
def inspect_cells(start, stop, data, indices, indptr, columns, expressed, invalid, repeated):
    """For cells [start, stop): count expressed known genes, values that are no expression, and columns stored twice."""
    seen = np.full(columns.size, -1, np.int64)
    for cell in range(start, stop):
        for k in range(indptr[cell], indptr[cell + 1]):
            value, column = data[k], indices[k]
            # Written so that NaN fails it.
            if not (value >= 0 and value < np.inf):
                invalid[cell] += 1
            elif value > 0 and columns[column] >= 0:
                expressed[cell] += 1
            if seen[column] == cell:
                repeated[cell] += 1
            seen[column] = cell


@kernel
def _fill_unexpressed(ids, filled, genes, used, cell, key):
    """Draw the rest of a sentence from the unexpressed genes. Returns the sentence's length.

    The candidates are one random sequence over all genes, in which used ones are skipped: two cells with the same key
    and almost the same expressed genes get almost the same fill. As in the original, a gene is drawn once if there are
    enough genes for a sentence, and with replacement if not.
    """
    num_genes = genes.size
    if filled - 1 == num_genes:
        return filled
    once = num_genes >= ids.size - 1
    draw = np.uint64(0)
    while filled < ids.size:
        draw += np.uint64(1)
        random = _mix(key + draw * _GOLDEN)
        gene = genes[np.int64(((random >> _U32) * np.uint64(num_genes)) >> _U32)]
        if used[gene] != cell:
            if once:
                used[gene] = cell
            ids[filled] = gene
            filled += 1
    return filled


@kernel
def write_sentences(
    start, stop, data, indices, indptr, columns, genes, num_tokens, cls_column, is_counts, fill, seed, first_cell,
    ids, expression, mask,
):  # fmt: skip
    """For cells [start, stop): write the sentences into `ids`, `expression` and `mask`, each (cells, length).

    `columns` gives the gene of every column or -1, `genes` the known ones in ascending order. The data must have passed
    `inspect_cells`. `cls_column` is the column whose value [CLS] carries, or -1 for zero.
    """
    length = ids.shape[1]
    used = np.full(num_tokens, -1, np.int64)
    keys = np.empty(columns.size, np.uint64)
    spare = np.empty(columns.size, np.uint64)
    counts = np.empty(256, np.int64)
    order_keys = np.empty(3, np.uint64)
    values = np.empty(columns.size, np.float64)
    one_value = np.empty(1, np.float32)
    one_value_bits = one_value.view(np.uint32)
    for cell in range(start, stop):
        key = _mix(np.uint64(seed) + _GOLDEN)
        if fill == ORIGINAL_FILL:
            key = _mix(key + np.uint64(first_cell + cell) * _GOLDEN)
        for turn in range(3):
            order_keys[turn] = _mix(key ^ _mix(np.uint64(turn + 1))) & _LOW_24

        number, cls_value = 0, 0.0
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[indices[k]]
            if gene < 0 or data[k] == 0:
                continue
            one_value[0] = data[k]
            keys[number] = (np.uint64(one_value_bits[0]) << _U24) | _shuffle_gene(np.uint64(gene), order_keys)
            number += 1
            used[gene] = cell
            if indices[k] == cls_column:
                cls_value = _log_expression(data[k], is_counts)
        ranked = _sorted_keys(keys, spare, counts, number)

        # Summed in rank order, so that the order of the columns cannot change the last bit.
        total = 0.0
        for rank in range(number):
            one_value_bits[0] = ranked[number - 1 - rank] >> _U24
            values[rank] = _log_expression(one_value[0], is_counts)
            total += values[rank]
        scale, unexpressed = 100.0 / total, 0.0
        if number == 0:
            # The original's softmax of zeros: every known gene has the same share.
            scale, cls_value = 100.0 / genes.size, 1.0
            unexpressed = scale

        filled = min(number + 1, length)
        for position in range(1, filled):
            ids[cell, position] = _unshuffle_gene(ranked[number - position] & _LOW_24, order_keys)
            expression[cell, position] = values[position - 1] * scale
        if fill != PAD_FILL:
            expressed = filled
            filled = _fill_unexpressed(ids[cell], filled, genes, used, cell, key)
            expression[cell, expressed:filled] = unexpressed
        ids[cell, 0] = num_tokens - 2
        expression[cell, 0] = cls_value * scale if cls_column >= 0 else 0.0
        mask[cell, :filled] = 1
        ids[cell, filled:] = num_tokens - 1
        expression[cell, filled:] = 0.0
        mask[cell, filled:] = 0
