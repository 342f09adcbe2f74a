"""What of a prediction and a screen is scored: what was held out, by what the prediction says of itself or a split."""

import numpy as np
import pandas as pd
import pytest
import torch

from state_hf import PerturbationSplit, evaluate_predictions, open_screens, predict
from state_hf.cli import main
from state_hf.data.screens.prediction_record import read_prediction_record
from state_hf.data.screens.split_definition import SplitDefinition, random_split, zeroshot_split
from state_hf.data.screens.split_toml import write_split_toml
from tests.screen_models import normalised_screen, vocabulary_of
from tests.tiny_models import state_transition_model


@pytest.fixture(scope="module")
def screen():
    return normalised_screen()


def trained(screen, definition, folder, **fields):
    """A model's folder with the split that it was (not) trained with."""
    split = PerturbationSplit(open_screens(screen), definition)
    torch.manual_seed(0)
    state_transition_model(vocabulary_of(split), nonnegative_output=True, **fields).save_pretrained(folder)
    split.save(folder)
    return folder


@pytest.fixture(scope="module")
def zeroshot(screen, tmp_path_factory):
    definition = zeroshot_split(open_screens(screen), test=["type_2"])
    return trained(screen, definition, tmp_path_factory.mktemp("zeroshot") / "model")


@pytest.fixture(scope="module")
def fewshot(screen, tmp_path_factory):
    definition = random_split(open_screens(screen), val=0, test=0.5, cell_types=["type_1", "type_2"])
    return trained(screen, definition, tmp_path_factory.mktemp("fewshot") / "model")


def cut(cells, groups):
    """By hand: the cells of some (cell type, perturbation), and the controls of these cell types."""
    types, names = cells.obs["cell_type"].astype(str), cells.obs["perturbation"].astype(str)
    pairs = list(zip(types, names, strict=True))
    kept = [
        pair in groups or (pair[1] == "non-targeting" and pair[0] in {group[0] for group in groups}) for pair in pairs
    ]
    return cells[np.array(kept)].copy()


def groups_in(cells, *cell_types):
    types, names = cells.obs["cell_type"].astype(str), cells.obs["perturbation"].astype(str)
    return {
        (kind, name) for kind, name in zip(types, names, strict=True) if name != "non-targeting" and kind in cell_types
    }


def without_record(cells):
    cells = cells.copy()
    del cells.uns["prediction"]
    return cells


def same(found, expected):
    pd.testing.assert_frame_equal(found.per_perturbation, expected.per_perturbation)


def test_the_record_is_read_back(screen, fewshot):
    record = read_prediction_record(predict(screen, fewshot, cells=4).uns["prediction"], "here")
    assert (record.perturbation_key, record.control, record.cell_type_key) == (
        "perturbation",
        "non-targeting",
        "cell_type",
    )
    assert (record.scale, record.controls, record.num_genes) == ("log1p", "real", screen.n_vars)
    assert record.model == str(fewshot)
    assert len(record.model_digest) == 64
    assert record.split == str(fewshot / "split.json")
    assert set(record.groups) == groups_in(screen, "type_1", "type_2", "type_3")
    part, groups = record.held_out
    assert part == "test"
    assert {kind for kind, _ in groups} == {"type_1", "type_2"}
    assert len(groups) == 4


def test_records_of_other_programs_and_versions_are_not_read(screen, fewshot):
    assert read_prediction_record(None, "here") is None
    assert read_prediction_record("mine", "here") is None
    content = dict(predict(screen, fewshot, cells=4).uns["prediction"])
    with pytest.raises(ValueError, match=r"uns\['prediction'\] of here is damaged"):
        read_prediction_record({**content, "groups": {"cell_type": ["a"], "perturbation": ["b"], "part": []}}, "here")
    del content["split"]
    assert read_prediction_record(content, "here") is None


def test_one_cell_type_that_was_held_out(screen, zeroshot):
    predicted = predict(screen, zeroshot, cells=10)
    found = evaluate_predictions(predicted, screen, baseline="mean")
    wanted = groups_in(screen, "type_2")
    expected = evaluate_predictions(cut(without_record(predicted), wanted), cut(screen, wanted), baseline="mean")
    same(found, expected)
    assert found.scores.equals(expected.scores)
    assert not found.contexts
    (note,) = found.settings["notes"]
    assert note == (
        f"scored: 4 perturbations in 1 cell type (type_2), the test part of {zeroshot / 'split.json'}, "
        "as the prediction records; 8 measured groups are left out"
    )


def test_perturbations_that_were_held_out_of_several_cell_types_are_scored_one_type_after_the_other(screen, fewshot):
    predicted = predict(screen, fewshot, cells=10)
    found = evaluate_predictions(predicted, screen)
    assert list(found.contexts) == ["type_1", "type_2"]
    wanted = set(read_prediction_record(predicted.uns["prediction"], "").held_out[1])
    by_hand = [cut(cells, wanted) for cells in (without_record(predicted), screen)]
    same(found, evaluate_predictions(*by_hand, cell_type_key="cell_type"))


@pytest.mark.parametrize("kind", ["split.json", "split.toml", "folder"])
def test_a_split_serves_what_records_nothing(kind, screen, fewshot, tmp_path):
    predicted = predict(screen, fewshot, cells=10)
    split = {"folder": fewshot, "split.json": fewshot / "split.json", "split.toml": tmp_path / "split.toml"}[kind]
    definition = random_split(open_screens(screen), val=0, test=0.5, cell_types=["type_1", "type_2"])
    write_split_toml(
        SplitDefinition({"screen": "screen.h5ad"}, definition.training, fewshot=definition.fewshot),
        tmp_path / "split.toml",
    )
    found = evaluate_predictions(without_record(predicted), screen, split=split)
    same(found, evaluate_predictions(predicted, screen))
    name = split / "split.json" if kind == "folder" else split
    assert f"the test part of {name};" in found.settings["notes"][0]


def test_all_or_what_is_predicted_can_be_scored_instead(screen, fewshot):
    predicted = predict(screen, fewshot, cells=10)
    everything = evaluate_predictions(predicted, screen, groups="all")
    same(everything, evaluate_predictions(without_record(predicted), screen, cell_type_key="cell_type"))
    some = [name for _, name in sorted(groups_in(screen, "type_3"))][:2]
    part = predict(screen, fewshot, some, cells=10, cell_types=["type_3"])
    with pytest.raises(ValueError, match="missing from the prediction"):
        evaluate_predictions(part, screen)
    found = evaluate_predictions(part, screen, groups="prediction")
    wanted = {("type_3", name) for name in some}
    same(found, evaluate_predictions(without_record(part), cut(screen, wanted)))


def test_a_model_that_saw_everything_is_said(screen, fewshot):
    predicted = predict(screen, fewshot, cells=10, cell_types=["type_3"])
    found = evaluate_predictions(predicted, cut(screen, groups_in(screen, "type_3")))
    assert found.settings["notes"] == [
        f"{fewshot / 'split.json'} holds none of the predicted perturbations out: the model was trained on all of them"
    ]


def test_a_held_out_group_that_is_not_predicted_is_missed(screen, fewshot):
    predicted = without_record(predict(screen, fewshot, cells=10, cell_types=["type_1"]))
    with pytest.raises(ValueError, match="missing from the prediction in their context"):
        evaluate_predictions(predicted, screen, split=fewshot)


def test_what_is_not_known_to_be_held_out_is_refused(screen, fewshot, tmp_path):
    predicted = without_record(predict(screen, fewshot, cells=10))
    with pytest.raises(ValueError, match="the prediction does not record what was held out; name the split"):
        evaluate_predictions(predicted, screen, groups="held-out")
    other = trained(screen, zeroshot_split(open_screens(screen), test=["type_1"]), tmp_path / "other")
    rest = cut(screen, groups_in(screen, "type_2"))
    with pytest.raises(ValueError, match=r"split\.json holds out no perturbation of the AnnData object"):
        evaluate_predictions(predicted, rest, split=other)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        evaluate_predictions(predicted, screen, split=tmp_path / "none.json")


def test_unlabelled_cells_are_reported_and_not_left_out(screen, zeroshot):
    predicted = predict(screen, zeroshot, cells=10)
    spoilt = screen.copy()
    spoilt.obs["perturbation"] = spoilt.obs["perturbation"].astype(object)
    spoilt.obs.iloc[0, spoilt.obs.columns.get_loc("perturbation")] = None
    with pytest.raises(ValueError, match="the reference has 1 cell without a label"):
        evaluate_predictions(predicted, spoilt)


def on_genes(predicted, genes):
    """As a model of some genes predicts."""
    part = predicted[:, genes].copy()
    part.uns["prediction"] = {**part.uns["prediction"], "num_genes": len(genes), "feature_key": "X_hvg"}
    return part


@pytest.mark.parametrize("backed", [False, True])
def test_a_model_of_fewer_genes_is_scored_on_them(backed, screen, zeroshot, tmp_path):
    genes = list(screen.var_names[[7, 3, 11, 0, 15]])
    predicted = on_genes(predict(screen, zeroshot, cells=10), genes)
    reference = screen[:, genes].copy()
    expected = evaluate_predictions(predicted, reference)
    whole = screen
    if backed:
        whole = tmp_path / "screen.h5ad"
        screen.write_h5ad(whole)
    found = evaluate_predictions(predicted, whole, cache_dir=tmp_path / "cache")
    same(found, expected)
    assert (
        found.settings["notes"][1]
        == "scored: the prediction's 5 of the reference's 20 genes, on which the model predicts (X_hvg)"
    )
    # Another choice of the same cells is another thing to remember.
    same(evaluate_predictions(predicted, whole, cache_dir=tmp_path / "cache"), expected)
    other = evaluate_predictions(predicted, whole, groups="all", cache_dir=tmp_path / "cache")
    assert len(other.contexts) == 3


def test_other_genes_are_chosen_by_an_option_only(screen, zeroshot):
    genes = list(screen.var_names[[7, 3, 11, 0, 15]])
    predicted = predict(screen, zeroshot, cells=10)
    # The user took genes away: the record says that the model has more.
    part = predicted[:, genes].copy()
    with pytest.raises(ValueError, match="15 genes of the reference missing from the prediction"):
        evaluate_predictions(part, screen)
    same(evaluate_predictions(part, screen, genes="prediction"), evaluate_predictions(part, screen[:, genes].copy()))
    with pytest.raises(ValueError, match="15 genes of the reference missing from the prediction"):
        evaluate_predictions(on_genes(predicted, genes), screen, genes="all")
    with pytest.raises(ValueError, match="genes is one of prediction, all, not 'some'"):
        evaluate_predictions(part, screen, genes="some")


def test_other_columns_and_controls_are_read_from_the_prediction(screen, tmp_path):
    renamed = screen.copy()
    renamed.obs = renamed.obs.rename(columns={"perturbation": "guide", "cell_type": "line"})
    renamed.obs["guide"] = renamed.obs["guide"].astype(str).replace("non-targeting", "NTC")
    split = PerturbationSplit(
        screens := open_screens(renamed, perturbation_key="guide", cell_type_key="line", control="NTC"),
        zeroshot_split(screens, test=["type_3"]),
    )
    state_transition_model(vocabulary_of(split), nonnegative_output=True).save_pretrained(tmp_path / "model")
    split.save(tmp_path / "model")
    renamed.write_h5ad(tmp_path / "screen.h5ad")
    words = ["--model", str(tmp_path / "model"), "--perturbation-key", "guide", "--cell-type-key", "line"]
    predicted = str(tmp_path / "predicted.h5ad")
    assert main(["predict", str(tmp_path / "screen.h5ad"), *words, "--output", predicted]) == 0
    assert main(["evaluate", predicted, str(tmp_path / "screen.h5ad"), "--output", str(tmp_path / "scores")]) == 0
    scores = pd.read_csv(tmp_path / "scores" / "per_perturbation.csv", index_col=0)
    assert set(scores.index) == {name for _, name in groups_in(screen, "type_3")}


def test_the_command_says_what_it_scored(screen, zeroshot, tmp_path, capsys):
    screen.write_h5ad(tmp_path / "screen.h5ad")
    predict(screen, zeroshot, cells=10, output=tmp_path / "predicted.h5ad")
    cells = [str(tmp_path / "predicted.h5ad"), str(tmp_path / "screen.h5ad")]
    assert main(["evaluate", *cells]) == 0
    said = capsys.readouterr()
    assert "scored: 4 perturbations in 1 cell type (type_2), the test part of " in said.out
    assert "scored:" not in said.err
    assert main(["evaluate", *cells, "--groups", "all"]) == 0
    assert "scored:" not in capsys.readouterr().out


def test_a_file_that_is_scored_in_part_is_named(screen, fewshot, tmp_path, capsys):
    screen.write_h5ad(tmp_path / "screen.h5ad")
    predict(screen, fewshot, cells=4, controls="none").write_h5ad(tmp_path / "predicted.h5ad")
    assert main(["evaluate", str(tmp_path / "predicted.h5ad"), str(tmp_path / "screen.h5ad")]) == 2
    assert "predicted.h5ad cannot be scored against screen.h5ad (1 problem)" in capsys.readouterr().err
