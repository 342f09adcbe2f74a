"""Two files of one screen: what is one label trains and is held out as one, and what looks like one is refused."""

import anndata
import numpy as np
import pandas as pd
import pytest

from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.data.screens.split_definition import SplitDefinition, random_split, zeroshot_split
from state_hf.data.screens.splits import PerturbationSplit


def adata_of(perturbation, cell_type="t", batch="b", *, name="cell"):
    obs = pd.DataFrame({"perturbation": pd.Series(perturbation)})
    obs["cell_type"], obs["batch"] = cell_type, batch
    obs.index = [f"{name}_{number}" for number in range(len(obs))]
    return anndata.AnnData(np.zeros((len(obs), 1), np.float32), obs=obs)


@pytest.fixture(params=["objects", "files"])
def two(request, tmp_path):
    """Two screens, in memory or on the disk."""

    def make(first, second):
        if request.param == "objects":
            return [first, second]
        paths = [tmp_path / "first.h5ad", tmp_path / "second.h5ad"]
        for adata, path in zip((first, second), paths, strict=True):
            adata.write_h5ad(path)
        return paths

    return make


def trained(split, part="train"):
    """Names of the perturbed cells of a part, as (screen, row)."""
    screens = split.screens.screens
    return {
        (number, row)
        for number, mask in enumerate(split.target_masks(part))
        for row in np.flatnonzero(mask & ~screens[number].is_control)
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, 2, 1, 2], [1.0, 2.0, 1.0, 2.0]),
        (["1", "2", "1", "2"], [1, 2, 1, 2]),
        (pd.Categorical([1, 2, 1, 2]), ["1", "2", "1", "2"]),
    ],
    ids=["int and float", "text and int", "categories and text"],
)
def test_a_held_out_cell_type_is_held_out_whatever_its_type(two, first, second):
    labels = ["A", "A", "ctrl", "ctrl"]
    screens = open_screens(two(adata_of(labels, first), adata_of(labels, second, name="other")), control="ctrl")
    assert screens.cell_types == ["1", "2"]
    for held in ("2", 2, 2.0, np.int64(2)):
        split = PerturbationSplit(screens, zeroshot_split(screens, test=[held]))
        assert trained(split) == {(0, 0), (1, 0)}
        assert trained(split, "test") == {(0, 1), (1, 1)}


@pytest.mark.parametrize(
    ("one", "two_"),
    [
        ("A", "A "),
        ("A", "a"),
        ("T cell", "T  cell"),
        ("T cell", "T\u00a0cell"),
        ("caf\u00e9", "cafe\u0301"),
        ("2", "2.0"),
    ],
)
@pytest.mark.parametrize("kind", ["perturbation", "cell_type", "batch"])
def test_labels_that_look_alike_across_files_are_refused(two, one, two_, kind):
    plain = {"perturbation": ["X", "ctrl"], "cell_type": ["t", "t"], "batch": ["b", "b"]}
    columns = [{**plain, kind: [label, plain[kind][1]]} for label in (one, two_)]
    sources = two(adata_of(**columns[0]), adata_of(**columns[1], name="other"))
    with pytest.raises(ValueError, match=rf"^obs\['{kind}'\] of .* has the label .*, and obs\['{kind}'\] of .*; make"):
        open_screens({"one": sources[0], "two": sources[1]}, control="ctrl", batch_key="batch")


def test_a_float_column_and_texts_of_one_are_told_to_be_made_one(two):
    sources = two(adata_of([0.0, 2.0]), adata_of(["0", "2.0"], name="other"))
    with pytest.raises(
        ValueError, match=r"'2\.0', and obs\['perturbation'\] of .* '2', which are one number in two forms"
    ):
        open_screens(sources, control=0)


def test_case_may_be_told_apart():
    mouse, human = adata_of(["Tp53", "ctrl"]), adata_of(["TP53", "ctrl"], name="other")
    with pytest.raises(ValueError, match="distinct_case=True"):
        open_screens([mouse, human], control="ctrl")
    assert open_screens([mouse, human], control="ctrl", distinct_case=True).perturbations == ["TP53", "Tp53", "ctrl"]


@pytest.mark.parametrize("control", [0, 0.0, np.int8(0), "0", np.float32(0), b"0"])
@pytest.mark.parametrize("labels", [[0, 3, 7], [0.0, 3.0, 7.0], ["0", "3", "7"], pd.Categorical([0, 3, 7])])
def test_the_control_may_be_named_as_any_type(labels, control):
    screens = open_screens(adata_of(labels), control=control)
    assert (screens.control, screens.perturbations) == ("0", ["0", "3", "7"])
    definition = SplitDefinition(training=("screen",), fewshot={("screen", "t"): {"test": [3.0]}})
    assert trained(PerturbationSplit(screens, definition)) == {(0, 2)}


@pytest.mark.parametrize("text", ["nan", "None", "", "NaN", "NA", "<NA>", "null", "NaT", "  "])
@pytest.mark.parametrize("kind", ["perturbation", "cell_type", "batch"])
def test_texts_that_stand_for_no_label_are_refused(two, text, kind):
    plain = {"perturbation": ["X", "ctrl"], "cell_type": ["t", "t"], "batch": ["b", "b"]}
    sources = two(adata_of(**plain), adata_of(**{**plain, kind: [plain[kind][1], text]}, name="other"))
    with pytest.raises(
        ValueError, match=rf"obs\['{kind}'\] of .* has no label for 1 of 2 cells \(the first is cell 1; "
    ):
        open_screens(sources, control="ctrl", batch_key="batch")


def test_a_gene_called_nan_is_a_perturbation():
    assert open_screens(adata_of(["NAN", "ctrl"]), control="ctrl").perturbations == ["NAN", "ctrl"]


def test_spellings_of_one_perturbation_are_one_and_noted(two):
    first = adata_of(["A+B", "A+B", "A+ctrl", "ctrl", "C"])
    second = adata_of(["B+A", "A", "ctrl+A", "ctrl", "A"], name="other")
    screens = open_screens(two(first, second), control="ctrl")
    assert screens.perturbations == ["A", "A+B", "C", "ctrl"]
    assert [screen.perturbations.tolist() for screen in screens.screens] == [[1, 1, 0, 3, 2], [1, 0, 0, 3, 0]]
    (note,) = screens.notes
    assert note == (
        "labels of one perturbation are taken as one (numbers of cells): 'A' (2) and 'A+ctrl' (1) and 'ctrl+A' (1) as "
        "'A'; 'A+B' (2) and 'B+A' (1) as 'A+B'"
    )
    assert note in str(PerturbationSplit(screens, zeroshot_split(screens, test=["t"])))


@pytest.mark.parametrize("held", ["A+B", "B+A", "B+ctrl+A"])
def test_a_held_out_combination_is_held_out_in_every_order(two, held):
    first = adata_of(["A+B", "C", "ctrl", "ctrl"])
    second = adata_of(["C", "B+A", "ctrl", "A+B+ctrl"], name="other")
    screens = open_screens(two(first, second), control="ctrl")
    definition = SplitDefinition(training=("screen",), fewshot={("screen", "t"): {"test": [held]}})
    split = PerturbationSplit(screens, definition)
    assert trained(split, "test") == {(0, 0), (1, 1), (1, 3)}
    assert trained(split) == {(0, 1), (1, 0)}
    excluded = SplitDefinition(training=("screen",), exclude={("screen", "t"): [held]})
    assert trained(PerturbationSplit(screens, excluded)) == {(0, 1), (1, 0)}
    with pytest.raises(ValueError, match=r"lists the control 'ctrl\+ctrl' as a perturbation"):
        PerturbationSplit(screens, SplitDefinition(fewshot={("screen", "t"): {"test": ["ctrl+ctrl"]}}))


def test_a_random_split_holds_out_what_a_label_means():
    labels = ["A+ctrl", "ctrl+A", "B+ctrl", "ctrl+B", "C+ctrl", "ctrl+C", "ctrl", "ctrl"]
    screens = open_screens(adata_of(labels), control="ctrl")
    for seed in range(5):
        split = PerturbationSplit(screens, random_split(screens, val=0, test=0.34, seed=seed))
        held = trained(split, "test")
        assert held in [{(0, 0), (0, 1)}, {(0, 2), (0, 3)}, {(0, 4), (0, 5)}]


def test_a_vocabulary_that_is_given_is_searched_for_meanings():
    screens = open_screens(adata_of(["B+A", "C+ctrl", "ctrl"]), control="ctrl", perturbations=["ctrl", "C", "A+B"])
    assert screens.screens[0].perturbations.tolist() == [2, 1, 0]
    # An older model may have two rows for one perturbation; both are held out together.
    old = ["ctrl", "B+A", "A+B"]
    screens = open_screens(adata_of(["B+A", "A+B", "ctrl"]), control="ctrl", perturbations=old)
    assert screens.ids_of("A+B") == [1, 2]
    definition = SplitDefinition(training=("screen",), fewshot={("screen", "t"): {"test": ["A+B"]}})
    assert trained(PerturbationSplit(screens, definition)) == set()


MODEL = PerturbationVocabulary(["A", "A+B", "TP53", "Tp53", "ctrl"], "ctrl", ["b1", "b2"], ["type_1"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"perturbation": ["a", "ctrl"]}, r"obs\['perturbation'\] of .* has the label 'a', and the model .* 'A'"),
        (
            {"perturbation": ["A + B", "ctrl"]},
            r"'A \+ B', and the model \(perturbation names\) 'A\+B', which differ in sp",
        ),
        ({"perturbation": ["C+tp53", "ctrl"]}, r"'C\+tp53' \(of which 'tp53'\), and the model"),
        (
            {"perturbation": ["A", "ctrl"], "cell_type": "type_1 "},
            r"'type_1 ', and the model \(cell type names\) 'type_1'",
        ),
        ({"perturbation": ["A", "ctrl"], "batch": "B1"}, r"'B1', and the model \(batch names\) 'b1'"),
    ],
)
def test_labels_that_look_like_a_models_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        open_screens(adata_of(**columns), control="ctrl", batch_key="batch", vocabulary=MODEL)


def test_labels_that_a_model_tells_apart_or_does_not_know():
    screens = open_screens(adata_of(["TP53", "Tp53", "new", "ctrl"], "ALL"), control="ctrl", vocabulary=MODEL)
    assert screens.perturbations == ["TP53", "Tp53", "ctrl", "new"]
    # Nobody called the one cell type of a screen without a column of cell types "all".
    without = PerturbationVocabulary(["A", "ctrl"], "ctrl", ["all"], ["all"])
    open_screens(adata_of(["A", "ctrl"], "ALL"), control="ctrl", vocabulary=without)
    # What the control is called, the user has said.
    open_screens(adata_of(["A", "Ctrl"]), control="Ctrl", vocabulary=MODEL)
