import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hf.metrics.group_sums import block_sums
from state_hf.metrics.jackknife import jackknife_noise
from tests.metrics.screens import build, random_counts


def leave_one_out(counts, target_sum):
    """The definition: profiles without each cell in turn."""
    n = len(counts)
    if n < 2 or not counts.sum():
        return 0.0
    profiles = []
    for cell in range(n):
        rest = np.delete(counts, cell, axis=0)
        profiles.append(np.log1p(target_sum * rest.sum(axis=0) / max(rest.sum(), 1)))
    return (n - 1) / n * ((profiles - np.mean(profiles, axis=0)) ** 2).sum()


def noise(screen, target_sum):
    return jackknife_noise(screen.blocks, block_sums(screen.blocks, len(screen.n_cells), len(screen.genes)), target_sum)


def test_by_hand():
    # Cells (1, 0) and (0, 1), target sum 1: without the first cell the profile is (0, log 2), without the second
    # (log 2, 0). Each gene: deviations of log(2) / 2, their squares summed over two cells are log(2)^2 / 2. Two genes,
    # and (n - 1) / n = 1/2.
    screen = build([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], ["a", "a", "ctrl"])
    np.testing.assert_allclose(noise(screen, 1.0), [np.log(2) ** 2 / 2, 0.0])


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([10.0, 5e4, 1e6]), st.booleans())
def test_equal_to_the_definition(seed, cells, target_sum, one_dominates):
    counts = random_counts(seed, cells + 3, 12)
    if one_dominates:
        counts[0] *= 1000
    labels = ["a"] * cells + ["ctrl"] * 3
    expected = [leave_one_out(counts[:cells], target_sum), leave_one_out(counts[cells:], target_sum)]
    for matrix in (counts, sp.csr_matrix(counts)):
        np.testing.assert_allclose(noise(build(matrix, labels, split=2), target_sum), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("counts", [[[0, 0], [0, 0]], [[5, 1], [0, 0]], [[3, 2]]])
def test_groups_that_say_little(counts):
    counts = np.array(counts, dtype=float)
    screen = build(np.vstack([counts, [[1, 1], [2, 1]]]), ["a"] * len(counts) + ["ctrl"] * 2)
    np.testing.assert_allclose(noise(screen, 100.0)[0], leave_one_out(counts, 100.0), rtol=1e-12)
