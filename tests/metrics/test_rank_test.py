import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hf.metrics.rank_test import gene_statistics, mann_whitney_p_values
from state_hf.metrics.screen import RowScaling
from tests.metrics.screens import build, random_counts


def p_values(screen, *, continuity=True, **options):
    found = gene_statistics(screen, **options)
    n_target, n_control = found.n_cells[:-1], found.n_cells[-1]
    return found, mann_whitney_p_values(found.statistic, found.ties, n_target, n_control, continuity=continuity)


def test_u_and_ties_by_hand():
    # Gene 0: target 0, 2, 3 against control 0, 1, 2. Pairs won: 0 ties 0 (1/2); 2 beats 0 and 1, ties 2 (2 1/2);
    # 3 beats all (3). U = 6. Tie blocks: two zeros, two twos, so sum of t^3 - t = 6 + 6.
    # Gene 1: all equal, U = 9 / 2, one block of six: 216 - 6.
    screen = build([[0, 1], [2, 1], [3, 1], [0, 1], [1, 1], [2, 1]], ["a", "a", "a", "ctrl", "ctrl", "ctrl"])
    found, p = p_values(screen)
    np.testing.assert_array_equal(found.statistic, [[6.0, 4.5]])
    np.testing.assert_array_equal(found.ties, [[12, 210]])
    np.testing.assert_array_equal(found.means, [[5 / 3, 1.0], [1.0, 1.0]])
    assert p[0, 1] == 1.0


@pytest.mark.parametrize("outlier", [1.0, 1e9])
def test_values_that_lie_close_together(outlier):
    """The sort's first passes do not see what differs, next to one value far away."""
    values = 1 + np.random.default_rng(0).permutation(4000)[:, None] * 2.0**-38
    values[0] *= outlier
    labels = ["a"] * 1500 + ["ctrl"] * 2500
    found, _ = p_values(build(values, labels))
    expected = scipy.stats.mannwhitneyu(values[:1500], values[1500:], method="asymptotic")
    np.testing.assert_array_equal(found.statistic[0], expected.statistic)
    assert found.ties[0, 0] == 0


@st.composite
def tied_screens(draw):
    """Sparse columns of few distinct values, negative ones among them, and groups of one cell or more."""
    cells, genes = draw(st.integers(4, 40)), draw(st.integers(1, 5))
    seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0.0, 1.0))
    values = draw(st.lists(st.integers(-8000, 8000), min_size=1, max_size=5))
    rng = np.random.default_rng(seed)
    matrix = rng.choice(np.array(values) / 1000, (cells, genes)) * (rng.random((cells, genes)) < density)
    labels = np.array(["a", "b", "ctrl"], dtype=object)[rng.integers(0, 3, cells)]
    labels[:4] = ["a", "b", "ctrl", "ctrl"]
    return matrix, labels


@settings(max_examples=150)
@given(tied_screens(), st.sampled_from(["dense", "sparse", "compact", "single"]))
def test_equal_to_scipy(case, form):
    matrix, labels = case
    given_as = {"dense": matrix, "single": matrix.astype(np.float32)}.get(form, sp.csr_matrix(matrix))
    found, p = p_values(build(given_as, labels, compact=form == "compact", split=len(labels) // 2))
    control = matrix[labels == "ctrl"]
    for row, label in enumerate(["a", "b"]):
        target = matrix[labels == label]
        for gene in range(matrix.shape[1]):
            if np.ptp(np.concatenate([target[:, gene], control[:, gene]])) == 0:
                assert p[row, gene] == 1.0  # scipy divides by zero here
                continue
            expected = scipy.stats.mannwhitneyu(target[:, gene], control[:, gene], method="asymptotic")
            assert found.statistic[row, gene] == expected.statistic
            assert p[row, gene] == pytest.approx(expected.pvalue, rel=1e-12, abs=1e-12)


def test_without_continuity_equal_to_the_rank_sum_formula():
    counts = random_counts(0, 60, 12)
    labels = np.array(["a"] * 25 + ["ctrl"] * 35)
    _, p = p_values(build(counts, labels), continuity=False)
    ranks = scipy.stats.rankdata(counts, axis=0)
    n, m = 25, 35
    for gene in np.flatnonzero(np.ptp(counts, axis=0)):
        _, ties = np.unique(counts[:, gene], return_counts=True)
        correction = 1 - (ties**3 - ties).sum() / ((n + m) ** 3 - (n + m))
        z = (ranks[:25, gene].sum() - n * (n + m + 1) / 2) / np.sqrt(correction * n * m * (n + m + 1) / 12)
        assert p[0, gene] == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), rel=1e-12)


def test_swapping_signs_mirrors_u():
    counts, labels = random_counts(1, 50, 8), ["a"] * 20 + ["ctrl"] * 30
    up, p_up = p_values(build(counts, labels))
    down, p_down = p_values(build(-counts, labels))
    np.testing.assert_array_equal(up.statistic + down.statistic, 20 * 30)
    np.testing.assert_array_equal(p_up, p_down)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torch_counts_the_same(dtype):
    counts = random_counts(2, 90, 15)
    counts[:, 3] -= 1  # some negative
    screen = build(sp.csr_matrix(counts.astype(dtype)), ["a"] * 20 + ["b"] * 30 + ["ctrl"] * 40)
    numba, torch = gene_statistics(screen), gene_statistics(screen, device="cpu")
    np.testing.assert_array_equal(numba.statistic, torch.statistic)
    np.testing.assert_array_equal(numba.ties, torch.ties)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_stored_row_may_stand_for_several_cells(device):
    from dataclasses import replace

    control = random_counts(3, 30, 6)
    row = np.array([[0.0, 1.0, 2.0, 0.5, 7.0, 0.0]])
    once = build(np.vstack([row, control]), ["a"] + ["ctrl"] * 30)
    found = gene_statistics(replace(once, copies=np.array([12])), device=device)
    written_out = gene_statistics(build(np.vstack([*[row] * 12, control]), ["a"] * 12 + ["ctrl"] * 30), device=device)
    for name in ("statistic", "ties", "sums", "squares", "n_cells"):
        np.testing.assert_allclose(getattr(found, name), getattr(written_out, name), err_msg=name)


def test_ranges_of_genes_do_not_change_the_result(monkeypatch):
    screen = build(random_counts(4, 60, 30), ["a"] * 30 + ["ctrl"] * 30)
    whole = gene_statistics(screen)
    monkeypatch.setattr("state_hf.metrics.screen._CHUNK_VALUES", 50)
    parts = gene_statistics(screen)
    np.testing.assert_array_equal(whole.statistic, parts.statistic)
    np.testing.assert_array_equal(whole.sums, parts.sums)


def test_scales_and_logs():
    counts = random_counts(5, 40, 6) + 1
    screen = build(sp.csr_matrix(counts), ["a"] * 20 + ["ctrl"] * 20)
    totals = counts.sum(axis=1)
    normalised = counts / (totals / 100)[:, None]
    found = gene_statistics(screen, normalisations=[RowScaling(totals, 100.0)], logs=True)
    np.testing.assert_allclose(found.means[0], np.log1p(normalised)[:20].mean(axis=0))
    found = gene_statistics(screen, normalisations=[RowScaling(totals, 100.0)])
    np.testing.assert_allclose(found.means[0], normalised[:20].mean(axis=0))
    shares = counts / totals[:, None]  # rounded once, so that equal shares are ties
    expected = scipy.stats.mannwhitneyu(shares[:20], shares[20:], method="asymptotic")
    np.testing.assert_array_equal(found.statistic[0], expected.statistic)
