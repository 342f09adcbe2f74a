"""Counts of a file in blocks, whole numbers: as they are, or rounded from corrected ones."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.thinned_counts import thin_counts
from state_hf.tokenization.input_scale import SCALE_SAMPLE, check_scale, look_at_values

_BLOCK_BYTES = 2**26


_OTHER_LAYER = "name the layer with the counts (layer=...)"
_ROUNDED = "round corrected counts to whole numbers (round_counts=True)"


def check_sampled_counts(cells: CellMatrix, *, rounded: bool) -> None:
    """Refuse what a sample of the cells shows not to be counts.

    Small counts with fractions may look like log1p values: with `rounded`, the user's word is taken for them, unless
    all cells have one total.

    Args:
        cells: The cells.
        rounded: Whether fractions are to be rounded.

    Raises:
        ValueError: The values are on another scale.
    """
    seen, place = look_at_values(cells.sample(SCALE_SAMPLE)), cells.place
    if seen.totals:
        totals = " or ".join(f"{total:g}" for total in seen.totals)
        problem = f"{place} is normalised already: as log1p values, its cells add up to {totals} counts each"
        raise ValueError(Advised(problem, _OTHER_LAYER))
    if not (rounded and seen.scale == "log1p"):
        check_scale(seen, "counts", place, _OTHER_LAYER, *([_ROUNDED] if seen.scale else []))


class WholeCounts:
    """The counts of a file in blocks, whole numbers.

    Attributes:
        cells: Where they are read.
        rounded: Whether fractions are rounded to the nearest whole number, halves to the even one.
        reference_depth: Counts that a cell has at most, see `thin_counts`; None to take none away.
        seed: Seed of what is taken away.
        thinned: Number of cells that lost counts, once all blocks were checked.
        before: Sum of all counts as they are in the file, once all blocks were checked.
        after: Sum of all whole counts, before any were taken away.
    """

    def __init__(self, cells: CellMatrix, *, rounded: bool, reference_depth: int | None = None, seed: int = 0) -> None:
        self.cells, self.rounded, self.reference_depth, self.seed = cells, rounded, reference_depth, seed
        self.before = self.after = 0.0
        self.thinned = 0

    @property
    def rounding(self) -> float | None:
        """Relative change of the sum by rounding; None where nothing was rounded."""
        return self.after / self.before - 1 if self.rounded and self.before != self.after else None

    def block_starts(self, title: str) -> Iterator[tuple[int, int]]:
        """First cell and end of every block, with a progress bar."""
        step = max(1, int(_BLOCK_BYTES // max(self.cells.bytes_per_cell, 1)))
        starts = range(0, self.cells.num_cells, step)
        for start in logging.tqdm(starts, desc=title, unit="block"):
            yield start, min(start + step, self.cells.num_cells)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """A block of counts without stored zeros, in canonical order."""
        return self._thinned(self._whole(start, stop), start)[0]

    def read_checked(self, start: int, stop: int) -> sparse.csr_matrix:
        """The same in the first pass.

        Raises:
            ValueError: The values are no counts.
        """
        stored = self._stored(start, stop)
        self._check(stored.data)
        self.before += float(stored.sum(dtype=np.float64))
        block = self._whole(start, stop)
        self.after += float(block.sum(dtype=np.float64))
        block, thinned = self._thinned(block, start)
        self.thinned += thinned
        return block

    def _whole(self, start: int, stop: int) -> sparse.csr_matrix:
        block = self._stored(start, stop)
        if self.rounded:
            block.data = np.rint(block.data)
        block.eliminate_zeros()
        return block

    def _thinned(self, block: sparse.csr_matrix, start: int) -> tuple[sparse.csr_matrix, int]:
        """The block, and how many of its cells lost counts."""
        if self.reference_depth is None:
            return block, 0
        thinned = thin_counts(block, self.reference_depth, first_cell=start, seed=self.seed)
        block.eliminate_zeros()
        return block, thinned

    def _stored(self, start: int, stop: int) -> sparse.csr_matrix:
        block = sparse.csr_matrix(self.cells.block(start, stop))
        block.sum_duplicates()
        return block

    def _check(self, values: np.ndarray) -> None:
        bad, ways = ~np.isfinite(values) | (values < 0), [_OTHER_LAYER]
        if not bad.any() and values.dtype.kind == "f" and not self.rounded:
            bad = values != np.rint(values)
            ways.append(_ROUNDED)
        if bad.any():
            problem = f"{self.cells.place} does not hold raw counts: one value is {values[bad][0]:g}"
            raise ValueError(Advised(problem, *ways))


__all__ = ["WholeCounts", "check_sampled_counts"]
