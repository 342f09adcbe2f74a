"""From a screen to a model with baselines and scores, through the commands."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig

from state_hf import open_screens
from state_hf.cli import main
from state_hf.data.screens.splits import PerturbationSplit
from state_hf.inference.cell_predictor import load_perturbation_model
from tests.screen_models import lose_a_weight

SIZES = ["--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "32",
         "--set-size", "8", "--steps", "6", "--evaluate-every", "3", "--device", "cpu"]  # fmt: skip


def test_train_and_predict(screen_path, tmp_path, capsys):
    folder = tmp_path / "model"
    arguments = ["train", str(screen_path), "--test-share", "0.25", "--val-share", "0.25", "--few-shot-cell-types",
                 "type_3", "--output", str(folder), *SIZES]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "prediction of the test part" in printed
    scores = pd.read_csv(folder / "scores.csv", index_col="model")
    assert list(scores.index) == ["prediction", "state_transition", "control_copy", "context_mean", "perturbation_mean",
                                  "perturbation_profile", "perturbation_ridge", "treated_mean", "context_profile",
                                  "bilinear", "kernel_ridge", "mixed_effects"]  # fmt: skip
    assert (scores["mae"] > 0).all()
    assert np.isnan(scores["discrimination"]).all()  # one perturbation only, so there are no others
    PerturbationSplit.load(folder, open_screens(screen_path))
    assert AutoConfig.from_pretrained(folder).feature_key == "X"
    # Again is refused; going on finds nothing left to do.
    assert main(arguments) == 2
    assert "go on with it (--resume)" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0

    for model in (folder, folder / "baselines" / "perturbation_ridge"):
        output = tmp_path / "predicted.h5ad"
        words = ["predict", str(screen_path), "--model", str(model), "--output", str(output), "--cell-types", "type_3"]
        assert main([*words, "--all-perturbations", "--cells", "5", "--overwrite"]) == 0
        assert anndata.read_h5ad(output, backed="r").n_obs == 24 + 4 * 5


def relabelled(screen_path, path, **columns):
    """The screen again, in another file, with labels changed by functions of theirs."""
    adata = anndata.read_h5ad(screen_path)
    for column, change in columns.items():
        adata.obs[column] = adata.obs[column].astype(str).map(change)
    adata.obs_names = [f"{path.stem}_{name}" for name in adata.obs_names]
    adata.write_h5ad(path)
    return str(path)


NUMBERS = {"type_1": 1, "type_2": 2, "type_3": 3}


def test_labels_of_two_files_are_one(screen_path, tmp_path, capsys):
    files = [
        relabelled(
            screen_path, tmp_path / f"{kind.__name__}.h5ad", cell_type=lambda name, kind=kind: kind(NUMBERS[name])
        )
        for kind in (int, float)
    ]
    folder = tmp_path / "model"
    assert main(["train", *files, "--test-cell-types", "2", "--output", str(folder), *SIZES]) == 0
    split = PerturbationSplit.load(folder, open_screens(files))
    for mask, screen in zip(split.target_masks("train"), split.screens.screens, strict=True):
        perturbed = mask & ~screen.is_control
        assert {split.screens.cell_types[number] for number in screen.cell_types[perturbed]} == {"1", "3"}
    assert json.loads((folder / "vocabulary.json").read_text())["cell_types"] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"perturbation": lambda name: f"{name} "}, "differ in spaces only"),
        ({"perturbation": lambda name: name.capitalize()}, "differ in upper and lower case only"),
        ({"cell_type": lambda name: name.replace("_", "\uff3f")}, "differ in how they are encoded (Unicode) only"),
        ({"perturbation": lambda name: "nan" if name == "GENE0006" else name}, "stand for no label: 'nan' 60"),
    ],
)
def test_labels_that_would_leak_are_refused(screen_path, tmp_path, capsys, columns, message):
    keep = {"perturbation": lambda name: name}
    changed = {kind: (lambda name, change=change: name if name == "non-targeting" else change(name))
               for kind, change in columns.items()}  # fmt: skip
    files = [
        relabelled(screen_path, tmp_path / "first.h5ad", **keep),
        relabelled(screen_path, tmp_path / "second.h5ad", **changed),
    ]
    words = ["train", *files, "--test-share", "0.25", "--output", str(tmp_path / "model"), *SIZES]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_refitting_lets_the_mixed_model_learn_from_the_validation_cells(screen_path, tmp_path, capsys):
    words = ["train", str(screen_path), "--test-cell-types", "type_3", *SIZES]
    assert main([*words, "--output", str(tmp_path / "none"), "--refit"]) == 2
    assert "there are no validation cells to refit with; hold some out for validation" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    words += ["--val-cell-types", "type_2"]
    assert main([*words, "--output", str(tmp_path / "apart")]) == 0
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "refitted"), "--refit"]) == 0
    assert "held-out groups show" in capsys.readouterr().out
    screens = open_screens(screen_path)
    parts = [PerturbationSplit.load(tmp_path / name, screens).audit() for name in ("apart", "refitted")]
    assert [set(audit.loc[audit["perturbed_cells"] > 0, "part"]) for audit in parts] == [
        {"train", "val", "test"},
        {"train", "test"},
    ]
    tables = [load_perturbation_model(tmp_path / name).mixed_effects.effects for name in ("apart", "refitted")]
    assert not torch.equal(*tables)
    baseline = load_perturbation_model(tmp_path / "refitted" / "baselines" / "mixed_effects")
    assert torch.equal(tables[1], baseline.mixed_effects.effects)


def test_a_share_to_validate_on_beside_cell_types_to_test_on(screen_path, tmp_path):
    words = ["train", str(screen_path), "--test-cell-types", "type_3", "--val-share", "0.25", *SIZES]
    assert main([*words, "--output", str(tmp_path / "model")]) == 0
    audit = pd.read_csv(tmp_path / "model" / "split.csv", index_col=["cell_type", "part"])
    held = audit.loc[audit["perturbed_cells"] > 0, "perturbations"].to_dict()
    assert held == {("type_1", "train"): 3, ("type_1", "val"): 1, ("type_2", "train"): 3, ("type_2", "val"): 1,
                    ("type_3", "test"): 4}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--test-share 0.25 --val-cell-types type_2", "validate on perturbations, too (--val-share)"),
        ("--test-cell-types type_3 --few-shot-cell-types type_2", "say how large it is (--val-share)"),
        ("--split split.toml --val-share 0.25", "split.toml says what validates, so --val-share cannot"),
        ("--split split.toml --val-cell-types type_2", "split.toml says what validates, so --val-cell-types cannot"),
    ],
)
def test_what_cannot_be_held_out_together(screen_path, tmp_path, capsys, words, message):
    assert main(["train", str(screen_path), *words.split(), "--output", str(tmp_path / "model"), *SIZES]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_validation_context_that_leaves_only_controls_to_train_on(screen_path, tmp_path, capsys):
    two = anndata.read_h5ad(screen_path)
    two[two.obs["cell_type"] != "type_1"].copy().write_h5ad(tmp_path / "two.h5ad")
    words = ["train", str(tmp_path / "two.h5ad"), "--test-cell-types", "type_3", "--output", str(tmp_path / "model")]
    assert main([*words, "--val-cell-types", "type_2", *SIZES]) == 2
    said = capsys.readouterr().err
    assert "validate on some perturbations of 'type_2' only, so that the others train (--val-share 0.2, or" in said
    assert not (tmp_path / "model").exists()
    # The way out, word for word.
    assert main([*words, "--val-share", "0.2", *SIZES]) == 0


def test_nothing_is_held_out_in_the_end_where_nobody_says_what(screen_path, tmp_path, capsys):
    assert main(["train", str(screen_path), "--output", str(tmp_path / "all"), *SIZES]) == 0
    printed = capsys.readouterr().out
    assert "no cells are held out to test on: the cell type 'type_" in printed
    assert "held-out groups show" in printed
    assert set(PerturbationSplit.load(tmp_path / "all", open_screens(screen_path)).audit()["part"]) == {"train"}
    cells = anndata.read_h5ad(screen_path)
    cells[cells.obs["cell_type"] == "type_1"].write_h5ad(tmp_path / "one.h5ad")
    assert main(["train", str(tmp_path / "one.h5ad"), "--output", str(tmp_path / "one"), *SIZES]) == 0
    assert "no cells are held out to test on: a fifth of the perturbations shows" in capsys.readouterr().out


def test_transfer_to_a_new_screen(screen_path, tmp_path, capsys):
    words = ["train", str(screen_path), "--test-cell-types", "type_3", *SIZES]
    assert main([*words, "--output", str(tmp_path / "first")]) == 0
    scores = pd.read_csv(tmp_path / "first" / "scores.csv", index_col="model")
    assert "context_profile" not in scores.index  # nothing of type_3 trains
    words = [word for word in words if word not in SIZES] + SIZES[8:]
    words += ["--initial-model", str(tmp_path / "first")]
    assert main([*words, "--output", str(tmp_path / "wide"), "--hidden-size", "64"]) == 2
    assert "the initial model has its sizes, so hidden_size cannot be chosen" in capsys.readouterr().err
    # What the first screen said of effects is not said of the second.
    config = AutoConfig.from_pretrained(tmp_path / "first")
    config.effect_scale = 0.1
    config.save_pretrained(tmp_path / "first")
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "second"), "--lora-rank", "2"]) == 0
    assert AutoConfig.from_pretrained(tmp_path / "second").effect_scale == 0
    assert "no cells validate the network, so predictions are those of the mixed model" in capsys.readouterr().out
    lose_a_weight(tmp_path / "first", "backbone")
    assert main([*words, "--output", str(tmp_path / "third")]) == 2
    assert "is incomplete: 1 of its model's weights are missing" in capsys.readouterr().err


def test_features_of_perturbations_also_predict_one_that_never_trained(screen_path, tmp_path, capsys):
    names = open_screens(screen_path).perturbations
    features = pd.DataFrame(np.random.default_rng(0).normal(size=(len(names) + 2, 6)), index=[*names, "NEW", "LATER"])
    features.iloc[:-1].to_parquet(tmp_path / "features.parquet")
    features.to_csv(tmp_path / "more.csv")
    words = ["train", str(screen_path), "--test-share", "0.25", "--output", str(tmp_path / "model"), *SIZES]
    assert main([*words, "--perturbation-features", str(tmp_path / "features.parquet")]) == 0
    assert "nearest_perturbation" in pd.read_csv(tmp_path / "model" / "scores.csv", index_col="model").index
    assert "features say of perturbations that are left out nothing that can be seen" in capsys.readouterr().out
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.perturbation_features, config.perturbation_dim, config.num_perturbations) == ("vectors", 6, 5)
    predict = ["predict", str(screen_path), "--cells", "3", "--controls", "none", "--perturbations", names[0]]
    of_features = ("perturbation_ridge", "kernel_ridge", "bilinear", "nearest_perturbation", "mixed_effects")
    for model in (tmp_path / "model", *(tmp_path / "model" / "baselines" / name for name in of_features)):
        output = ["--model", str(model), "--output", str(tmp_path / "p.h5ad"), "--overwrite"]
        # The file of the training named it, and the model's folder keeps that.
        assert main([*predict, "NEW", *output]) == 0
        assert set(anndata.read_h5ad(tmp_path / "p.h5ad").obs["perturbation"]) == {"NEW", names[0]}
        capsys.readouterr()
        assert main([*predict, "LATER", *output]) == 2
        assert "not 'LATER'" in capsys.readouterr().err
        words = [*predict, f"LATER+{names[1]}", *output]
        assert main([*words, "--perturbation-features", str(tmp_path / "more.csv")]) == 0
        assert f"LATER+{names[1]}" in set(anndata.read_h5ad(tmp_path / "p.h5ad").obs["perturbation"])
    # What learnt names learns no others.
    words = [*predict, "NEW", "--model", str(tmp_path / "model" / "baselines" / "perturbation_mean")]
    assert main([*words, "--output", str(tmp_path / "p.h5ad"), "--overwrite"]) == 2
    assert "not 'NEW'" in capsys.readouterr().err
    # Of an earlier training nothing is left.
    words = ["train", str(screen_path), "--test-share", "0.25", "--output", str(tmp_path / "model"), *SIZES]
    assert main([*words, "--overwrite"]) == 0
    assert not (tmp_path / "model" / "perturbation_features.safetensors").exists()


def test_other_fields_and_the_metrics_of_a_profile(screen_path, tmp_path, capsys):
    words = ["train", str(screen_path), "--test-cell-types", "type_3", "--val-cell-types", "type_2", "--batch-key",
             "batch", "--config", "use_batch_encoder=true", "loss=gaussian_mmd", "dropout=0", "--output",
             str(tmp_path / "model"), "--evaluation-profile", "vcc2025", "--evaluation-cells", "60", "--best-by",
             "profile", *SIZES]  # fmt: skip
    assert main(words) == 0
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.use_batch_encoder, config.loss, config.dropout) == (True, "gaussian_mmd", 0)
    log = json.loads((tmp_path / "model" / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text())
    assert log["best_metric"] == max(e.get("eval_vcc2025_overall_score", -1) for e in log["log_history"])
    output = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "p.h5ad")]
    assert main(["predict", str(screen_path), *output]) == 2
    assert "reads the batch of each cell" in capsys.readouterr().err
    assert main(["predict", str(screen_path), *output, "--batch-key", "batch"]) == 0
    assert set(anndata.read_h5ad(tmp_path / "p.h5ad").obs["batch"]) == {"batch_1", "batch_2"}


def test_early_stopping(screen_path, tmp_path):
    words = ["train", str(screen_path), "--test-cell-types", "type_3", "--val-cell-types", "type_2", "--patience", "1",
             "--output", str(tmp_path / "model"), *SIZES, "--learning-rate", "10", "--steps", "60"]  # fmt: skip
    assert main(words) == 0
    states = sorted((tmp_path / "model" / "checkpoints").glob("*/trainer_state.json"))
    assert max(json.loads(state.read_text())["global_step"] for state in states) < 60


def test_cells_that_could_not_be_scored_are_refused_before_any_work(screen_path, tmp_path, capsys):
    screen = anndata.read_h5ad(screen_path)
    without = (screen.obs["cell_type"] == "type_3") & (screen.obs["perturbation"] == "non-targeting")
    screen[~without].write_h5ad(tmp_path / "screen.h5ad")
    folder = tmp_path / "model"
    words = ["train", str(tmp_path / "screen.h5ad"), "--output", str(folder), "--test-cell-types", "type_3", *SIZES]
    assert main(words) == 2
    assert "has no control cells ('non-targeting') of the cell type 'type_3'" in capsys.readouterr().err
    assert not folder.exists()


def test_genes_of_one_name_are_refused(screen_path, tmp_path, capsys):
    screen = anndata.read_h5ad(screen_path)
    screen.var_names = ["TWICE", "TWICE", *screen.var_names[2:]]
    screen.write_h5ad(tmp_path / "screen.h5ad")
    words = ["train", str(tmp_path / "screen.h5ad"), "--output", str(tmp_path / "m"), "--test-share", "0.5", *SIZES]
    assert main(words) == 2
    assert "screen.h5ad names 'TWICE' more than once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--test-share", "0.2", "--test-cell-types", "type_3"], "cells to test on are named in one way"),
        (["--test-cell-types", "type_3", "--control", "vehicle"], "name the label of its control cells (--control)"),
        (["--test-cell-types", "type_9"], "there is no cell type 'type_9'"),
        (["--test-cell-types", "type_3", "--control", "contrl"], "no cell labelled 'contrl'"),
        (["--test-cell-types", "type_3", "--config", "hiden_size=3"], "did you mean 'hidden_size'"),
        (["--test-cell-types", "type_3", "--config", "hidden_size=wide"], "the model's configuration"),
        (["--test-cell-types", "type_3", "--config", "dropout"], "takes FIELD=VALUE"),
        (["--test-cell-types", "type_3", "--evaluation-profile", "vcc2025"], "needs an eval_dataset"),
        (["--test-cell-types", "type_3", "--best-by", "profile"], "needs an --evaluation-profile"),
        (["--test-cell-types", "type_3", "--perturbation-features", "no.csv"], "there is no file of perturbation"),
        (["--test-cell-types", "type_3", "--patience", "2"], "needs a validation part"),
    ],
)
def test_faults(screen_path, tmp_path, capsys, words, message):
    assert main(["train", str(screen_path), "--output", str(tmp_path / "model"), *SIZES, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_training_that_is_replaced_takes_nothing_else_along(screen_path, tmp_path):
    """A split that the user wrote into the folder, and words that were added to the card, stay."""
    folder = tmp_path / "model"
    folder.mkdir()
    mine = folder / "split.toml"
    parts = '[training]\nscreen = "train"\n\n[zeroshot]\n"screen.type_3" = "test"\n'
    mine.write_text(f'[datasets]\nscreen = "{screen_path}"\n\n{parts}')
    words = ["train", "--split", str(mine), "--output", str(folder), *SIZES]
    assert main(words) == 0
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nOur notes.\n")
    (folder / "notes.txt").write_text("ours")
    text = mine.read_text()
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0
    assert mine.read_text() == text
    assert (folder / "notes.txt").read_text() == "ours"
    assert "Our notes." in card.read_text()
    assert (folder / "split.json").is_file()
