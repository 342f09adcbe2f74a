import numpy as np
import pandas as pd
import pytest

from state_hf.metrics.profiles import load_profile
from state_hf.metrics.summary import de_table
from tests.metrics.screens import build, random_counts

GENES = ["up", "gone", "new", "silent"]
# One target cell and two control cells, log1p of counts.
LOGS = np.log1p([[7.0, 0.0, 3.0, 0.0], [1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]])


def test_fold_changes_of_2025_by_hand():
    # Geometric means in count space: 7 against 1, 0 against 2, 3 against 0, 0 against 0.
    table = de_table(build(LOGS, ["a", "ctrl", "ctrl"], genes=GENES), load_profile("vcc2025"))
    np.testing.assert_allclose(table.target_mean, [[7, 0, 3, 0]])
    np.testing.assert_allclose(table.reference_mean, [1, 2, 0, 0])
    np.testing.assert_allclose(table.log2_fold_change, [[np.log2(7), -np.inf, np.inf, 0.0]])
    frame = table.to_frame().set_index("feature")
    assert list(frame.columns) == [
        "target",
        "target_mean",
        "ref_mean",
        "target_membership",
        "ref_membership",
        "log2_fold_change",
        "percent_change",
        "p_value",
        "statistic",
        "fdr",
    ]
    np.testing.assert_allclose(frame["percent_change"], [6.0, -1.0, np.inf, 0.0])
    np.testing.assert_array_equal(frame["statistic"], [2.0, 0.0, 2.0, 1.0])
    assert frame.loc["silent", "p_value"] == 1.0
    assert (frame["target_membership"].iloc[0], frame["ref_membership"].iloc[0]) == (1, 2)


def test_fold_changes_of_2026_by_hand():
    # Totals of 1e6 leave counts as they are. The control's means are 4 and 6 CPM: only genes above 5 are tested.
    counts = [[999_978.0, 4, 12, 6], [999_985.0, 4, 6, 5], [999_985.0, 4, 6, 5]]
    table = de_table(build(counts, ["a", "ctrl", "ctrl"]), load_profile("vcc2026"))
    assert list(table.genes) == ["g0", "g2"]
    np.testing.assert_allclose(table.log2_fold_change[0, 1], 1.0)


def test_genes_that_a_table_lacks_are_nan():
    table = de_table(build(LOGS, ["a", "ctrl", "ctrl"], genes=GENES), load_profile("vcc2025"))
    part = some_genes(table, [0, 2])
    wide = part.over(np.array([0, 1, 2]), np.array(GENES[:3]))
    np.testing.assert_array_equal(np.isnan(wide.p_value), [[False, True, False]])
    np.testing.assert_array_equal(wide.significant, [[False] * 3])
    np.testing.assert_array_equal(wide.over(np.array([0, 2]), np.array(["up", "new"])).p_value, part.p_value)


def some_genes(table, tested):
    return table.over(np.array(tested), table.genes[tested])


def test_adjusted_within_the_perturbation():
    counts = random_counts(0, 90, 40)
    labels = ["a"] * 20 + ["b"] * 30 + ["ctrl"] * 40
    both = de_table(build(counts, labels), load_profile("vcc2025"))
    alone = de_table(build(counts[20:], labels[20:]), load_profile("vcc2025"))
    np.testing.assert_allclose(both.fdr[1], alone.fdr[0], rtol=1e-6)


def test_no_control_is_an_error():
    with pytest.raises(ValueError, match="no cell is labelled 'ctrl'"):
        de_table(build(LOGS, ["a", "b", "b"], genes=GENES), load_profile("vcc2025"))


def test_frame_keeps_the_order_of_the_arrays():
    table = de_table(build(random_counts(1, 30, 5), ["b"] * 8 + ["a"] * 8 + ["ctrl"] * 14), load_profile("vcc2025"))
    frame = table.to_frame()
    pd.testing.assert_series_equal(frame["p_value"], pd.Series(table.p_value.ravel(), name="p_value"))
    assert list(frame["target"].unique()) == ["a", "b"]
