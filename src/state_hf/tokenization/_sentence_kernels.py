"""Compiled loops over the cells of a CSR block that write their sentences.

Every random choice is a function of a 64-bit key and a counter, so a sentence does not depend on the cells around it.
"""

import math

import numpy as np

from state_hf.compiled import kernel
from state_hf.tokenization._keyed_draws import GOLDEN, U32, mix

PAD_FILL, SEEDED_FILL, ORIGINAL_FILL = 0, 1, 2

_U12, _U24 = np.uint64(12), np.uint64(24)
_LOW_24 = np.uint64(0xFFFFFF)

# A gene's place among ties is 24 bits of the sort key.
MAX_GENES = 1 << 24
# Any odd numbers that mix well: odd ones can be divided by again, modulo 2**24.
_ROUND_MULTIPLIERS = (0xB352D5, 0x6C8B35, 0x9E24D3)
_MULTIPLY = np.array(_ROUND_MULTIPLIERS, np.uint64)
_DIVIDE = np.array([pow(multiplier, -1, MAX_GENES) for multiplier in _ROUND_MULTIPLIERS], np.uint64)


@kernel()
def _shuffle_gene(gene, keys):
    """A keyed bijection of 24-bit numbers: every gene gets a priority of its own, so ties end here."""
    value = gene
    for turn in range(3):
        value = value ^ keys[turn]
        value = value ^ (value >> _U12)
        value = (value * _MULTIPLY[turn]) & _LOW_24
        value = value ^ (value >> _U12)
    return value


@kernel()
def _unshuffle_gene(priority, keys):
    """The inverse of `_shuffle_gene`."""
    value = priority
    for turn in range(2, -1, -1):
        value = value ^ (value >> _U12)
        value = (value * _DIVIDE[turn]) & _LOW_24
        value = value ^ (value >> _U12)
        value = value ^ keys[turn]
    return value


@kernel()
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
        random = mix(key + draw * GOLDEN)
        gene = genes[np.int64(((random >> U32) * np.uint64(num_genes)) >> U32)]
        if used[gene] != cell:
            if once:
                used[gene] = cell
            ids[filled] = gene
            filled += 1
    return filled


@kernel()
def _cell_key(seed, fill, cell):
    """What the random choices of a cell are drawn by."""
    key = mix(seed + GOLDEN)
    return mix(key + np.uint64(cell) * GOLDEN) if fill == ORIGINAL_FILL else key


@kernel()
def _shuffle_keys(cell_key):
    keys = np.empty(3, np.uint64)
    for turn in range(3):
        keys[turn] = mix(cell_key ^ mix(np.uint64(turn + 1))) & _LOW_24
    return keys


@kernel()
def write_rank_keys(start, data, indices, indptr, columns, cls_column, fill, seed, first_cell, keys, cls_values):
    """Write the sort keys of the cells from `start` on into `keys` (cells, width), zeros behind them.

    A key is the value's float32 bits, which order like the value, over the gene's priority among ties: all that a
    sentence needs. `cls_values` takes each cell's value of `cls_column`.
    """
    value = np.zeros(1, np.float32)
    bits = value.view(np.uint32)
    for at in range(keys.shape[0]):
        cell = start + at
        shuffle = _shuffle_keys(_cell_key(seed, fill, first_cell + cell))
        number, cls_values[at] = 0, 0.0
        for k in range(indptr[cell], indptr[cell + 1]):
            gene = columns[indices[k]]
            if gene < 0 or data[k] == 0:
                continue
            value[0] = data[k]
            keys[at, number] = (np.uint64(bits[0]) << _U24) | _shuffle_gene(np.uint64(gene), shuffle)
            number += 1
            if indices[k] == cls_column:
                cls_values[at] = data[k]
        keys[at, number:] = 0


@kernel()
def write_sentences(
    start, keys, cls_values, genes, num_tokens, has_cls_value, is_counts, fill, seed, first_cell, ids, expression, mask
):
    """Write the sentences of the cells from `start` on into `ids`, `expression` and `mask`, each (all cells, length).

    `keys` (cells, width) are those of `write_rank_keys`, each row sorted; `genes` are the known genes, ascending.
    """
    length, width = ids.shape[1], keys.shape[1]
    used = np.full(num_tokens, -1, np.int64)
    logs = np.empty(width, np.float64)
    value = np.zeros(1, np.float32)
    bits = value.view(np.uint32)
    for at in range(keys.shape[0]):
        cell = start + at
        key = _cell_key(seed, fill, first_cell + cell)
        shuffle = _shuffle_keys(key)

        # Down the ranks, where equal values follow each other and need one logarithm together. Summed in this order,
        # the total does not depend on the order of the columns.
        number, total, previous = 0, 0.0, np.uint64(0)
        log_value = 0.0
        while number < width and keys[at, width - 1 - number] > 0:
            current = keys[at, width - 1 - number] >> _U24
            if current != previous:
                bits[0] = current
                log_value = math.log1p(np.float64(value[0])) if is_counts else np.float64(value[0])
                previous = current
            logs[number] = log_value
            total += log_value
            number += 1

        cls_value = math.log1p(cls_values[at]) if is_counts else cls_values[at]
        scale, unexpressed = 100.0 / total, 0.0
        if number == 0:
            # The original's softmax of zeros: every known gene has the same share.
            scale, cls_value = 100.0 / genes.size, 1.0
            unexpressed = scale
        filled = min(number + 1, length)
        for position in range(1, filled):
            gene = _unshuffle_gene(keys[at, width - position] & _LOW_24, shuffle)
            ids[cell, position] = gene
            expression[cell, position] = logs[position - 1] * scale
            used[gene] = cell
        if fill != PAD_FILL:
            expressed = filled
            filled = _fill_unexpressed(ids[cell], filled, genes, used, cell, key)
            expression[cell, expressed:filled] = unexpressed

        ids[cell, 0] = num_tokens - 2
        expression[cell, 0] = cls_value * scale if has_cls_value else 0.0
        mask[cell, :filled] = 1
        ids[cell, filled:] = num_tokens - 1
        expression[cell, filled:] = 0.0
        mask[cell, filled:] = 0
