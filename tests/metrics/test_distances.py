import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from state_hf.metrics.distances import energy_distances
from tests.metrics.screens import build, random_counts
from tests.rounding import bound


def found(screen):
    scales = [np.ones(len(block.codes), dtype=screen.dtype) for block in screen.blocks]
    return energy_distances(screen, mode=0, scales=scales, centre=np.linspace(0, 0.5, len(screen.genes)))


def test_by_hand():
    # On a line: target 0 and 2, control 5. Between: (5 + 3) / 2 = 4. Within the target: (0 + 2 + 2 + 0) / 4 = 1.
    screen = build([[0.0], [2.0], [5.0]], ["a", "a", "ctrl"])
    np.testing.assert_allclose(found(screen), [2 * 4 - 1])


@pytest.mark.parametrize("tile", [7, 100, 2048])
@pytest.mark.parametrize("sparse_density", [0.0, 1.0])
@pytest.mark.parametrize("form", [np.array, sp.csr_matrix])
def test_equal_to_all_pairs(monkeypatch, tile, sparse_density, form):
    monkeypatch.setattr("state_hf.metrics.distances._TILE_CELLS", tile)
    monkeypatch.setattr("state_hf.metrics.distances._SPARSE_DENSITY", sparse_density)
    cells = np.log1p(random_counts(0, 260, 30))
    labels = np.array(["b"] * 100 + ["ctrl"] * 85 + ["a"] * 74 + ["one"])
    control = cells[labels == "ctrl"]
    expected = [
        2 * cdist(group, control).mean() - cdist(group, group).mean() - cdist(control, control).mean()
        for group in (cells[labels == label] for label in ("a", "b", "one"))
    ]
    np.testing.assert_allclose(found(build(form(cells), labels, split=133)), expected, rtol=1e-9)
    single = build(form(cells.astype(np.float32)), labels, split=133)
    np.testing.assert_allclose(found(single), expected, rtol=1e-5)


def test_a_shift_changes_nothing():
    screen = build(np.log1p(random_counts(1, 40, 20)), ["a"] * 20 + ["ctrl"] * 20)
    scales = [np.ones(40)]
    centred = energy_distances(screen, mode=0, scales=scales, centre=np.full(20, 0.7))
    np.testing.assert_allclose(centred, found(screen), rtol=1e-9)


def test_copies_of_the_control_are_at_no_distance():
    cells = np.log1p(random_counts(2, 30, 20))
    screen = build(np.vstack([cells, cells]), ["a"] * 30 + ["ctrl"] * 30)
    # The square of a distance is a sum over 20 genes that cancels: norms of two cells less twice their product, four
    # times the larger norm in absolute terms. Of 30 x 30 pairs, the 30 of a cell and its copy are roots of what is left
    # of 0; they count twice. Distances of other cells lose nothing that would matter beside it.
    left = bound(20, np.float64, 4 * ((cells - np.linspace(0, 0.5, 20)) ** 2).sum(axis=1).max())
    np.testing.assert_allclose(found(screen), 0.0, atol=2 / 30 * np.sqrt(left))
