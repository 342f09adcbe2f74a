import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.metrics.expression_rows import stack
from state_hf.metrics.screen import RowScaling, ScreenBuilder
from tests.metrics.screens import build, random_counts


def dense(rows):
    return sp.csr_matrix((rows.data, rows.indices.astype(np.int32), rows.indptr), shape=rows.shape).toarray()


def test_codes_follow_sorted_labels():
    screen = build(np.ones((4, 2)), ["b", "ctrl", "a", "b"])
    assert list(screen.perturbations) == ["a", "b"]
    np.testing.assert_array_equal(screen.blocks[0].codes, [1, 2, 0, 1])
    np.testing.assert_array_equal(screen.n_cells, [1, 2, 1])


def test_sparse_matrices_in_memory_are_not_copied():
    matrix = sp.csr_matrix(random_counts(0, 10, 5))
    builder = ScreenBuilder([f"g{gene}" for gene in range(5)], "ctrl", compact=False)
    builder.add(matrix, ["a"] * 5 + ["ctrl"] * 5)
    assert np.shares_memory(builder.build().blocks[0].matrix.data, matrix.data)


def test_compact_blocks_take_the_smallest_types():
    counts = build(sp.csr_matrix(random_counts(0, 10, 5)), ["a"] * 5 + ["ctrl"] * 5, compact=True).blocks[0].matrix
    assert (counts.data.dtype, counts.indices.dtype) == (np.uint16, np.uint16)
    values = random_counts(0, 10, 5).astype(np.float32) * 0.5
    halves = build(sp.csr_matrix(values), ["a"] * 5 + ["ctrl"] * 5, compact=True).blocks[0].matrix
    assert halves.data.dtype == np.float32
    np.testing.assert_array_equal(dense(halves), values)


def test_rows_can_be_taken_in_any_order():
    matrix = random_counts(0, 8, 5)
    rows = build(sp.csr_matrix(matrix), ["a"] * 4 + ["ctrl"] * 4, compact=True).blocks[0].matrix
    np.testing.assert_array_equal(dense(rows[np.array([5, 1, 1])]), matrix[[5, 1, 1]])
    np.testing.assert_array_equal(dense(rows[np.array([], dtype=int)]), matrix[:0])
    np.testing.assert_array_equal(dense(stack([rows, matrix[:2]])), np.vstack([matrix, matrix[:2]]))


def test_unsorted_and_doubled_indices_are_put_in_order():
    matrix = sp.csr_matrix((np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 0, 0]), np.array([0, 2, 4])), shape=(2, 2))
    screen = build(matrix, ["a", "ctrl"])
    np.testing.assert_array_equal(dense(screen.blocks[0].matrix), [[2, 1], [7, 0]])
    assert matrix.indices[0] == 1  # the caller's matrix is untouched


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.uint8])
def test_other_number_types(dtype):
    counts = random_counts(0, 10, 5).astype(dtype)
    for matrix in (counts, sp.csc_matrix(counts.astype(np.float32))):
        np.testing.assert_allclose(build(matrix, ["a"] * 5 + ["ctrl"] * 5).library, counts.sum(axis=1))


def test_range_of_values():
    screen = build([[0.0, -1.0], [2.25, 7.0]], ["a", "ctrl"])
    assert (screen.smallest, screen.largest, screen.largest_fraction) == (-1.0, 7.0, 0.25)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", [np.array, sp.csr_matrix])
def test_values_must_be_finite(value, form):
    with pytest.raises(ValueError, match="1 values are NaN or infinite"):
        build(form([[1.0, value], [0.0, 1.0]]), ["a", "ctrl"])


def test_blocks_must_fit():
    builder = ScreenBuilder(["g0", "g1"], "ctrl", compact=False)
    with pytest.raises(ValueError, match=r"shape \(2, 3\); with 2 labels and 2 genes it must be \(2, 2\)"):
        builder.add(np.ones((2, 3)), ["a", "ctrl"])
    with pytest.raises(ValueError, match="no cells were given"):
        builder.build()


def test_control_of_another_screen():
    mine = build([[1.0], [2.0], [3.0]], ["a", "a", "ctrl"])
    other = build([[5.0], [7.0], [9.0]], ["a", "ctrl", "ctrl"])
    joined = mine.with_control(other.control_blocks())
    np.testing.assert_array_equal(joined.n_cells, [2, 2])
    found = next(joined.columns())
    np.testing.assert_array_equal(found.starts, [[0, 2, 4]])
    np.testing.assert_array_equal(sorted(found.values[2:]), [7.0, 9.0])
    np.testing.assert_array_equal(found.sums, [[3.0], [16.0]])
    np.testing.assert_array_equal(found.squares, [5.0, 130.0])


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("logs", [False, True])
def test_sums_are_those_of_every_value(form, logs):
    """Cells with more different counts than are remembered at a time, and values that are no whole numbers."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5000, (9, 700)) * rng.integers(0, 2, (9, 700)) + rng.choice([0, 0.0005], (9, 700))
    labels, totals = ["a", "b", "ctrl"] * 3, counts.sum(axis=1)
    how = [RowScaling(totals[:4], 1e4), RowScaling(totals[4:], 1e4)]
    found = next(build(form(counts), labels, split=4).columns(how, logs=logs))
    expected = counts / totals[:, None] * 1e4
    expected = np.log1p(expected) if logs else expected
    for group in range(3):
        np.testing.assert_allclose(found.sums[group], expected[group::3].sum(axis=0), rtol=1e-13)
        np.testing.assert_allclose(found.squares[group], (expected[group::3] ** 2).sum(), rtol=1e-12)
