"""Cells as text: the names of a cell's expressed genes, the most expressed first.

The rule is that of Cell2Sentence (Levine et al. 2024, doi:10.1101/2023.09.11.557287). Genes of equal expression, of
which a cell of counts has many, stand in a random order that is a function of the seed and the cell's number alone.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from state_hf.tokenization import _gene_text_kernels, _sentence_kernels
from state_hf.tokenization.cell_matrix import over_cells

# So many cells' keys stay in the processor's cache between writing, sorting and reading them.
_CELLS_AT_ONCE = 16


def ranked_rows(
    cells: sp.csr_array, expressed: np.ndarray, columns: np.ndarray, *, most: int, seed: int, first_cell: int
) -> np.ndarray:
    """The genes of every cell by falling expression.

    Args:
        cells: (cells, dataset genes) float32, a gene at most once above 0.
        expressed: (cells,) how many genes of the vocabulary each expresses.
        columns: (dataset genes,) the vocabulary row of every column, -1 for none.
        most: Most genes of a cell.
        seed: Of the order of ties.
        first_cell: Position of the first of the cells in its dataset.

    Returns:
        (cells, most or as many as the richest cell has) int64 vocabulary rows, -1 behind the last.
    """
    rows = np.empty((cells.shape[0], min(most, int(expressed.max(initial=0)))), np.int64)
    draws = (_sentence_kernels.ORIGINAL_FILL, np.uint64(seed), first_cell)
    matrix = (cells.data, cells.indices, cells.indptr, columns)

    def write(start: int, stop: int) -> None:
        for begin in range(start, stop, _CELLS_AT_ONCE):
            number = expressed[begin : min(stop, begin + _CELLS_AT_ONCE)]
            keys, unused = np.empty((len(number), number.max()), np.uint64), np.empty(len(number), np.float32)
            _sentence_kernels.write_rank_keys(begin, *matrix, -1, *draws, keys, unused)
            keys.sort(axis=1)
            _gene_text_kernels.write_ranked_rows(begin, keys, *draws[1:], rows)

    over_cells(write, cells.shape[0])
    return rows


class GeneNames:
    """The names of a vocabulary as bytes, to be written one behind the other.

    Args:
        genes: The vocabulary.
    """

    def __init__(self, genes: Sequence[str]) -> None:
        names = [f"{gene} ".encode() for gene in genes]
        self._lengths = np.array([len(name) for name in names], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)])
        self._bytes = np.frombuffer(b"".join(names), np.uint8)
        self._table = np.frombuffer(
            b"".join(name[: _gene_text_kernels.COPIED].ljust(_gene_text_kernels.COPIED) for name in names), np.uint8
        )
        self._table = self._table.reshape(len(names), _gene_text_kernels.COPIED)

    def sentences(self, rows: np.ndarray) -> list[str]:
        """Names in order, joined with spaces.

        Args:
            rows: (cells, genes) vocabulary rows, -1 behind the last of each.
        """
        texts = [""] * len(rows)
        longest = int(self._lengths.max())

        def write(start: int, stop: int) -> None:
            text = np.empty(_CELLS_AT_ONCE * rows.shape[1] * longest + _gene_text_kernels.COPIED, np.uint8)
            ends = np.empty(_CELLS_AT_ONCE, np.int64)
            for begin in range(start, stop, _CELLS_AT_ONCE):
                block = rows[begin : min(stop, begin + _CELLS_AT_ONCE)]
                _gene_text_kernels.write_names(block, self._starts, self._bytes, self._table, text, ends)
                first = 0
                for number, end in enumerate(ends[: len(block)].tolist()):
                    # Without the space behind the last name.
                    texts[begin + number] = str(text[first : max(end - 1, first)].data, "utf-8")
                    first = end

        over_cells(write, len(rows))
        return texts


__all__ = ["GeneNames", "ranked_rows"]
