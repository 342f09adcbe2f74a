"""Energy distances between groups of cells."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from state_hf.metrics import _kernels
from state_hf.metrics.screen import CellBlock, Screen

# Cells in one dense tile: 2,048 x 18,000 genes in float32 are 147 MB.
_TILE_CELLS = 2048


def energy_distances(
    screen: Screen, *, mode: int, scales: Sequence[np.ndarray], centre: np.ndarray, device: str | None = None
) -> np.ndarray:
    """Energy distance of each perturbation's cells to the control's: 2 mean d(x,y) - mean d(x,x) - mean d(y,y).

    Euclidean, over all pairs of cells (a cell with itself included, at distance 0). Distances come from matrix products
    of dense tiles, in the precision of the input. Tiles are centred first: a shift changes no distance, and smaller
    norms keep single-precision products accurate.

    Args:
        screen: The cells.
        mode: 0 values as they are, 1 divided by the scale of their row, 2 log1p of that.
        scales: For each block, the scale of its rows.
        centre: A profile near the cells, such as the control's mean (G).
        device: Torch device; None for the CPU.

    Returns:
        One value a perturbation.
    """
    tiles = _Tiles(screen, mode, scales, centre.astype(screen.dtype), device or "cpu")
    n_perturbations = len(screen.perturbations)
    between, within = np.zeros(n_perturbations), np.zeros(n_perturbations)
    control_within = 0.0
    for number, control in enumerate(tiles.of(n_perturbations)):
        control_within += _pair_sum(control, control)
        for later in tiles.of(n_perturbations, start=number + 1):
            control_within += 2 * _pair_sum(control, later)
        for group in range(n_perturbations):
            between[group] += sum(_pair_sum(tile, control) for tile in tiles.of(group))
    for group in range(n_perturbations):
        for number, tile in enumerate(tiles.of(group)):
            within[group] += _pair_sum(tile, tile)
            within[group] += 2 * sum(_pair_sum(tile, later) for later in tiles.of(group, start=number + 1))
    rows = np.array([tiles.n_rows(group) for group in range(n_perturbations + 1)], dtype=np.float64)
    control_rows = rows[-1]
    return 2 * between / (rows[:-1] * control_rows) - within / rows[:-1] ** 2 - control_within / control_rows**2


class _Tiles:
    """The cells of each group as dense tiles, made when asked for."""

    def __init__(
        self, screen: Screen, mode: int, scales: Sequence[np.ndarray], centre: np.ndarray, device: str
    ) -> None:
        self.screen, self.mode, self.scales, self.centre, self.device = screen, mode, scales, centre, device
        codes = np.concatenate([block.codes for block in screen.blocks])
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(screen.perturbations) + 2))
        self.rows = [order[start:stop] for start, stop in pairwise(bounds)]
        self.block_starts = np.cumsum([0] + [len(block.codes) for block in screen.blocks])

    def n_rows(self, group: int) -> int:
        return len(self.rows[group])

    def of(self, group: int, *, start: int = 0) -> Iterator[torch.Tensor]:
        rows = self.rows[group]
        for first in range(start * _TILE_CELLS, len(rows), _TILE_CELLS):
            yield self._dense(rows[first : first + _TILE_CELLS])

    def _dense(self, rows: np.ndarray) -> torch.Tensor:
        tile = np.empty((len(rows), len(self.centre)), dtype=self.centre.dtype)
        which = np.searchsorted(self.block_starts, rows, side="right") - 1
        for number in np.unique(which):
            inside = which == number
            part = np.empty((inside.sum(), tile.shape[1]), dtype=tile.dtype) if not inside.all() else tile
            _write_rows(
                self.screen.blocks[number],
                rows[inside] - self.block_starts[number],
                self.scales[number],
                self.mode,
                self.centre,
                part,
            )
            if part is not tile:
                tile[inside] = part
        return torch.from_numpy(tile).to(self.device)


def _write_rows(
    block: CellBlock, rows: np.ndarray, scale: np.ndarray, mode: int, centre: np.ndarray, tile: np.ndarray
) -> None:
    if isinstance(block.matrix, np.ndarray):
        _kernels.centred_dense_rows(block.matrix, rows, scale, mode, centre, tile)
    else:
        arrays = block.matrix.indptr, block.matrix.indices, block.matrix.data
        _kernels.centred_sparse_rows(*arrays, rows, scale, mode, centre, tile)


def _pair_sum(left: torch.Tensor, right: torch.Tensor) -> float:
    """Sum of the Euclidean distances of all pairs of rows; a tile with itself has zeros on the diagonal."""
    squared = torch.addmm(_squared_norms(right)[None, :], left, right.T, alpha=-2.0)
    squared += _squared_norms(left)[:, None]
    if left is right:
        squared.fill_diagonal_(0.0)
    return float(squared.clamp_(min=0.0).sqrt_().sum(dtype=torch.float64))


def _squared_norms(tile: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vecdot(tile, tile)
