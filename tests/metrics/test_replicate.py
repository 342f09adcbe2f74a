import numpy as np
import pytest

from state_hf.metrics.profiles import load_profile
from state_hf.metrics.replicate import ceiling, disjoint_halves, replicate_values
from state_hf.metrics.summary import summarise
from tests.metrics.screens import build, random_counts


def codes(screen):
    return np.concatenate([block.codes for block in screen.blocks])


def test_halves_are_disjoint_and_equal():
    screen = build(random_counts(0, 40, 5), ["b"] * 11 + ["a"] * 8 + ["one"] + ["ctrl"] * 20, split=15)
    first, second = disjoint_halves(screen, seed=0)
    assert list(first.perturbations) == ["a", "b"]  # a single cell has no halves
    np.testing.assert_array_equal(first.n_cells, [4, 5, 10])
    np.testing.assert_array_equal(second.n_cells, [4, 5, 10])
    assert not ((codes(first) >= 0) & (codes(second) >= 0)).any()
    assert first.blocks[0].matrix is screen.blocks[0].matrix  # no copy of the cells


def test_halves_depend_on_the_seed():
    screen = build(random_counts(0, 40, 5), ["a"] * 20 + ["ctrl"] * 20)
    splits = [codes(disjoint_halves(screen, seed=seed)[0]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert (splits[0] != splits[2]).any()


def test_no_halves_without_two_controls():
    with pytest.raises(ValueError, match="two control cells"):
        disjoint_halves(build(random_counts(0, 5, 3), ["a"] * 4 + ["ctrl"]), seed=0)


def test_ceiling_covers_reliability_metrics_alone():
    screen = build(random_counts(1, 120, 20), ["g0"] * 30 + ["b"] * 30 + ["c"] * 20 + ["ctrl"] * 40)
    found = ceiling(screen, load_profile("vcc2025"), seed=0, target_genes=None, device=None)
    assert np.isnan(found["mae"])
    full = ceiling(screen, load_profile("full"), seed=0, target_genes=None, device=None)
    assert 0.0 < full["discrimination_score_l1"] <= 1.0
    assert np.isnan(full["clustering_agreement"])


def test_replicates_need_two_cells_everywhere():
    screen = build(random_counts(1, 40, 20), ["g0"] * 19 + ["b"] + ["ctrl"] * 20)
    profile = load_profile("vcc2026")
    with pytest.raises(ValueError, match="two cells of every perturbation; 1 have one, such as 'b'"):
        replicate_values(screen, summarise(screen, profile), profile, target_genes=None, device=None)
