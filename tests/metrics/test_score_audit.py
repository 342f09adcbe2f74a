import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_hf.metrics.profiles import load_profile
from state_hf.metrics.score_audit import (
    AUDIT_COLUMNS,
    audit_table,
    deeper_screen,
    inflated_screen,
    is_better,
    merged_audit,
)
from tests.metrics.screens import build

PROFILE = load_profile("vcc2025")
# One gene that all cells express, one that few do; another perturbation; the control.
VALUES = np.array([[1.5, 0.0], [2.5, 0.0], [3.5, 1.2], [0.5, 0.5], [0.5, 0.5], [4.5, 2.5]])
LABELS = ["a", "a", "a", "b", "b", "ctrl"]


def dense(screen):
    """All cells of a screen."""
    blocks = []
    for block in screen.blocks:
        rows = block.matrix
        blocks.append(
            rows
            if isinstance(rows, np.ndarray)
            else sp.csr_matrix((rows.data, rows.indices, rows.indptr), rows.shape).toarray()
        )
        np.testing.assert_allclose(block.library, blocks[-1].sum(axis=1))
    return np.concatenate(blocks)


@pytest.fixture(params=["dense", "sparse", "compact", "two blocks"])
def screen(request):
    matrix = VALUES if request.param == "dense" else sp.csr_matrix(VALUES)
    return build(matrix, LABELS, compact=request.param == "compact", split=2 if request.param == "two blocks" else None)


def test_deviations_are_inflated_and_means_stay(screen):
    expected = VALUES.copy()
    # 2.5 + 1.5 * (-1, 0, 1), with the mean 2.5 again.
    expected[:3, 0] = [1.0, 2.5, 4.0]
    # 0.4 + 1.5 * (1.2 - 0.4) = 1.6, scaled to the mean 0.4: what one cell expresses stays.
    np.testing.assert_allclose(dense(inflated_screen(screen, PROFILE, seed=0)), expected)
    np.testing.assert_array_equal(dense(screen), VALUES)


def test_a_value_far_below_the_mean_is_clipped_at_0():
    screen = build([[0.1], [3.1], [1.5]], ["a", "a", "ctrl"])
    # 1.6 + 1.5 * (-1.5, 1.5) = (-0.65, 3.85): clipped to (0, 3.85), scaled to the mean 1.6.
    np.testing.assert_allclose(dense(inflated_screen(screen, PROFILE, seed=0)), [[0.0], [3.2], [1.5]])


def test_depth_is_scaled_before_the_logarithm(screen):
    found = dense(deeper_screen(screen, PROFILE, seed=0))
    np.testing.assert_allclose(found[0], [np.log1p(1.5 * np.expm1(1.5)), 0.0])
    np.testing.assert_allclose(np.expm1(found[:5]), 1.5 * np.expm1(VALUES[:5]))
    np.testing.assert_array_equal(found[5], VALUES[5])
    np.testing.assert_array_equal(dense(screen), VALUES)


@pytest.mark.parametrize("make", [inflated_screen, deeper_screen])
def test_counts_stay_whole(make):
    counts = np.random.default_rng(0).poisson(5.0, size=(400, 3)).astype(np.float32)
    labels = ["a"] * 399 + ["ctrl"]
    screen = build(counts, labels, compact=True)
    made = dense(make(screen, PROFILE, seed=1))
    np.testing.assert_array_equal(made, np.rint(made))
    np.testing.assert_array_equal(made[399], counts[399])
    # Standard errors of these means are about 0.17 and 0.02.
    factor = 1.5 if make is deeper_screen else 1.0
    np.testing.assert_allclose(made[:399].mean(axis=0), factor * counts[:399].mean(axis=0), rtol=0.01)
    assert made[:399].std() > 1.3 * counts[:399].std()
    np.testing.assert_array_equal(dense(make(screen, PROFILE, seed=1)), made)


def audit(**columns):
    names = ["mae", "pds", "des"]
    return audit_table({name: dict(zip(names, columns[name], strict=True)) for name in AUDIT_COLUMNS}, PROFILE)


def test_what_moves_more_than_the_prediction():
    table = audit(
        control_copy=[0.10, 0.50, 0.10],
        prediction=[0.08, 0.70, 0.10],
        # Less than 0.02; more than 0.2 and worse; more than 0 and better.
        inflated_variance=[0.09, 0.40, 0.15],
        # More than 0.02 and worse; as it was; more than 0, but less than a hundredth of the way from 0.1 to 1.
        depth_shifted=[0.12, 0.70, 0.108],
    )
    assert table["inflated_variance_moves_more"].to_dict() == {"mae": False, "pds": True, "des": True}
    assert table["depth_shifted_moves_more"].to_dict() == {"mae": True, "pds": False, "des": False}
    assert is_better(table, PROFILE, "des", "inflated_variance")
    assert not is_better(table, PROFILE, "pds", "inflated_variance")
    assert not is_better(table, PROFILE, "mae", "depth_shifted")
    pd.testing.assert_frame_equal(merged_audit([table, table], PROFILE), table)


def test_a_value_that_is_missing_moves_nothing():
    table = audit(
        control_copy=[0.1, np.nan, 0.1],
        prediction=[0.1, 0.7, 0.1],
        inflated_variance=[np.nan, 0.9, 0.1],
        depth_shifted=[0.1, 0.7, 0.1],
    )
    assert not table.filter(like="moves_more").to_numpy().any()
