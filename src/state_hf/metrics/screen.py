"""The cells of one side of an evaluation: blocks of rows, each row with the code of its perturbation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
import scipy.sparse as sp

from state_hf.metrics import _summary_kernels
from state_hf.metrics.expression_rows import Rows, as_rows, compact, value_range

# Values of one gene range, gathered at a time: 64 MB as float64.
_CHUNK_VALUES = 8_000_000


@dataclass(frozen=True)
class RowScaling:
    """How the stored values of a block become normalised expression: count / total * target, in float64.

    Args:
        totals: Total count of each row; 0 in rows without values.
        target: What totals are scaled to.
        steps: Where the values are log-normalised, what one count of each row is before the logarithm; None where they
            are counts.
    """

    totals: np.ndarray
    target: float
    steps: np.ndarray | None = None


@dataclass(frozen=True)
class CellBlock:
    """Some rows (cells) of a screen.

    Args:
        matrix: Rows x genes.
        codes: Group of each row (int32): the perturbation's position, one past the last for control, -1 to skip it.
        library: Sum of each row.
    """

    matrix: Rows
    codes: np.ndarray
    library: np.ndarray

    def take(self, rows: np.ndarray) -> "CellBlock":
        """A copy of some rows."""
        return CellBlock(self.matrix[rows], self.codes[rows], self.library[rows])

    def count(self, counts: np.ndarray) -> None:
        """Add the number of non-zero values to counts[group, gene]."""
        parts = numba.get_num_threads()
        if isinstance(self.matrix, np.ndarray):
            _summary_kernels.count_dense(self.matrix, self.codes, parts, counts)
        else:
            arrays = self.matrix.indptr, self.matrix.indices, self.matrix.data
            _summary_kernels.count_sparse(*arrays, self.codes, parts, counts)

    def gather(self, how: RowScaling | None, genes: tuple[int, int], *written: np.ndarray, logs: bool) -> None:
        """Write the non-zero values of a range of genes, normalised or as they are, and sum them or their logarithms.

        What is written, see `_summary_kernels.gather_sparse`: cursor, values, sums, squares.
        """
        parts = numba.get_num_threads()
        ones = np.ones(len(self.codes))
        if how is None:
            scaling = _summary_kernels.AS_THEY_ARE, ones, ones, 1.0
        elif how.steps is None:
            scaling = _summary_kernels.COUNTS, how.totals, ones, float(how.target)
        else:
            scaling = _summary_kernels.LOGS, how.totals, how.steps, float(how.target)
        if isinstance(self.matrix, np.ndarray):
            _summary_kernels.gather_dense(self.matrix, self.codes, *scaling, logs, *genes, parts, *written)
        else:
            arrays = self.matrix.indptr, self.matrix.indices, self.matrix.data
            _summary_kernels.gather_sparse(*arrays, self.codes, *scaling, logs, *genes, parts, *written)


@dataclass(frozen=True)
class GeneRange:
    """The non-zero values of a range of genes, those of every (gene, group) side by side.

    Args:
        genes: The range.
        values: The values.
        starts: Offset of each (gene, group) slice of them, with one more column for the end.
        sums: Sum of each slice, of the values or of log1p of them, group x gene.
        squares: Sum of their squares, of each group.
    """

    genes: slice
    values: np.ndarray
    starts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True)
class Screen:
    """All cells of one side.

    Args:
        genes: Gene names.
        perturbations: Labels, sorted; their positions are the codes of the rows.
        control: The control's label; its code is the number of perturbations.
        blocks: The cells.
        copies: How many cells each stored row of a perturbation stands for (1 in real data; a baseline that gives all
            cells of a perturbation one profile stores it once).
        smallest: Smallest value (0 or below).
        largest: Largest value.
        largest_fraction: Largest fractional part; 0 in counts.
        dtype: Precision in which to transform values: float64 if they came so, else float32.
    """

    genes: np.ndarray
    perturbations: np.ndarray
    control: str
    blocks: tuple[CellBlock, ...]
    copies: np.ndarray
    smallest: float
    largest: float
    largest_fraction: float
    dtype: np.dtype

    @property
    def n_cells(self) -> np.ndarray:
        """Cells of each perturbation, and of the control as the last entry."""
        rows = np.zeros(len(self.perturbations) + 1, dtype=np.int64)
        for block in self.blocks:
            rows += np.bincount(block.codes[block.codes >= 0], minlength=len(rows))
        rows[:-1] *= self.copies
        return rows

    @property
    def library(self) -> np.ndarray:
        """Sum of each cell, over all blocks."""
        return np.concatenate([block.library for block in self.blocks])

    def control_blocks(self) -> tuple[CellBlock, ...]:
        """The control cells alone, copied, so that the rest of the screen can be freed."""
        code = len(self.perturbations)
        return tuple(block.take(rows) for block in self.blocks if len(rows := np.flatnonzero(block.codes == code)))

    def with_control(self, control_blocks: Sequence[CellBlock]) -> "Screen":
        """This screen with other control cells in the place of its own."""
        code = len(self.perturbations)
        own = [replace(block, codes=np.where(block.codes == code, np.int32(-1), block.codes)) for block in self.blocks]
        return replace(self, blocks=(*own, *control_blocks))

    def columns(self, normalisations: Sequence[RowScaling] | None = None, *, logs: bool = False) -> Iterator[GeneRange]:
        """Walk the genes in ranges, with the non-zero values of every (gene, group) side by side.

        Args:
            normalisations: For each block, how to normalise its values, to float64; None for the values as they are.
            logs: Whether log1p of the values is summed.

        Yields:
            One range after another, written afresh each time.
        """
        n_groups = len(self.perturbations) + 1
        counts = np.zeros((n_groups, len(self.genes)), dtype=np.int32)
        for block in self.blocks:
            block.count(counts)
        for first, last in _gene_ranges(counts.sum(axis=0, dtype=np.int64)):
            starts = np.zeros((last - first, n_groups + 1), dtype=np.int64)
            ends = np.cumsum(counts[:, first:last].T.ravel(), dtype=np.int64).reshape(last - first, n_groups)
            starts[:, 1:] = ends
            starts[1:, 0] = ends[:-1, -1]
            values = np.empty(ends[-1, -1], dtype=self.dtype if normalisations is None else np.float64)
            sums, squares = np.zeros((n_groups, last - first)), np.zeros((numba.get_num_threads(), n_groups))
            cursor = starts[:, :-1].T.copy()
            for number, block in enumerate(self.blocks):
                how = None if normalisations is None else normalisations[number]
                block.gather(how, (first, last), cursor, values, sums, squares, logs=logs)
            yield GeneRange(slice(first, last), values, starts, sums, squares.sum(axis=0))


def _gene_ranges(per_gene: np.ndarray) -> Iterator[tuple[int, int]]:
    first, held = 0, 0
    for gene, number in enumerate(per_gene):
        if gene > first and held + number > _CHUNK_VALUES:
            yield first, gene
            first, held = gene, 0
        held += number
    yield first, len(per_gene)


class ScreenBuilder:
    """Collects the cells of one side, block by block.

    Args:
        genes: Gene names, the columns of every block.
        control: The control's label.
        compact: Store copies in the smallest dtypes that hold them exactly, for blocks that are read from a file or
            come one by one. Otherwise CSR matrices and arrays are kept as they are, without a copy.
    """

    def __init__(self, genes: Sequence[str], control: str, *, compact: bool) -> None:
        self.genes = np.asarray(genes, dtype=object)
        self.control = control
        self.compact = compact
        self._matrices: list[tuple[Rows, np.ndarray]] = []
        self._labels: list[np.ndarray] = []
        self._smallest = self._largest = self._fraction = 0.0
        self._dtype: np.dtype = np.dtype(np.float32)

    def add(self, matrix: sp.csr_matrix | np.ndarray, labels: Sequence[str] | np.ndarray) -> None:
        """Add cells.

        Args:
            matrix: Cells x genes, dense or sparse in any format.
            labels: The perturbation of each cell.

        Raises:
            ValueError: If shapes disagree or a value is not finite.
        """
        if matrix.shape != (len(labels), len(self.genes)):
            raise ValueError(
                f"a block of cells has shape {matrix.shape}; with {len(labels)} labels and {len(self.genes)} genes "
                f"it must be {(len(labels), len(self.genes))}"
            )
        rows = as_rows(matrix)
        if rows.dtype == np.float64:
            self._dtype = np.dtype(np.float64)
        found = value_range(rows)
        if found.not_finite:
            raise ValueError(f"{found.not_finite} values are NaN or infinite; expression values must be finite")
        self._smallest = min(self._smallest, found.smallest)
        self._largest = max(self._largest, found.largest)
        self._fraction = max(self._fraction, found.fraction)
        if self.compact:
            rows = compact(rows, integral=found.fraction == 0.0 and found.smallest >= 0.0, largest=found.largest)
        self._matrices.append((rows, found.library))
        self._labels.append(np.asarray(labels, dtype=object))

    def build(self) -> Screen:
        """The screen of everything added.

        Raises:
            ValueError: If nothing was added.
        """
        if not self._labels:
            raise ValueError("no cells were given")
        perturbations = sorted(set(np.concatenate(self._labels)) - {self.control})
        code = {label: number for number, label in enumerate([*perturbations, self.control])}
        blocks = tuple(
            CellBlock(matrix, np.array([code[label] for label in labels], dtype=np.int32), library)
            for (matrix, library), labels in zip(self._matrices, self._labels, strict=True)
        )
        copies = np.ones(len(perturbations), dtype=np.int64)
        return Screen(
            genes=self.genes,
            perturbations=np.array(perturbations, dtype=object),
            control=self.control,
            blocks=blocks,
            copies=copies,
            smallest=self._smallest,
            largest=self._largest,
            largest_fraction=self._fraction,
            dtype=self._dtype,
        )
