"""The part of a group is the one that the split itself gives its cells."""

import json

import pytest

from state_hf import PerturbationSplit, generate_screen, open_screens
from state_hf.data.screens.split_definition import SplitDefinition, random_split, zeroshot_split
from state_hf.data.screens.split_parts import GroupParts, read_split, split_file
from state_hf.data.screens.split_toml import write_split_toml


@pytest.fixture(scope="module")
def screens():
    return open_screens(
        generate_screen(
            num_cell_types=3, num_perturbations=8, num_genes=20, cells_per_perturbation=4, controls=6, seed=0
        )
    )


def expected_parts(split):
    """(cell type, perturbation) -> part, from the masks of the cells."""
    (screen,) = split.screens.screens
    found = {}
    for part in ("train", "val", "test"):
        (mask,) = split.target_masks(part)
        chosen = mask & ~screen.is_control
        for cell_type, perturbation in zip(screen.cell_types[chosen], screen.perturbations[chosen], strict=True):
            group = split.screens.cell_types[cell_type], split.screens.perturbations[perturbation]
            found.setdefault(group, part)
    return found


DEFINITIONS = {
    "random": lambda screens: random_split(screens, val=0.2, test=0.4, seed=1),
    "few-shot": lambda screens: random_split(screens, val=0.2, test=0.4, cell_types=["type_2"], seed=1),
    "zero-shot": lambda screens: zeroshot_split(screens, test=["type_1"], val=["type_3"]),
    "excluding": lambda screens: SplitDefinition(
        {},
        ("screen",),
        zeroshot={("screen", "type_1"): "test"},
        exclude={("screen", "type_1"): [screens.perturbations[0]], ("screen", "type_2"): [screens.perturbations[1]]},
    ),
}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_parts_are_those_of_the_cells(kind, screens, tmp_path):
    split = PerturbationSplit(screens, DEFINITIONS[kind](screens))
    split.save(tmp_path)
    parts = GroupParts(tmp_path, control=screens.control)
    expected = expected_parts(split)
    for cell_type in screens.cell_types:
        for perturbation in screens.perturbations:
            if perturbation != screens.control:
                assert parts.part(cell_type, perturbation) == expected.get((cell_type, perturbation))
    assert parts.part("another type", screens.perturbations[0]) is None


def test_toml_says_the_same_but_for_what_it_does_not_know(screens, tmp_path):
    definition = DEFINITIONS["few-shot"](screens)
    toml = tmp_path / "split.toml"
    write_split_toml(SplitDefinition({"screen": "screen.h5ad"}, definition.training, fewshot=definition.fewshot), toml)
    PerturbationSplit(screens, definition).save(tmp_path)
    assert read_split(toml).fewshot == read_split(tmp_path / "split.json").fewshot == definition.fewshot
    parts = GroupParts(toml, control=screens.control)
    lists = definition.fewshot["screen", "type_2"]
    assert {parts.part("type_2", name) for name in lists["test"]} == {"test"}
    assert parts.part("type_1", lists["test"][0]) == "train"


def test_combinations_are_found_in_any_order_and_with_the_control(tmp_path):
    content = {"training": ["a"], "zeroshot": {}, "fewshot": {"a": {"K562": {"test": ["A+B", "C"]}}}, "exclude": {}}
    (tmp_path / "split.json").write_text(json.dumps(content))
    parts = GroupParts(tmp_path, control="ctrl")
    assert [parts.part("K562", name) for name in ("B+A", "C+ctrl", "ctrl+C", "A", "D")] == [
        "test", "test", "test", "train", "train",
    ]  # fmt: skip


def test_a_group_that_trains_in_one_dataset_is_not_held_out(tmp_path):
    content = {
        "training": ["a", "b"],
        "zeroshot": {"a": {"K562": "test", "RPE1": "test"}},
        "fewshot": {"b": {"K562": {"test": ["A"]}}},
        "exclude": {},
    }
    (tmp_path / "split.json").write_text(json.dumps(content))
    parts = GroupParts(tmp_path, control="ctrl")
    assert [parts.part(*group) for group in [("K562", "A"), ("K562", "B"), ("RPE1", "B")]] == ["test", "train", "test"]


def test_the_split_of_a_baseline_is_that_of_its_model(tmp_path):
    (tmp_path / "split.json").write_text("{}")
    baseline = tmp_path / "baselines" / "perturbation_mean"
    baseline.mkdir(parents=True)
    assert (
        split_file(baseline) == split_file(tmp_path) == split_file(tmp_path / "split.json") == tmp_path / "split.json"
    )


@pytest.mark.parametrize(
    "text", ["no json", "[]", "{}", '{"training": [], "zeroshot": 1, "fewshot": {}, "exclude": {}}']
)
def test_what_is_no_split_is_refused(text, tmp_path):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=r"split\.json is no split"):
        read_split(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no split in the folder"):
        read_split(tmp_path.parent)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_split(tmp_path / "none.toml")
