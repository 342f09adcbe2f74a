import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.data.screens.split_definition import PARTS, SplitDefinition, random_split, zeroshot_split
from state_hf.data.screens.splits import PerturbationSplit


def adata_of(labels, *, prefix="cell"):
    """Cells given as (perturbation, cell type)."""
    obs = pd.DataFrame(labels, columns=["perturbation", "cell_type"], dtype=str)
    obs.index = [f"{prefix}_{number}" for number in range(len(obs))]
    return anndata.AnnData(np.zeros((len(obs), 1), np.float32), obs=obs)


#         0          1          2            3            4          5          6            7
LABELS = [("A", "t"), ("B", "t"), ("ctrl", "t"), ("ctrl", "t"), ("A", "u"), ("C", "u"), ("ctrl", "u"), ("B", "u")]


@pytest.fixture
def screens():
    return open_screens({"d": adata_of(LABELS)}, control="ctrl")


def rows(masks):
    return np.flatnonzero(masks[0]).tolist()


def targets(split):
    return {part: rows(split.target_masks(part)) for part in PARTS}


def pools(split):
    return {part: rows(split.control_masks(part)) for part in PARTS}


ZEROSHOT = SplitDefinition(training=("d",), zeroshot={("d", "u"): "test"})
FEWSHOT = SplitDefinition(training=("d",), fewshot={("d", "u"): {"val": ["A"], "test": ["A", "B"]}})


@pytest.mark.parametrize(
    ("definition", "controls", "expected_targets", "expected_pools"),
    [
        (ZEROSHOT, "shared", ([0, 1, 2, 3, 6], [], [4, 5, 6, 7]), ([2, 3, 6], [], [6])),
        (ZEROSHOT, "train-only", ([0, 1, 2, 3, 6], [], [4, 5, 7]), ([2, 3, 6], [], [6])),
        (ZEROSHOT, "held-out", ([0, 1, 2, 3], [], [4, 5, 6, 7]), ([2, 3], [], [6])),
        (FEWSHOT, "shared", ([0, 1, 2, 3, 5, 6], [4, 6], [4, 6, 7]), ([2, 3, 6], [6], [6])),
        (FEWSHOT, "train-only", ([0, 1, 2, 3, 5, 6], [4], [4, 7]), ([2, 3, 6], [6], [6])),
    ],
)
def test_parts_by_hand(screens, definition, controls, expected_targets, expected_pools):
    split = PerturbationSplit(screens, definition, controls=controls)
    assert tuple(targets(split).values()) == expected_targets
    assert tuple(pools(split).values()) == expected_pools


def test_held_out_controls_are_dealt_out():
    labels = [*[("A", "t")] * 6, *[("B", "t")] * 2, *[("C", "t")] * 2, *[("ctrl", "t")] * 20]
    definition = SplitDefinition(training=("s",), fewshot={("s", "t"): {"val": ["B"], "test": ["C"]}})
    screens = open_screens({"s": adata_of(labels)}, control="ctrl")
    split = PerturbationSplit(screens, definition, controls="held-out")
    sizes = {part: len(found) for part, found in pools(split).items()}
    assert sizes == {"train": 12, "val": 4, "test": 4}
    assert sorted(row for found in pools(split).values() for row in found) == list(range(10, 30))
    other = PerturbationSplit(screens, definition, controls="held-out", seed=1)
    assert pools(other) != pools(split)


def test_every_part_gets_a_held_out_control():
    labels = [*[("A", "t")] * 50, ("B", "t"), ("C", "t"), *[("ctrl", "t")] * 3]
    definition = SplitDefinition(training=("s",), fewshot={("s", "t"): {"val": ["B"], "test": ["C"]}})
    split = PerturbationSplit(open_screens({"s": adata_of(labels)}, control="ctrl"), definition, controls="held-out")
    assert [len(found) for found in pools(split).values()] == [1, 1, 1]
    two = open_screens({"s": adata_of(labels[:-1])}, control="ctrl")
    with pytest.raises(ValueError, match=r"2 control cells of the cell type 't' for 3 parts; let the parts share them"):
        PerturbationSplit(two, definition, controls="held-out")


def test_excluded_perturbations_and_datasets_that_do_not_train(screens):
    definition = SplitDefinition(zeroshot={("d", "u"): "val"}, exclude={("d", "u"): ["C"]})
    split = PerturbationSplit(screens, definition)
    assert targets(split) == {"train": [6], "val": [4, 6, 7], "test": []}
    audit = split.audit().set_index(["cell_type", "part"])
    assert audit.loc[("u", "unused"), "perturbed_cells"] == 1
    assert audit.loc[("t", "unused"), ["perturbed_cells", "control_cells"]].tolist() == [2, 2]


def test_the_audit_by_hand(screens):
    split = PerturbationSplit(screens, FEWSHOT)
    assert split.audit().to_numpy().tolist() == [
        ["d", "t", "train", 2, 2, 2, 2],
        ["d", "u", "train", 1, 1, 1, 1],
        ["d", "u", "val", 1, 1, 1, 1],
        ["d", "u", "test", 2, 2, 1, 1],
    ]
    assert "note: 1 perturbed cells are in both val and test" in str(split)
    assert "control cells of 1 zero-shot contexts train" in str(PerturbationSplit(screens, ZEROSHOT))
    assert "note" not in str(PerturbationSplit(screens, ZEROSHOT, controls="held-out"))


def test_a_held_out_cell_type_that_trains_elsewhere_is_noted():
    screens = open_screens({"d": adata_of(LABELS), "e": adata_of(LABELS, prefix="other")}, control="ctrl")
    definition = SplitDefinition(training=("d", "e"), zeroshot={("d", "u"): "test"})
    assert "d.u is held out, but e.u trains" in str(PerturbationSplit(screens, definition))


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (SplitDefinition(training=("dd",)), "names the dataset 'dd'; did you mean 'd'"),
        (
            SplitDefinition(zeroshot={("d", "U"): "test"}),
            "names the cell type 'U', which the dataset 'd' lacks; did you",
        ),
        (SplitDefinition(fewshot={("d", "t"): {"test": ["C"]}}), r"the perturbation 'C', of which d\.t has no cells"),
        (SplitDefinition(exclude={("d", "t"): ["AA"]}), "the perturbation 'AA', of which"),
        (
            SplitDefinition(fewshot={("d", "t"): {"val": ["ctrl"]}}),
            r"lists the control 'ctrl' as a perturbation of d\.t",
        ),
        (
            SplitDefinition(zeroshot={("d", "t"): "test"}, fewshot={("d", "t"): {"val": ["A"]}}),
            r"d\.t is both in zeroshot and in fewshot",
        ),
    ],
)
def test_what_the_screens_lack_is_an_error(screens, definition, message):
    with pytest.raises(ValueError, match=message):
        PerturbationSplit(screens, definition)


def test_unknown_choice_of_controls(screens):
    with pytest.raises(ValueError, match="shared, train-only, held-out, not 'all'"):
        PerturbationSplit(screens, ZEROSHOT, controls="all")


def test_a_combination_is_held_out_in_every_order():
    labels = [("A+B", "t"), ("B+A", "t"), ("A", "t"), ("ctrl", "t")]
    screens = open_screens({"s": adata_of(labels)}, control="ctrl")
    for held in (["B+A"], ["A+B"], ["B+A", "A+B"]):
        definition = SplitDefinition(training=("s",), fewshot={("s", "t"): {"test": held}})
        assert targets(PerturbationSplit(screens, definition)) == {"train": [2, 3], "val": [], "test": [0, 1, 3]}


def test_copies_of_held_out_cells_are_a_leak():
    whole = adata_of(LABELS)
    subset = whole[whole.obs["cell_type"] == "u"].copy()
    screens = open_screens({"whole": whole, "subset": subset}, control="ctrl")
    definition = SplitDefinition(training=("whole", "subset"), zeroshot={("subset", "u"): "test"})
    with pytest.raises(ValueError, match=r"leak: 3 of the 3 held-out cells of .* seem to hold the same cells"):
        PerturbationSplit(screens, definition)
    subset.obs_names = [f"other_{name}" for name in subset.obs_names]
    PerturbationSplit(open_screens({"whole": whole, "subset": subset}, control="ctrl"), definition)


@pytest.mark.parametrize("definition", [ZEROSHOT, FEWSHOT])
@pytest.mark.parametrize("controls", ["shared", "train-only"])
def test_a_saved_split_is_the_same_split(screens, tmp_path, definition, controls):
    split = PerturbationSplit(screens, definition, controls=controls)
    split.save(tmp_path)
    loaded = PerturbationSplit.load(tmp_path, screens)
    assert targets(loaded) == targets(split)
    assert pools(loaded) == pools(split)
    assert (loaded.definition, loaded.controls) == (split.definition, split.controls)
    assert pd.read_csv(tmp_path / "split.csv").equals(split.audit())


def test_a_split_of_other_cells_is_refused(screens, tmp_path):
    with pytest.raises(FileNotFoundError, match="no split in"):
        PerturbationSplit.load(tmp_path, screens)
    PerturbationSplit(screens, ZEROSHOT).save(tmp_path)
    fewer = open_screens({"d": adata_of(LABELS[:-1])}, control="ctrl")
    with pytest.raises(ValueError, match="the screens are not those that the split in"):
        PerturbationSplit.load(tmp_path, fewer)


@pytest.mark.parametrize(
    ("labels", "definition", "message"),
    [
        (
            LABELS,
            SplitDefinition(training=("d",), zeroshot={("d", "t"): "val", ("d", "u"): "test"}),
            "no perturbed cells are left to train on: those of 't' (2) are to validate on, and those of 'u' (3) are to "
            "test on; validate on some perturbations of 't' only, so that the others train (val_share=0.2, or "
            "[fewshot] in the split's TOML)",
        ),
        (
            # The context that trains has control cells alone.
            [("ctrl", "t"), ("A", "u"), ("ctrl", "u")],
            SplitDefinition(training=("d",), zeroshot={("d", "u"): "test"}),
            "no perturbed cells are left to train on: those of 'u' (1) are to test on; test on some perturbations of "
            "'u' only, so that the others train (test_share=0.2, or [fewshot] in the split's TOML)",
        ),
        (
            LABELS[:4],
            SplitDefinition(training=("d",), fewshot={("d", "t"): {"val": ["A"], "test": ["B"]}}),
            "no perturbed cells are left to train on: those of 't' (1) are to validate on, and those of 't' (1) are to "
            "test on; hold out fewer perturbations",
        ),
        (
            LABELS[:4],
            SplitDefinition(),
            "no perturbed cells are left to train on: those of 't' (2) are in no part; name their datasets in "
            "[training] of the split's TOML",
        ),
        (
            [("ctrl", "t")],
            SplitDefinition(training=("d",)),
            "no perturbed cells are left to train on: the screens have control cells alone",
        ),
    ],
)
def test_why_nothing_trains(labels, definition, message):
    screens = open_screens({"d": adata_of(labels)}, control="ctrl")
    assert PerturbationSplit(screens, definition).why_nothing_trains() == message


def test_zeroshot_split(screen):
    screens = open_screens(screen)
    definition = zeroshot_split(screens, test=["type_2"], val=["type_3"])
    assert definition.zeroshot == {("screen", "type_2"): "test", ("screen", "type_3"): "val"}
    with pytest.raises(ValueError, match="no cell type 'type_9'"):
        zeroshot_split(screens, test=["type_9"])
    with pytest.raises(ValueError, match="'type_1' is in both val and test"):
        zeroshot_split(screens, test=["type_1"], val=["type_1"])


def test_zeroshot_split_with_a_share_to_validate_on(screen):
    screens = open_screens(screen)
    definition = zeroshot_split(screens, test=["type_2"], val_share=0.4, seed=3)
    assert definition.zeroshot == {("screen", "type_2"): "test"}
    # The same two of five perturbations in each cell type that trains, and no others.
    lists = definition.fewshot
    assert sorted(lists) == [("screen", "type_1"), ("screen", "type_3")]
    assert lists["screen", "type_1"] == lists["screen", "type_3"]
    assert [len(names) for names in lists["screen", "type_1"].values()] == [2]
    split = PerturbationSplit(screens, definition)
    perturbed = ~screens.screens[0].is_control
    cell_types = {part: sorted(set(screen.obs["cell_type"][split.target_masks(part)[0] & perturbed])) for part in PARTS}
    assert cell_types == {"train": ["type_1", "type_3"], "val": ["type_1", "type_3"], "test": ["type_2"]}
    # In one of them; in the other they train.
    definition = zeroshot_split(screens, test=["type_2"], val_share=0.4, cell_types=["type_3"], seed=3)
    assert list(definition.fewshot) == [("screen", "type_3")]
    with pytest.raises(ValueError, match=r"'type_2' is held out whole \(test\), so no share"):
        zeroshot_split(screens, test=["type_2"], val_share=0.4, cell_types=["type_2"])
    with pytest.raises(ValueError, match=r"a val share of 0\.01 is none of the 5 perturbations .*; 0\.2 holds one out"):
        zeroshot_split(screens, test=["type_2"], val_share=0.01)
    with pytest.raises(ValueError, match=r"sum between 0 and 1, not -0\.1 and 0"):
        zeroshot_split(screens, test=["type_2"], val_share=-0.1)


def test_random_split_holds_perturbations_out_everywhere(screen):
    screens = open_screens(screen)
    definition = random_split(screens, val=0.2, test=0.4, seed=1)
    split = PerturbationSplit(screens, definition, controls="held-out")
    found = {
        part: set(screen.obs["perturbation"][split.target_masks(part)[0] & ~screens.screens[0].is_control])
        for part in PARTS
    }
    assert {part: len(names) for part, names in found.items()} == {"train": 2, "val": 1, "test": 2}
    assert not found["train"] & (found["val"] | found["test"])
    assert definition == random_split(screens, val=0.2, test=0.4, seed=1)
    assert definition != random_split(screens, val=0.2, test=0.4, seed=2)


def test_random_split_in_some_cell_types(screen):
    definition = random_split(open_screens(screen), val=0, test=0.4, cell_types=["type_1"])
    assert list(definition.fewshot) == [("screen", "type_1")]
    assert list(definition.fewshot["screen", "type_1"]) == ["test"]
    with pytest.raises(ValueError, match="no cell type 'type_9'"):
        random_split(open_screens(screen), cell_types=["type_9"])
    with pytest.raises(ValueError, match=r"sum between 0 and 1, not 0\.5 and 0\.6"):
        random_split(open_screens(screen), val=0.5, test=0.6)


label = st.tuples(st.sampled_from(["A", "B", "C", "ctrl"]), st.sampled_from("tu"))


@given(
    labels=st.lists(label, max_size=40),
    val=st.sets(st.sampled_from("ABC")),
    test=st.sets(st.sampled_from("ABC")),
    controls=st.sampled_from(["shared", "train-only", "held-out"]),
)
@settings(max_examples=30)
def test_no_held_out_cell_trains(labels, val, test, controls):
    # Enough of everything that each definition is possible.
    base = [*[(name, cell_type) for name in "ABC" for cell_type in "tu"], *[("ctrl", "t")] * 3, *[("ctrl", "u")] * 3]
    screens = open_screens({"d": adata_of(base + labels)}, control="ctrl")
    fewshot = {("d", "t"): {"val": sorted(val), "test": sorted(test)}}
    split = PerturbationSplit(screens, SplitDefinition(training=("d",), fewshot=fewshot), controls=controls)
    train, validation, tested = (split.target_masks(part)[0] for part in PARTS)
    perturbed = ~screens.screens[0].is_control
    assert not (train & (validation | tested) & perturbed).any()
    assert (train | validation | tested)[perturbed].all()
    drawn = [split.control_masks(part)[0] for part in PARTS]
    assert not (np.any(drawn, axis=0) & perturbed).any()
    if controls == "held-out":
        assert (np.sum(drawn, axis=0) <= 1).all()
    if controls == "train-only":
        assert not ((validation | tested) & ~perturbed).any()


def test_a_part_that_trains_after_all():
    definition = SplitDefinition(
        training=("one",),
        zeroshot={("one", "a"): "val", ("one", "b"): "test", ("two", "a"): "val"},
        fewshot={("one", "c"): {"val": ["P"], "test": ["Q"]}},
    )
    assert definition.without("val") == SplitDefinition(
        training=("one",),
        zeroshot={("one", "b"): "test", ("two", "a"): "train"},
        fewshot={("one", "c"): {"test": ["Q"]}},
    )
