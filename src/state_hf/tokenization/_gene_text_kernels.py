"""Compiled loops that write the genes of cells in the order of their expression: as rows, and as text."""

from state_hf.compiled import kernel
from state_hf.tokenization._sentence_kernels import (
    _LOW_24,
    ORIGINAL_FILL,
    _cell_key,
    _shuffle_keys,
    _unshuffle_gene,
)

# Bytes of a name that are copied at once: most names are shorter.
COPIED = 16


@kernel()
def write_ranked_rows(start, keys, seed, first_cell, rows):
    """Write the vocabulary rows of the cells from `start` on into `rows` (all cells, most) by rank, -1 behind them.

    `keys` (cells, width) are those of `write_rank_keys` with ties of every cell's own, each row sorted.
    """
    width = keys.shape[1]
    for at in range(keys.shape[0]):
        cell = start + at
        shuffle = _shuffle_keys(_cell_key(seed, ORIGINAL_FILL, first_cell + cell))
        number = 0
        while number < min(width, rows.shape[1]) and keys[at, width - 1 - number] > 0:
            rows[cell, number] = _unshuffle_gene(keys[at, width - 1 - number] & _LOW_24, shuffle)
            number += 1
        rows[cell, number:] = -1


@kernel()
def write_names(rows, starts, names, table, text, ends):
    """Write the sentences of cells one behind the other into `text`, and into `ends` (cells,) where each ends.

    `names` are the bytes of all gene names and a space behind each, that of row r from `starts[r]` to `starts[r + 1]`.
    `table` (genes, COPIED) holds the first bytes of each: a fixed number is copied much faster than as many as a name
    has, and what is too much is written over by the next. So `text` needs so many bytes more than the sentences have.
    """
    at = 0
    for cell in range(rows.shape[0]):
        number = 0
        while number < rows.shape[1] and rows[cell, number] >= 0:
            row = rows[cell, number]
            length = starts[row + 1] - starts[row]
            for byte in range(COPIED):
                text[at + byte] = table[row, byte]
            for byte in range(COPIED, length):
                text[at + byte] = names[starts[row] + byte]
            at += length
            number += 1
        ends[cell] = at
