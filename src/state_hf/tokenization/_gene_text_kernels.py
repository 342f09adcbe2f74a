"""Compiled loops that write the genes of cells in the order of their expression: as rows, and as text."""

from state_hf.compiled import kernel
from state_hf.tokenization._sentence_kernels import (
    _LOW_24,
    ORIGINAL_FILL,
    _cell_key,
    _shuffle_keys,
    _unshuffle_gene,
)


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
def text_lengths(rows, starts, lengths):
    """Write into `lengths` (cells,) the bytes of each cell's sentence: its names, and a space between two."""
    for cell in range(rows.shape[0]):
        length, number = 0, 0
        while number < rows.shape[1] and rows[cell, number] >= 0:
            row = rows[cell, number]
            length += starts[row + 1] - starts[row] + 1
            number += 1
        lengths[cell] = max(length - 1, 0)


@kernel()
def write_names(rows, starts, names, ends, text):
    """Write the sentences of cells one behind the other into `text`; `ends` (cells,) says where each ends.

    `names` are the bytes of all gene names, that of row r from `starts[r]` to `starts[r + 1]`.
    """
    at = 0
    for cell in range(rows.shape[0]):
        number = 0
        while at < ends[cell]:
            if number > 0:
                text[at] = 32
                at += 1
            row = rows[cell, number]
            for byte in range(starts[row], starts[row + 1]):
                text[at] = names[byte]
                at += 1
            number += 1
