"""In which order the cells of a corpus come: shuffled, yet read in runs, the same for any number of readers."""

from dataclasses import dataclass, field

import numpy as np

_BLOCK_STREAM, _WINDOW_STREAM = 0, 1


@dataclass(frozen=True)
class CorpusOrder:
    """An endless order of cells, pass after pass, every cell once in a pass. It is a function of its fields alone.

    In each pass the blocks of consecutive cells are put in random order and dealt out to lanes; a lane is shuffled
    window by window. Positions take `lane_run` cells from each lane in turn. A reader of every k-th batch thus needs
    the windows of its own lanes alone, if `lane_run * lanes` is a multiple of k batches.

    Args:
        block_starts: (blocks,) number of the first cell of each block, cells being numbered through all files.
        block_sizes: (blocks,) cells of each block.
        window_cells: Cells that are shuffled among each other, and in memory together.
        lanes: Number of lanes. Memory is that of `lanes * window_cells` cells over all readers.
        lane_run: Consecutive positions from one lane.
        seed: Seed of the order.
    """

    block_starts: np.ndarray
    block_sizes: np.ndarray
    window_cells: int
    lanes: int
    lane_run: int
    seed: int
    _passes: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_cells(self) -> int:
        """Cells of a pass."""
        return int(self.block_sizes.sum())

    def locate(self, position: int) -> tuple[int, int, int]:
        """(pass, lane, place in the lane) of a position of the endless order."""
        epoch, place = divmod(position, self.num_cells)
        turn, inside = divmod(place, self.lane_run)
        return epoch, turn % self.lanes, turn // self.lanes * self.lane_run + inside

    def position(self, epoch: int, lane: int, place: int) -> int:
        """The inverse of `locate`."""
        run, inside = divmod(place, self.lane_run)
        return epoch * self.num_cells + (run * self.lanes + lane) * self.lane_run + inside

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """First and last (exclusive) place of a lane's cells among those of a pass, blocks in their random order."""
        before = np.array([self._lane_size(other) for other in range(lane + 1)])
        return int(before[:-1].sum()), int(before.sum())

    def _lane_size(self, lane: int) -> int:
        turns, rest = divmod(self.num_cells, self.lane_run)
        size = (turns // self.lanes + (lane < turns % self.lanes)) * self.lane_run
        return size + (rest if lane == turns % self.lanes else 0)

    def window(self, epoch: int, lane: int, number: int) -> np.ndarray:
        """(blocks, 2) first cell and number of cells of every run of cells of a window, in their random order."""
        start, stop = self.lane_bounds(lane)
        start, stop = start + number * self.window_cells, min(stop, start + (number + 1) * self.window_cells)
        order, ends = self._pass(epoch)
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        blocks = order[first : last + 1]
        begins = ends[first : last + 1] - self.block_sizes[blocks]
        from_cell, to_cell = np.maximum(start - begins, 0), np.minimum(stop - begins, self.block_sizes[blocks])
        return np.stack([self.block_starts[blocks] + from_cell, to_cell - from_cell], axis=1)

    def _pass(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a pass in their order, and where each of them ends."""
        if epoch not in self._passes:
            self._passes.clear()
            order = np.random.default_rng([self.seed, epoch, _BLOCK_STREAM]).permutation(len(self.block_sizes))
            self._passes[epoch] = order, np.cumsum(self.block_sizes[order])
        return self._passes[epoch]

    def shuffle(self, epoch: int, lane: int, number: int, lengths: np.ndarray | None, size: int) -> np.ndarray:
        """Order (cells,) of a window's cells; with their `lengths`, runs of `lane_run` cells are of similar length."""
        rng = np.random.default_rng([self.seed, epoch, _WINDOW_STREAM, lane, number])
        order = rng.permutation(size)
        if lengths is None:
            return order
        order = order[np.argsort(lengths[order], kind="stable")]
        # A shorter run, which only a pass's last window has, stays last: the runs are read at their places.
        full = size // self.lane_run * self.lane_run
        runs = order[:full].reshape(-1, self.lane_run)
        return np.concatenate([runs[rng.permutation(len(runs))].ravel(), order[full:]])


__all__ = ["CorpusOrder"]
