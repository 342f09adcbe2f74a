"""Splits of labelled cells: shares, groups on one side, the same seed the same split, and what the audit says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_hf.data.cells.group_split import PARTS, shared_profiles, split_labelled_cells


@given(
    number=st.integers(20, 200),
    groups=st.integers(3, 12),
    val=st.floats(0.05, 0.3),
    test=st.floats(0.05, 0.4),
    seed=st.integers(0, 10),
)
def test_groups_stay_on_one_side_and_every_cell_has_a_part(number, groups, val, test, seed):
    rng = np.random.default_rng(seed)
    labels = np.array(["a", "b"], dtype=object)[rng.integers(2, size=number)]
    donors = np.array([f"d{one}" for one in [*range(groups), *rng.integers(groups, size=number - groups)]])
    split = split_labelled_cells(labels, groups=donors, val_share=val, test_share=test, seed=seed)
    rows = [split.rows[part] for part in PARTS]
    assert sorted(np.concatenate(rows).tolist()) == list(range(number))
    sides = [set(donors[part]) for part in rows]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert all(len(part) for part in rows)
    again = split_labelled_cells(labels, groups=donors, val_share=val, test_share=test, seed=seed)
    assert all(np.array_equal(split.rows[part], again.rows[part]) for part in PARTS)


def test_without_groups_every_class_has_its_share():
    labels = np.array(["a"] * 80 + ["b"] * 20 + [""] * 5, dtype=object)
    split = split_labelled_cells(labels, val_share=0.1, test_share=0.2)
    counts = {part: [int((labels[rows] == name).sum()) for name in "ab"] for part, rows in split.rows.items()}
    assert counts == {"train": [56, 14], "val": [8, 2], "test": [16, 4]}
    assert "cells were divided at random" in split.audit[0]


def test_labels_of_one_side_are_said():
    labels = np.array(["a", "a", "b", "b", "c", "c"], dtype=object)
    donors = np.array(["1", "1", "2", "2", "3", "3"])
    split = split_labelled_cells(labels, groups=donors, val_share=0.3, test_share=0.3)
    held = labels[split.rows["test"]][0]
    assert f"no cell of the training part has the labels {held} of the part 'test'" in split.audit


def test_numbers_are_split_too():
    ages = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    split = split_labelled_cells(ages, val_share=0.0, test_share=0.4, by_class=False)
    assert sorted(np.concatenate([split.rows[part] for part in PARTS]).tolist()) == [0, 1, 3, 4, 5]
    assert len(split.rows["val"]) == 0


def test_shared_profiles_by_hand():
    rows = {"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3, 4])}
    assert shared_profiles(np.array(["x", "y", "x", "z", "y"]), rows) == 2


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.1, 0.0), (0.0, 1.0)])
def test_shares_that_leave_nothing_are_refused(val, test):
    with pytest.raises(ValueError, match="must leave cells to train on"):
        split_labelled_cells(np.array(["a", "b"], dtype=object), val_share=val, test_share=test)
