import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.metrics.group_sums import bulk_lognorm, group_sums
from tests.metrics.screens import random_counts


@pytest.mark.parametrize("form", [np.array, sp.csr_matrix])
def test_sums_by_hand(form):
    matrix = form([[1.0, 0.0], [2.0, 5.0], [4.0, 0.0]])
    np.testing.assert_array_equal(group_sums(matrix, [1, 0, 1], 2), [[2, 5], [5, 0]])
    np.testing.assert_array_equal(group_sums(matrix, [1, -1, 1], 2), [[0, 0], [5, 0]])


def test_sums_of_random_blocks():
    counts, codes = random_counts(0, 200, 40), np.arange(200) % 7 - 1
    expected = [counts[codes == group].sum(axis=0) for group in range(6)]
    np.testing.assert_allclose(group_sums(sp.csr_matrix(counts), codes, 6), expected)
    np.testing.assert_allclose(group_sums(counts.astype(np.float32), codes, 6), expected)


def test_log_profile_by_hand():
    # 3 of 4 counts and 1 of 4, scaled to 8: 6 and 2. An empty group stays empty.
    np.testing.assert_allclose(bulk_lognorm(np.array([[3.0, 1.0], [0.0, 0.0]]), 8.0), [np.log([7.0, 3.0]), [0.0, 0.0]])
