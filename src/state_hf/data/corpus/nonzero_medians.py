"""Medians of genes' non-zero values over more cells than fit into memory, in a few passes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from state_hf.data.corpus._median_kernels import count_values
from state_hf.data.whole_files import written_whole

# (bits of a float32 that an interval leaves open, number of intervals) of every pass. In the first, 64 intervals for
# each doubling from 2^-16 to 2^14 hold every count per 10,000 of a cell of less than 650 million counts; the second
# divides the one that the median is in, and of the third's, each is one float32.
_PASSES = ((17, 30 * 64), (8, 512), (0, 256))
_SMALLEST = int(np.float32(2.0**-16).view(np.int32))
MAX_PASSES = len(_PASSES)
_GENES_AT_ONCE = 512
_POSITION = "position_"


class NonzeroMedians:
    """Finds the median of every gene's non-zero values, each per 10,000 of its cell's total, in passes over the cells.

    A pass counts how many of a gene's values lie in each of some intervals, and the next divides the interval that the
    median is in. One pass gives medians with a relative error of at most 1/128, two of 2^-16, and three those of the
    float32 values themselves. Of an even number of values, it is the mean of the two in the middle. Memory is 8 KB a
    gene, whatever the number of cells.

    Args:
        num_genes: Number of genes.

    Attributes:
        finished_passes: How many passes were finished.
        number: (genes,) int64, how many non-zero values of a gene there are.
    """

    # What a search consists of, between two blocks of cells.
    _state: ClassVar[tuple[str, ...]] = ("finished_passes", "number", "low", "rank", "seen")

    def __init__(self, num_genes: int) -> None:
        self.num_genes, self.finished_passes = num_genes, 0
        self.number = np.zeros(num_genes, np.int64)
        # (searches, genes): where the intervals begin, and how many of the values from there on are below the one that
        # is looked for. From the second pass on, there are two searches for the two values in the middle.
        self.low, self.rank = np.full((1, num_genes), _SMALLEST, np.int64), np.zeros((1, num_genes), np.int64)
        self.seen = np.zeros((1, num_genes, _PASSES[0][1]), np.uint32)

    @property
    def relative_error(self) -> float:
        """The largest error of a median, as a share of it, after the passes that were finished."""
        shift = _PASSES[self.finished_passes - 1][0]
        return 2.0 ** (shift - 24) if shift else 0.0

    def add(self, cells: sparse.csr_array, columns: np.ndarray, *, is_counts: bool) -> None:
        """Take cells in; every pass has to be given the same.

        Args:
            cells: (cells, dataset genes) values, finite and >= 0, a gene at most once above 0.
            columns: (dataset genes,) the row of every column, -1 for none. Their values count in a cell's total, too.
            is_counts: Whether the values are counts; else they are log1p of normalised ones, and undone first.

        Raises:
            ValueError: A value is below 2^-16 per 10,000.
        """
        number = self.number if self.finished_passes == 0 else np.zeros_like(self.number)
        arrays = (cells.data, cells.indices, cells.indptr, columns, is_counts)
        outside = count_values(*arrays, self.low, _PASSES[self.finished_passes][0], self.seen, number)
        if outside:
            raise ValueError(f"{outside:,} values are below {2.0**-16:.2g} of 10,000 counts of their cell")

    def finish_pass(self) -> None:
        """Choose the interval of every search that holds its value, and divide it for the next pass."""
        shift, intervals = _PASSES[self.finished_passes]
        if self.finished_passes == 0:
            self.low = np.repeat(self.low, 2, axis=0)
            self.rank = np.stack([np.maximum(self.number - 1, 0) // 2, self.number // 2])
        for search in range(2):
            # In the first pass, both values are looked for among the same.
            counts = self.seen[search % len(self.seen)]
            for start in range(0, self.num_genes, _GENES_AT_ONCE):
                genes = slice(start, start + _GENES_AT_ONCE)
                up_to = np.cumsum(counts[genes], axis=1, dtype=np.int64)
                at = np.minimum((up_to <= self.rank[search, genes, None]).sum(axis=1), intervals - 1)
                places = np.arange(len(at)), at
                self.rank[search, genes] -= up_to[places] - counts[genes][places]
                self.low[search, genes] += at << shift
        self.finished_passes += 1
        following = _PASSES[self.finished_passes][1] if self.finished_passes < MAX_PASSES else 0
        self.seen = np.zeros((*self.low.shape, following), np.uint32)

    def medians(self) -> np.ndarray:
        """(genes,) float64 medians as the finished passes know them; NaN for a gene without a value."""
        middle = self.low + ((1 << _PASSES[self.finished_passes - 1][0]) >> 1)
        values = middle.astype(np.int32).view(np.float32).astype(np.float64).mean(axis=0)
        return np.where(self.number > 0, values, np.nan)

    def save(self, path: Path, position: Mapping[str, int]) -> None:
        """Keep the search in an .npz file, with the caller's numbers of where it stands."""
        state: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in self._state}
        state |= {f"{_POSITION}{name}": number for name, number in position.items()}
        # Under the temporary name, NumPy would add a suffix to a path.
        with written_whole(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **state)

    def load(self, path: Path) -> dict[str, int]:
        """Go on with a search that was kept. Returns the caller's numbers."""
        with np.load(path, allow_pickle=False) as kept:
            for name in self._state:
                setattr(self, name, kept[name])
            self.finished_passes = int(self.finished_passes)
            return {name[len(_POSITION) :]: int(kept[name]) for name in kept.files if name.startswith(_POSITION)}


__all__ = ["MAX_PASSES", "NonzeroMedians"]
