"""Energy distances between groups of cells."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
import torch

from state_hf.metrics import _summary_kernels
from state_hf.metrics.expression_rows import SparseRows, stack
from state_hf.metrics.screen import Screen

# Cells in one tile: 2,048 x 18,000 genes in float32 are 147 MB.
_TILE_CELLS = 2048
# Share of non-zero values up to which the CPU is faster visiting these alone than multiplying dense matrices.
_SPARSE_DENSITY = 0.25


def energy_distances(
    screen: Screen, *, mode: int, scales: Sequence[np.ndarray], centre: np.ndarray, device: str | None = None
) -> np.ndarray:
    """Energy distance of each perturbation's cells to the control's: 2 mean d(x,y) - mean d(x,x) - mean d(y,y).

    Euclidean, over all pairs of cells (a cell with itself included, at distance 0). Distances come from scalar products
    of tiles of cells, in the precision of the input. Cells are centred first: a shift changes no distance, and smaller
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
    tiles = _Tiles(screen, mode, scales, centre.astype(screen.dtype), device)
    n_perturbations = len(screen.perturbations)
    between, within = np.zeros(n_perturbations), np.zeros(n_perturbations)
    control_within = 0.0
    for number, control in enumerate(tiles.of(n_perturbations)):
        control_within += control.pair_sum(control)
        for later in tiles.of(n_perturbations, start=number + 1):
            control_within += 2 * later.pair_sum(control)
        for group in range(n_perturbations):
            for tile in tiles.of(group):
                between[group] += tile.pair_sum(control)
    for group in range(n_perturbations):
        for number, tile in enumerate(tiles.of(group)):
            within[group] += tile.pair_sum(tile)
            for later in tiles.of(group, start=number + 1):
                within[group] += 2 * later.pair_sum(tile)
    rows = np.array([len(rows) for rows in tiles.rows], dtype=np.float64)
    control_rows = rows[-1]
    return 2 * between / (rows[:-1] * control_rows) - within / rows[:-1] ** 2 - control_within / control_rows**2


class _Tile(ABC):
    """Some cells of a group, ready for distances to another tile of the same kind."""

    @abstractmethod
    def pair_sum(self, other: Self) -> float:
        """Sum of the distances of all pairs of cells; a tile with itself has zeros on the diagonal."""


class _DenseTile(_Tile):
    """Cells as a dense centred matrix, on any device."""

    def __init__(self, cells: SparseRows, centre: np.ndarray, device: str) -> None:
        matrix = np.empty(cells.shape, dtype=centre.dtype)
        _summary_kernels.centred_rows(cells.indptr, cells.indices, cells.data, centre, matrix)
        self.matrix = torch.from_numpy(matrix).to(device)
        self.norms = torch.linalg.vecdot(self.matrix, self.matrix)

    def pair_sum(self, other: Self) -> float:
        squared = torch.addmm(other.norms[None, :], self.matrix, other.matrix.T, alpha=-2.0)
        squared += self.norms[:, None]
        if self is other:
            squared.fill_diagonal_(0.0)
        return float(squared.clamp_(min=0.0).sqrt_().sum(dtype=torch.float64))


class _SparseTile(_Tile):
    """Cells as their non-zero values on the left of a product, and as dense panels of a few cells on its right."""

    def __init__(self, cells: SparseRows, centre: np.ndarray) -> None:
        self.cells, self.centre = cells, centre
        self.norms = np.empty(cells.shape[0], dtype=centre.dtype)
        _summary_kernels.centred_norms(cells.indptr, cells.indices, cells.data, centre, self.norms)

    @cached_property
    def by_gene(self) -> tuple[np.ndarray, ...]:
        """The values of a few cells at a time, by gene: start of each such block, genes, cells, values."""
        n_blocks = -(-self.cells.shape[0] // _summary_kernels.BLOCK_CELLS)
        genes, rows = np.empty((2, len(self.cells.data)), dtype=np.int32)
        values = np.empty_like(self.cells.data)
        starts = self.cells.indptr[
            np.minimum(np.arange(n_blocks + 1) * _summary_kernels.BLOCK_CELLS, self.cells.shape[0])
        ]
        _summary_kernels.order_by_gene(*self._arrays, starts, self.cells.n_genes, genes, rows, values)
        return starts, genes, rows, values

    @cached_property
    def panels(self) -> np.ndarray:
        """Centred cells, panel x gene x cell; the last panel is filled up with zeros."""
        n_panels = -(-self.cells.shape[0] // _summary_kernels.PANEL_CELLS)
        panels = np.zeros((n_panels, self.cells.n_genes, _summary_kernels.PANEL_CELLS), dtype=self.centre.dtype)
        _summary_kernels.fill_panels(*self._arrays, self.centre, panels)
        return panels

    @property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.cells.indptr, self.cells.indices, self.cells.data

    def pair_sum(self, other: Self) -> float:
        sums = np.zeros(len(self.norms))
        for number, panel in enumerate(other.panels):
            first = number * _summary_kernels.PANEL_CELLS
            norms = other.norms[first : first + _summary_kernels.PANEL_CELLS]
            _summary_kernels.distances_to_panel(
                *self.by_gene, self.norms, panel, self.centre @ panel, norms, first if self is other else -1, sums
            )
        return float(sums.sum())


class _Tiles:
    """The cells of each group in tiles, made when asked for."""

    def __init__(
        self, screen: Screen, mode: int, scales: Sequence[np.ndarray], centre: np.ndarray, device: str | None
    ) -> None:
        self.screen, self.mode, self.scales, self.centre, self.device = screen, mode, scales, centre, device
        codes = np.concatenate([block.codes for block in screen.blocks])
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(screen.perturbations) + 2))
        self.rows = [order[start:stop] for start, stop in pairwise(bounds)]
        self.block_starts = np.cumsum([0] + [len(block.codes) for block in screen.blocks])

    def of(self, group: int, *, start: int = 0) -> Iterator[_Tile]:
        rows = self.rows[group]
        for first in range(start * _TILE_CELLS, len(rows), _TILE_CELLS):
            cells = self._cells(rows[first : first + _TILE_CELLS])
            if self.sparse:
                yield _SparseTile(cells, self.centre)
            else:
                yield _DenseTile(cells, self.centre, self.device or "cpu")

    @cached_property
    def sparse(self) -> bool:
        matrices = [block.matrix for block in self.screen.blocks]
        stored = sum(len(matrix.data) if isinstance(matrix, SparseRows) else matrix.size for matrix in matrices)
        places = sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices)
        return self.device is None and stored <= _SPARSE_DENSITY * places

    def _cells(self, rows: np.ndarray) -> SparseRows:
        """Transformed values of some rows, in their order within the group."""
        which = np.searchsorted(self.block_starts, rows, side="right") - 1
        parts = []
        for number in np.unique(which):
            inside = rows[which == number] - self.block_starts[number]
            part = stack([self.screen.blocks[number].matrix[inside]])
            values = np.empty(len(part.data), dtype=self.centre.dtype)
            _summary_kernels.transform_rows(part.indptr, part.data, self.scales[number][inside], self.mode, values)
            parts.append(SparseRows(part.indptr, part.indices, values, part.n_genes))
        return stack(parts)
