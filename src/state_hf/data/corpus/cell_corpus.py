"""Many files of cells with different genes, as one dataset in a shuffled order that any position can be read of."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from torch.utils.data import Dataset

from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.corpus.corpus_files import IndexedFile, index_files, open_corpus_file
from state_hf.data.corpus.corpus_manifest import CorpusFile, read_manifest
from state_hf.data.corpus.corpus_order import CorpusOrder
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer

if TYPE_CHECKING:
    import datasets

_OPEN_FILES = 64
_SPLIT_STREAM = 2


@dataclass(frozen=True, eq=False)
class CorpusCells:
    """Some cells of one file.

    Attributes:
        source: The file.
        counts: (cells, the file's genes) CSR, float32, in the scale that the manifest gives.
        cells: (cells,) their numbers in the file.
        positions: (cells,) their positions in the corpus' endless order.
    """

    source: IndexedFile
    counts: sparse.csr_array
    cells: np.ndarray
    positions: np.ndarray


class _Window:
    """The cells of one window in memory, and the order in which they come."""

    def __init__(self, corpus: "CellCorpus", epoch: int, lane: int, number: int) -> None:
        runs = corpus.order.window(epoch, lane, number)
        files = np.searchsorted(corpus.file_ends, runs[:, 0], side="right")
        starts = runs[:, 0] - (corpus.file_ends - corpus.file_sizes)[files]
        blocks: dict[int, sparse.csr_matrix] = {}
        # In the order of the files, which are read fastest from front to back.
        for run in np.lexsort([starts, files]).tolist():
            blocks[run] = corpus.read(int(files[run]), int(starts[run]), int(starts[run] + runs[run, 1]))
        parts = [blocks[run] for run in range(len(runs))]
        self.files = np.repeat(files, runs[:, 1])
        self.cells = np.concatenate(
            [np.arange(first, first + size) for first, size in zip(starts, runs[:, 1], strict=True)]
        )
        self.values = np.concatenate([part.data.astype(np.float32, copy=False) for part in parts])
        self.genes = np.concatenate([part.indices.astype(np.int32, copy=False) for part in parts])
        lengths = np.concatenate([np.diff(part.indptr) for part in parts])
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        by_length = lengths if corpus.group_by_length else None
        self.order = corpus.order.shuffle(epoch, lane, number, by_length, len(lengths))


class CellCorpus(Dataset[list[CorpusCells]]):
    """The cells of many files, in an endless shuffled order in which every cell comes once a pass.

    `corpus[[p, q, ...]]` are the cells at these positions; position p depends on p, the files and the arguments alone,
    not on who reads it or what was read before. So ranks and workers share a corpus by positions, and training goes on
    in the middle of a pass by going on with the next position. Files are opened when they are read; a window of cells
    of each lane is kept in memory (see `CorpusOrder`).

    Args:
        files: A manifest's path, or its rows.
        tokenizer: With the vocabulary that the files' genes are looked up in.
        block_cells: Consecutive cells that are read together and dealt out together.
        window_cells: Cells that are shuffled among each other.
        lanes: Number of lanes that batches draw from. The order depends on it; let it be a multiple of ranks x workers
            x (batch size / lane_run), so that no two of them read the same window.
        lane_run: Cells that are taken from a lane in turn; at most the batch size.
        group_by_length: Whether runs of `lane_run` cells have similar numbers of expressed genes, which saves padding
            if `lane_run` is the batch size.
        seed: Seed of the order.
        min_overlap: Smallest share of genes of a file that must be in the vocabulary, see `resolve_genes`.
        cache: Folder that keeps what is found out about each file (genes, cells), for a start without opening all.

    Attributes:
        files: The files.
        order: The order.
        dataset_names: Names of the datasets, in the order of the manifest.

    Raises:
        ValueError: A manifest, file or argument is wrong; the message names it.
    """

    def __init__(
        self,
        files: str | Path | Sequence[CorpusFile],
        tokenizer: GeneVocabularyTokenizer,
        *,
        block_cells: int = 64,
        window_cells: int = 512,
        lanes: int = 32,
        lane_run: int = 8,
        group_by_length: bool = False,
        seed: int = 0,
        min_overlap: float = 0.3,
        cache: str | Path | None = None,
    ) -> None:
        sizes = {"block_cells": block_cells, "window_cells": window_cells, "lanes": lanes, "lane_run": lane_run}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, and is {value}")
        if window_cells % lane_run:
            raise ValueError(f"window_cells ({window_cells}) must be a multiple of lane_run ({lane_run})")
        rows = read_manifest(files) if isinstance(files, str | Path) else list(files)
        self.files = index_files(rows, tokenizer, min_overlap=min_overlap, cache=cache)
        self.dataset_names = list(dict.fromkeys(file.dataset for file in rows))
        self.group_by_length = group_by_length
        self.file_sizes = np.array([file.num_cells for file in self.files])
        self.file_ends = np.cumsum(self.file_sizes)
        starts = [np.arange(0, size, block_cells) for size in self.file_sizes]
        block_sizes = [
            np.minimum(block_cells, size - begin) for begin, size in zip(starts, self.file_sizes, strict=True)
        ]
        before = (self.file_ends - self.file_sizes).tolist()
        self.order = CorpusOrder(
            np.concatenate([begin + first for begin, first in zip(starts, before, strict=True)]),
            np.concatenate(block_sizes),
            window_cells=window_cells,
            lanes=lanes,
            lane_run=lane_run,
            seed=seed,
        )
        self._forget()

    def _forget(self) -> None:
        self._windows: dict[int, tuple[tuple[int, int], _Window]] = {}
        self._open: OrderedDict[int, CellMatrix] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_windows": {}, "_open": OrderedDict(), "_pid": -1}

    def __len__(self) -> int:
        return self.order.num_cells

    def split(self, share: float, *, seed: int = 0) -> tuple["CellCorpus", "CellCorpus"]:
        """Two corpora of different cells: (the rest, `share` of the blocks, drawn at random: at least one).

        Raises:
            ValueError: `share` is not between 0 and 1, or leaves no block to the rest.
        """
        blocks = len(self.order.block_sizes)
        number = max(1, round(share * blocks))
        if not 0 < share < 1 or number >= blocks:
            raise ValueError(
                f"A share of {share} cannot be held out of {len(self):,} cells: it has to be between 0 and 1, "
                f"and to leave at least one of their {blocks:,} blocks of consecutive cells"
            )
        held = np.zeros(blocks, np.bool_)
        held[np.random.default_rng([seed, _SPLIT_STREAM]).choice(blocks, number, replace=False)] = True
        return self._only(~held), self._only(held)

    def _only(self, kept: np.ndarray) -> "CellCorpus":
        part = object.__new__(CellCorpus)
        part.__dict__ = self.__getstate__()
        starts, sizes = self.order.block_starts[kept], self.order.block_sizes[kept]
        part.order = replace(self.order, block_starts=starts, block_sizes=sizes, _passes={})
        part._forget()
        return part

    def read(self, file: int, start: int, stop: int) -> sparse.csr_matrix:
        """Cells `start` to `stop` of file number `file`."""
        if file in self._open:
            self._open.move_to_end(file)
        else:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[file] = open_corpus_file(self.files[file].file)
        return self._open[file].block(start, stop)

    def _window(self, epoch: int, lane: int, number: int) -> _Window:
        kept = self._windows.get(lane)
        if kept is None or kept[0] != (epoch, number):
            self._windows.pop(lane, None)  # room for the next one
            kept = (epoch, number), _Window(self, epoch, lane, number)
            self._windows[lane] = kept
        return kept[1]

    def __getitem__(self, position: int) -> list[CorpusCells]:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> list[CorpusCells]:
        """The cells at some positions, by file; called by PyTorch's DataLoader."""
        if self._pid != os.getpid():  # a forked worker: HDF5 handles must not be shared
            self._forget()
        picks: dict[int, list[tuple[_Window, int, int]]] = {}
        for position in map(int, positions):
            epoch, lane, place = self.order.locate(position)
            number, inside = divmod(place, self.order.window_cells)
            window = self._window(epoch, lane, number)
            row = int(window.order[inside])
            picks.setdefault(int(window.files[row]), []).append((window, row, position))
        return [self._cells(file, picks[file]) for file in sorted(picks)]

    def _cells(self, file: int, picks: Sequence[tuple[_Window, int, int]]) -> CorpusCells:
        source = self.files[file]
        spans = [(window, slice(window.starts[row], window.ends[row])) for window, row, _ in picks]
        ends = np.cumsum([0, *(span.stop - span.start for _, span in spans)])
        arrays = (
            np.concatenate([window.values[span] for window, span in spans]),
            np.concatenate([window.genes[span] for window, span in spans]),
            ends.astype(np.int32),
        )
        return CorpusCells(
            source,
            sparse.csr_array(arrays, shape=(len(picks), len(source.genes.columns))),
            np.array([window.cells[row] for window, row, _ in picks]),
            np.array([position for _, _, position in picks]),
        )

    def to_iterable_dataset(self, *, epoch: int = 0) -> "datasets.IterableDataset":
        """A view of one pass for the `datasets` library: one example a cell, in the random order of its lanes.

        An example holds `gene_ids` (rows of the vocabulary, the most expressed first), `values` (in the file's scale),
        `dataset`, `scale`, `file`, `cell` (number in the file) and `position`. The lanes are its shards, which
        `datasets` deals out to workers, and `split_dataset_by_node` to processes.
        """
        import datasets  # loading it costs a second, and only this view needs it

        lanes = list(range(self.order.lanes))
        kwargs = {"corpus": self, "epoch": epoch, "lanes": lanes}
        return datasets.IterableDataset.from_generator(_examples_of_lanes, gen_kwargs=kwargs)


def _examples_of_lanes(corpus: CellCorpus, epoch: int, lanes: Sequence[int]) -> Iterator[dict[str, Any]]:
    for lane in lanes:
        start, stop = corpus.order.lane_bounds(lane)
        for place in range(0, stop - start, corpus.order.lane_run):
            places = range(place, min(place + corpus.order.lane_run, stop - start))
            for cells in corpus.__getitems__([corpus.order.position(epoch, lane, at) for at in places]):
                yield from examples(cells)


def examples(cells: CorpusCells) -> Iterator[dict[str, Any]]:
    """One dictionary a cell: its expressed genes of the vocabulary by falling expression, and where it is from."""
    matrix, file = cells.counts, cells.source.file
    for row in range(matrix.shape[0]):
        span = slice(matrix.indptr[row], matrix.indptr[row + 1])
        genes, values = cells.source.genes.columns[matrix.indices[span]], matrix.data[span]
        known = (genes >= 0) & (values > 0)
        genes, values = genes[known], values[known]
        ranks = np.lexsort([genes, -values])
        yield {
            "gene_ids": genes[ranks].astype(np.int32),
            "values": values[ranks],
            "dataset": file.dataset,
            "scale": file.scale,
            "file": file.path,
            "cell": int(cells.cells[row]),
            "position": int(cells.positions[row]),
        }


__all__ = ["CellCorpus", "CorpusCells", "examples"]
