import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.metrics.cell_depths import genes_detected
from tests.metrics.screens import build

#  genes detected:  1          3          2          0          3                 2
VALUES = [[0, 0, 5], [1, 2, 3], [1, 0, 1], [0, 0, 0], [2, 2, 2], [1, 1, 0]]
LABELS = ["b", "a", "a", "b", "a", "ctrl"]


@pytest.mark.parametrize("form", [np.array, sp.csr_matrix])
@pytest.mark.parametrize("split", [None, 2])
def test_medians_by_perturbation(form, split):
    screen = build(form(np.array(VALUES, dtype=np.float32)), LABELS, split=split)
    np.testing.assert_array_equal(genes_detected(screen), [3.0, 0.5, 2.0])


def test_stored_zeros_are_no_genes_and_no_control_is_no_number():
    stored = sp.csr_matrix(np.array([[1.0, 2.0], [3.0, 4.0]]))
    stored.data[0] = 0
    screen = build(stored, ["a", "a"])
    np.testing.assert_array_equal(genes_detected(screen), [1.5, np.nan])
