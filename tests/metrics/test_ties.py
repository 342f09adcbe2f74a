"""What equal counts are to the rank test: ties, whatever the last bits of their logarithms say."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats

from state_hf.metrics.normalised_counts import counts_behind
from state_hf.metrics.rank_test import TIE_ULPS, gene_statistics, mann_whitney_p_values
from state_hf.metrics.screen import RowScaling
from state_hf.metrics.summary import lognorm_normalisations
from tests.metrics.screens import build

EXPRESSION = {"integer_tolerance": 1e-3, "max_value": 15.0}
LABELS = np.array(["a"] * 60 + ["b"] * 70 + ["ctrl"] * 90)
DTYPES = [np.float32, np.float64]


def counts(seed: int, *, genes: int = 40, depth: float = 3000.0) -> np.ndarray:
    """Cells of many totals, with genes of one count a cell and of hundreds."""
    rng = np.random.default_rng(seed)
    weights = rng.lognormal(0, 2, genes)
    totals = rng.lognormal(np.log(depth), 0.5, len(LABELS))
    found = rng.poisson(totals[:, None] * weights / weights.sum())
    found[5:8] = 2 * found[8:11]  # equal shares of other totals, the case that rounding decides
    found[100], found[101:103] = 0, found[200]
    return found


def lognorm(matrix: np.ndarray, dtype: type, target: float | None = None) -> np.ndarray:
    totals = matrix.sum(axis=1)
    target = np.median(totals[totals > 0]) if target is None else target
    scales = (np.where(totals > 0, totals, 1) / target).astype(dtype)
    return np.log1p(matrix.astype(dtype) / scales[:, None])


def perturbed(values: np.ndarray, ulps: int, seed: int) -> np.ndarray:
    """Every value but zeros, up to some units in the last place away."""
    bits = values.view(np.int64 if values.dtype == np.float64 else np.int32)
    moved = bits + np.random.default_rng(seed).integers(-ulps, ulps + 1, values.shape).astype(bits.dtype)
    return np.where(values == 0, values, moved.view(values.dtype))


def p_values(screen, device=None, **options):
    found = gene_statistics(screen, device=device, **options)
    return mann_whitney_p_values(found.statistic, found.ties, found.n_cells[:-1], found.n_cells[-1], continuity=True)


def p_values_of(matrix, *, device=None, labels=LABELS, split=100):
    """As the evaluation ranks a matrix, counts or log-normalised values."""
    screen = build(matrix, labels, split=split)
    normalisations = lognorm_normalisations(screen, EXPRESSION)
    return p_values(screen, device, normalisations=normalisations, logs=normalisations is not None)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_and_their_logarithms_on_any_machine_give_the_same_p_values(dtype, form, device):
    raw = counts(0)
    expected = p_values_of(form(raw.astype(dtype)), device=device)
    normalised = lognorm(raw, dtype)
    for seed, target in enumerate([None, 1e4, 1e6]):
        values = perturbed(normalised if target is None else lognorm(raw, dtype, target), 4, seed)
        np.testing.assert_array_equal(p_values_of(form(values), device=device), expected)
    # Ranked as they are, the numbers of one machine give p-values of their own.
    assert (p_values(build(perturbed(normalised, 4, 0), LABELS), device) != expected).any() or dtype == np.float64


@pytest.mark.parametrize("dtype", DTYPES)
def test_p_values_are_those_of_exact_ratios(dtype):
    raw = counts(1)
    ratios = raw / np.maximum(raw.sum(axis=1, keepdims=True), 1)
    found = p_values_of(perturbed(lognorm(raw, dtype), 3, 0))
    for row, label in enumerate(["a", "b"]):
        pair = ratios[label == LABELS], ratios[LABELS == "ctrl"]
        expected = scipy.stats.mannwhitneyu(*pair, method="asymptotic").pvalue
        np.testing.assert_allclose(found[row], expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [None, 1e4])
def test_genes_left_out_after_normalising(dtype, target):
    raw, kept = counts(2, genes=120), np.arange(0, 120, 3)
    whole = lognorm(raw, dtype, target)
    normalisations = [RowScaling(np.maximum(raw.sum(axis=1), 1.0), 1.0)]
    expected = p_values(build(raw[:, kept].astype(float), LABELS), normalisations=normalisations)
    for seed in range(3):
        found = p_values_of(perturbed(np.ascontiguousarray(whole[:, kept]), 4, seed))
        np.testing.assert_array_equal(found, expected)


def test_controls_normalised_to_another_total():
    raw = counts(3)
    totals = raw.sum(axis=1)
    own, other = build(lognorm(raw, np.float32), LABELS), build(lognorm(raw, np.float64, 1e4), LABELS)
    found = counts_behind(own.with_control(other.control_blocks()))
    assert {round(normalisation.target, 3) for normalisation in found} == {np.median(totals[totals > 0]), 1e4}


def test_double_precision_whose_scales_were_single():
    raw = counts(4)
    scales = (np.maximum(raw.sum(axis=1), 1) / np.float32(2500)).astype(np.float32)
    found = p_values_of(np.log1p(raw / scales[:, None].astype(np.float64)))
    np.testing.assert_array_equal(found, p_values_of(raw.astype(np.float64)))


def not_counts(name: str) -> np.ndarray:
    values, rng = lognorm(counts(5), np.float64), np.random.default_rng(0)
    if name == "noise":
        return rng.gamma(1.0, 1.0, values.shape)
    if name == "smooth in one cell":
        values[-1] = rng.gamma(1.0, 1.0, values.shape[1])
    if name == "size factors":  # multiples of a step in every cell, but of no common total
        values = np.log1p(np.expm1(values) * rng.lognormal(0, 0.3, (len(values), 1)))
    if name == "means":
        values[:60] = values[60:120].mean(axis=0)
    return values


@pytest.mark.parametrize("name", ["noise", "smooth in one cell", "size factors", "means"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_counts_are_found_where_there_are_none(name, dtype):
    assert counts_behind(build(not_counts(name).astype(dtype), LABELS, split=100)) is None


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("kind", ["float32", "float64", "widened"])
def test_emitted_values_next_to_each_other_are_ties(kind, device):
    """A model's cells, some of them copies of controls: no counts are behind them."""
    rng = np.random.default_rng(6)
    levels = np.sort(rng.gamma(2.0, 1.0, (7, 40)), axis=0)
    values = np.take_along_axis(levels, rng.integers(0, 7, (len(LABELS), 40)), axis=0)
    values[rng.random(values.shape) < 0.4] = 0
    values = values.astype(np.float64 if kind == "float64" else np.float32)
    assert counts_behind(build(values, LABELS)) is None
    expected = p_values(build(values, LABELS), device)
    for seed in range(3):
        moved = perturbed(values, 8, seed)
        moved = moved.astype(np.float64) if kind == "widened" else moved
        np.testing.assert_array_equal(p_values(build(moved, LABELS), device), expected)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_where_ties_end(dtype, device):
    """A block begins with its smallest value: chains of near values do not run on, and the order of cells is free."""
    chain = np.ones(5, dtype=dtype)
    chain[1] += TIE_ULPS * np.finfo(dtype).eps
    chain[2:] = chain[1] * (1 + np.array([1, TIE_ULPS, 40 * TIE_ULPS]) * np.finfo(dtype).eps)
    if dtype == np.float64:
        assert (chain != chain.astype(np.float32)).any()
    order = np.array([3, 0, 4, 2, 1])
    for cells in (chain, chain[order]):
        screen = build(np.append(cells, cells)[:, None], ["a"] * 5 + ["ctrl"] * 5)
        found = gene_statistics(screen, device=device)
        # {1, 1 + 32 ulps}, {the next two}, {the last}: blocks of 4, 4 and 2 values of both groups.
        assert found.ties[0, 0] == 60 + 60 + 6
        assert found.statistic[0, 0] == 12.5


@pytest.mark.parametrize("device", [None, "cpu"])
def test_different_counts_stay_different_up_to_the_limit(device):
    """One count of a large one, in cells of nearly equal, large totals."""
    raw = np.array([[20_000.0, 80_000.0], [19_999.0, 80_000.0], [20_000.0, 80_001.0], [20_000.0, 80_000.0]])
    screen = build(raw, ["a", "a", "ctrl", "ctrl"])
    how = [RowScaling(raw.sum(axis=1), 1e4)]
    found = gene_statistics(screen, normalisations=how, device=device)
    # Of 0.2, 0.199992, 0.199998 and 0.2 the first is tied with the last.
    assert found.statistic[0, 0] == 1.5
    assert found.ties[0, 0] == 6


def test_the_torch_ranks_are_those_of_the_cpu_among_near_values():
    rng = np.random.default_rng(7)
    for dtype in DTYPES:
        base = rng.choice(rng.gamma(2.0, 1.0, 30), (90, 12)).astype(dtype) * rng.choice([-1, 0, 1, 1], (90, 12))
        screen = build(perturbed(base.astype(dtype), 3 * TIE_ULPS, 1), ["a"] * 20 + ["b"] * 30 + ["ctrl"] * 40)
        screen = replace(screen, copies=np.array([1, 3]))
        numba, torch = gene_statistics(screen), gene_statistics(screen, device="cpu")
        np.testing.assert_array_equal(numba.statistic, torch.statistic)
        np.testing.assert_array_equal(numba.ties, torch.ties)
