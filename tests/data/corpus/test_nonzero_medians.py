"""Medians of a stream are those of all values at once, to the error that each pass is said to leave."""

import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.data.corpus.nonzero_medians import MAX_PASSES, NonzeroMedians

COLUMNS = np.array([3, -1, 0, 2, 1, 4])


def cells_of(seed: int, number: int = 301) -> sp.csr_array:
    """Counts from 1 to thousands; the last column has none at all, the second is of no gene."""
    rng = np.random.default_rng(seed)
    rates = np.array([0.2, 3.0, 1.0, 400.0, 30.0, 0.0])
    counts = rng.poisson(rates * rng.lognormal(0, 1, (number, 1)))
    counts[:, 1] += 1  # no cell is empty
    return sp.csr_array(counts.astype(np.float32))


def searched(blocks, passes: int, **options) -> NonzeroMedians:
    search = NonzeroMedians(5)
    for _ in range(passes):
        for block in blocks:
            search.add(block, COLUMNS, **{"is_counts": True, **options})
        search.finish_pass()
    return search


def at_once(cells: sp.csr_array) -> np.ndarray:
    values = cells.toarray().astype(np.float64)
    shares = (values / values.sum(axis=1, keepdims=True) * 10_000).astype(np.float32)
    medians = np.full(5, np.nan)
    for column, gene in enumerate(COLUMNS):
        own = shares[:, column][shares[:, column] > 0]
        if gene >= 0 and len(own):
            medians[gene] = np.median(own.astype(np.float64))
    return medians


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_medians_are_as_near_as_is_said(passes, seed):
    cells = cells_of(seed, 300 + seed)
    search = searched([cells[:100], cells[100:107], cells[107:]], passes)
    found, true = search.medians(), at_once(cells)
    assert np.isnan(found[4])
    assert np.abs(found[:4] / true[:4] - 1).max() <= search.relative_error
    assert search.relative_error == {1: 1 / 128, 2: 2.0**-16, 3: 0.0}[passes]
    assert search.number.tolist() == [int((cells[:, [column]] > 0).sum()) for column in (2, 4, 3, 0, 5)]


def test_how_the_cells_are_cut_does_not_matter():
    cells = cells_of(7)
    whole, cut = searched([cells], 2), searched([cells[at : at + 13] for at in range(0, 301, 13)], 2)
    np.testing.assert_array_equal(whole.medians(), cut.medians())


def test_logs_of_any_scale_are_undone():
    cells = cells_of(3)
    totals = np.asarray(cells.sum(axis=1)).ravel()
    logs = sp.csr_array(sp.diags_array(3000 / totals) @ cells).astype(np.float32)
    logs.data = np.log1p(logs.data)
    # A float32 of a log1p value is known to 2^-24, which undoing it makes 20 times worse at the largest of e^3 here.
    np.testing.assert_allclose(searched([logs], 3, is_counts=False).medians()[:4], at_once(cells)[:4], rtol=3e-5)


def test_two_values_far_apart_have_the_mean_between_them():
    cells = sp.csr_array(np.array([[0, 9999, 1, 0, 0, 0], [0, 1, 9999, 0, 0, 0]], np.float32))
    assert searched([cells], MAX_PASSES).medians()[0] == pytest.approx(5000, abs=0)


def test_a_search_that_was_kept_goes_on(tmp_path):
    cells = cells_of(1)
    whole = searched([cells], 3)
    search = NonzeroMedians(5)
    search.add(cells, COLUMNS, is_counts=True)
    search.finish_pass()
    search.add(cells[:50], COLUMNS, is_counts=True)
    search.save(tmp_path / "search.npz", {"cell": 50})
    again = NonzeroMedians(5)
    assert again.load(tmp_path / "search.npz") == {"cell": 50}
    again.add(cells[50:], COLUMNS, is_counts=True)
    again.finish_pass()
    again.add(cells, COLUMNS, is_counts=True)
    again.finish_pass()
    np.testing.assert_array_equal(again.medians(), whole.medians())
    np.testing.assert_array_equal(again.number, whole.number)


def test_what_lies_outside_of_all_intervals_is_said():
    cells = sp.csr_array(np.array([[0, 2**33, 1, 0, 0, 0]], np.float32))
    with pytest.raises(ValueError, match=r"1 values are below 1\.5e-05 of 10,000 counts"):
        searched([cells], 1)
