import numpy as np
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from state_hf.metrics.multiple_testing import benjamini_hochberg


def test_by_hand():
    # Sorted: .01 * 4/1 = .04, .02 * 4/2 = .04, .03 * 4/3 = .04, .5 * 4/4 = .5; the second family is capped by its
    # later members: .04 * 2/1 = .08 falls to .05.
    found = benjamini_hochberg(np.array([[0.03, 0.01, 0.5, 0.02]]))
    np.testing.assert_allclose(found, [[0.04, 0.04, 0.5, 0.04]])
    np.testing.assert_allclose(benjamini_hochberg(np.array([[0.05, 0.04]])), [[0.05, 0.05]])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_equal_to_scipy(p_values):
    np.testing.assert_allclose(
        benjamini_hochberg(np.array([p_values]))[0], scipy.stats.false_discovery_control(p_values), rtol=1e-13
    )
