from collections import Counter

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.data.screens.perturbation_sets import PerturbationSets


def screens_of(labels):
    """Screens of cells given as (perturbation, cell type, batch)."""
    obs = pd.DataFrame(labels, columns=["perturbation", "cell_type", "batch"], dtype=str)
    obs.index = [f"cell_{number}" for number in range(len(obs))]
    adata = anndata.AnnData(np.zeros((len(obs), 1), np.float32), obs=obs)
    return open_screens(adata, control="ctrl", batch_key="batch")


def sets_of(screens, **options):
    masks = [np.ones(screen.num_cells, dtype=bool) for screen in screens.screens]
    return PerturbationSets(screens, **{"targets": masks, "controls": masks, "set_size": 4} | options)


def all_sets(sets, epoch=0):
    return [sets.draw(index, epoch) for index in range(len(sets))]


def cells(perturbation, cell_type, batch, count):
    return [(perturbation, cell_type, batch)] * count


SCREEN = [*cells("A", "t", "1", 9), *cells("ctrl", "t", "1", 6), *cells("A", "u", "1", 3), *cells("ctrl", "u", "1", 5)]


def test_every_cell_comes_once_an_epoch():
    sets = sets_of(screens_of(SCREEN))
    for epoch in range(3):
        targets = np.concatenate([drawn.targets for drawn in all_sets(sets, epoch)])
        assert sorted(targets.tolist()) == list(range(len(SCREEN)))


def test_sizes_by_hand():
    sizes = [
        (drawn.cell_type, drawn.perturbation, len(drawn.targets)) for drawn in all_sets(sets_of(screens_of(SCREEN)))
    ]
    # 9 cells make 3 sets of 3; 6 controls 2 of 3 (half of the pool), 5 controls 3 of at most 2.
    assert sizes == [(0, 0, 3)] * 3 + [(0, 1, 3)] * 2 + [(1, 0, 3), (1, 1, 1), (1, 1, 2), (1, 1, 2)]


def test_sets_are_pure_and_draw_their_own_controls():
    screens = screens_of(SCREEN)
    screen = screens.screens[0]
    for drawn in all_sets(sets_of(screens)):
        assert set(screen.perturbations[drawn.targets]) == {drawn.perturbation}
        assert set(screen.cell_types[drawn.targets]) == {drawn.cell_type}
        assert screen.is_control[drawn.controls].all()
        assert set(screen.cell_types[drawn.controls]) == {drawn.cell_type}
        assert len(set(drawn.controls)) == len(drawn.controls)
        assert not set(drawn.controls) & set(drawn.targets)
        assert drawn.batches.tolist() == screen.batches[drawn.targets].tolist()


def test_a_set_depends_on_seed_epoch_and_index_alone():
    def texts(sets, epoch):
        return [(*drawn.targets, *drawn.controls) for drawn in all_sets(sets, epoch)]

    screens = screens_of(SCREEN)
    first = texts(sets_of(screens, seed=1), 0)
    again = sets_of(screens, seed=1)
    backwards = [again.draw(index, 0) for index in reversed(range(len(again)))]
    assert [(*drawn.targets, *drawn.controls) for drawn in reversed(backwards)] == first
    assert texts(again, 1) != first
    assert texts(sets_of(screens, seed=2), 0) != first


def test_short_sets_are_dropped_on_request():
    screens = screens_of([*cells("A", "t", "1", 9), *cells("B", "t", "1", 3), *cells("ctrl", "t", "1", 6)])
    drawn = all_sets(sets_of(screens, short_sets="drop"))
    assert [(one.perturbation, len(one.targets)) for one in drawn] == [(0, 4), (0, 4)]


def test_one_cell_is_a_set_of_one():
    (drawn,) = all_sets(sets_of(screens_of([("A", "t", "1"), *cells("ctrl", "t", "1", 6)]), map_controls=False))
    assert drawn.targets.tolist() == [0]
    assert len(drawn.controls) == 4


def test_a_single_control_cell_serves_but_is_not_predicted():
    drawn = all_sets(sets_of(screens_of([*cells("A", "t", "1", 2), ("ctrl", "t", "1")])))
    assert [(one.targets.size, one.controls.tolist()) for one in drawn] == [(2, [2])]


def test_several_control_sets():
    sets = sets_of(screens_of(SCREEN), control_sets=3, map_controls=False)
    first, second, third = (sets.draw(index, 0) for index in range(3))
    assert set(first.targets) == set(second.targets) == set(third.targets)
    assert len({tuple(sorted(one.controls)) for one in (first, second, third)}) > 1
    assert len(sets) == 3 * len(sets_of(screens_of(SCREEN), map_controls=False))


def test_controls_of_the_same_batch():
    perturbed = [*cells("A", "t", "1", 5), *cells("A", "t", "2", 3), *cells("A", "t", "3", 2)]
    screens = screens_of([*perturbed, *cells("ctrl", "t", "1", 7), *cells("ctrl", "t", "2", 7)])
    drawn = all_sets(sets_of(screens, control_matching="batch", map_controls=False))
    screen = screens.screens[0]
    for one in drawn:
        (batch,) = set(one.batches)
        found = set(screen.batches[one.controls])
        # Batch 3 has no controls: those of the cell type serve.
        assert found == {batch} if batch != 2 else found <= {0, 1}
    assert Counter(int(one.batches[0]) for one in drawn) == {0: 2, 1: 1, 2: 1}


def test_a_lone_control_of_a_batch_is_predicted_from_other_batches():
    screens = screens_of([("ctrl", "t", "1"), *cells("ctrl", "t", "2", 3)])
    drawn = all_sets(sets_of(screens, control_matching="batch"))
    lone = next(one for one in drawn if one.targets.tolist() == [0])
    assert set(lone.controls) <= {1, 2, 3}


def test_fewer_cells_of_a_group_on_request():
    sets = sets_of(screens_of(SCREEN), max_cells_per_group=2, map_controls=False)
    seen = [sorted(np.concatenate([one.targets for one in all_sets(sets, epoch)]).tolist()) for epoch in range(4)]
    assert all(len(cells) == 4 for cells in seen)
    assert len({tuple(cells) for cells in seen}) > 1


def test_a_cell_type_without_controls():
    screens = screens_of([*cells("A", "t", "1", 3), *cells("ctrl", "t", "1", 3), *cells("A", "u", "1", 5)])
    with pytest.raises(ValueError, match=r"no control cells \('ctrl'\) of the cell type 'u' to predict its 5"):
        sets_of(screens)
    assert {one.cell_type for one in all_sets(sets_of(screens, without_controls="drop"))} == {0}


def test_bad_arguments():
    screens = screens_of(SCREEN)
    with pytest.raises(ValueError, match="set_size must be at least 1, and is 0"):
        sets_of(screens, set_size=0)
    with pytest.raises(ValueError, match="control_matching is one of random, batch, not 'nearest'"):
        sets_of(screens, control_matching="nearest")
    with pytest.raises(ValueError, match="no set can be made"):
        sets_of(screens, targets=[np.zeros(len(SCREEN), dtype=bool)])
    with pytest.raises(IndexError, match="there is no set 99"):
        sets_of(screens).draw(99, 0)


label = st.tuples(st.sampled_from(["A", "B", "ctrl"]), st.sampled_from("tu"), st.sampled_from("12"))


@given(
    labels=st.lists(label, max_size=60),
    set_size=st.integers(1, 9),
    matching=st.sampled_from(["random", "batch"]),
    keep=st.booleans(),
)
@settings(max_examples=30)
def test_no_cell_twice_and_no_set_impure(labels, set_size, matching, keep):
    controls = [*cells("ctrl", "t", "1", 2), *cells("ctrl", "u", "1", 2)]
    screens = screens_of([*labels, *controls, *cells("A", "t", "1", set_size)])
    sets = sets_of(screens, set_size=set_size, control_matching=matching, short_sets="keep" if keep else "drop")
    screen, drawn = screens.screens[0], all_sets(sets, 3)
    targets = np.concatenate([one.targets for one in drawn])
    assert len(set(targets)) == len(targets)
    if keep:
        assert len(targets) == screen.num_cells
    for one in drawn:
        assert 1 <= len(one.targets) <= set_size
        assert keep or len(one.targets) == set_size
        assert 1 <= len(one.controls) <= set_size
        assert not set(one.controls) & set(one.targets)
        assert screen.is_control[one.controls].all()
        assert set(screen.cell_types[one.controls]) == set(screen.cell_types[one.targets]) == {one.cell_type}
        assert matching == "random" or len(set(one.batches)) == 1
