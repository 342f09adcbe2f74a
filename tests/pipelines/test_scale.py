"""Scale and total of expression, from preprocess through train to predict."""

import json
import re

import anndata
import numpy as np
import pytest

from state_hf import generate_screen
from state_hf.cli import main

SIZES = "--hidden-size 16 --num-hidden-layers 1 --num-attention-heads 2 --intermediate-size 16"
STEPS = "--steps 2 --set-size 8 --evaluate-every 2 --device cpu --test-cell-types type_2"
SMALL = (SIZES + " " + STEPS).split(" ")
NAMES = ("shallow", "deep", "scaled", "own", "deep_own", "deep_same", "same")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Counts, and what preprocess makes of them: to their own medians, and to one total."""
    folder = tmp_path_factory.mktemp("files")
    sizes = {"num_cell_types": 2, "num_perturbations": 3, "num_genes": 60, "cells_per_perturbation": 12}
    shallow, deep = (generate_screen(depth=depth, controls=24, **sizes) for depth in (2000, 8000))
    deep.obs_names = "deep" + deep.obs_names
    scaled = shallow.copy()
    scaled.X = np.log1p(scaled.X.toarray()) - 1
    for name, adata in {"shallow": shallow, "deep": deep, "scaled": scaled}.items():
        adata.write_h5ad(folder / f"{name}.h5ad")
    (folder / "genes.txt").write_text("\n".join(shallow.var_names[:20]))
    for name, source, *more in (
        ("own", "shallow", "--keep-counts"),
        ("deep_own", "deep"),
        ("deep_same", "deep", "--target-sum", "2000"),
        ("same", "shallow", "--target-sum", "2000"),
    ):
        wanted = ["--genes", str(folder / "genes.txt"), "--output", str(folder / f"{name}.h5ad"), *more]
        assert main(["preprocess", str(folder / f"{source}.h5ad"), *wanted]) == 0
    return folder


@pytest.fixture
def run(files, capsys):
    """Runs a command on files by their names; gives its exit status and its messages."""

    def run_command(*arguments):
        status = main([str(files / f"{text}.h5ad") if text in NAMES else str(text) for text in arguments])
        return status, capsys.readouterr().err

    return run_command


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    assert main(["train", str(files / "same.h5ad"), "--output", str(folder), *SMALL]) == 0
    return folder


def recorded(files, name) -> float:
    return float(anndata.read_h5ad(files / f"{name}.h5ad").uns["preprocess"]["target_sum"])


def target_sum(folder) -> float | None:
    return json.loads((folder / "config.json").read_text())["target_sum"]


def test_training_keeps_the_total_of_its_cells(model):
    folders = [model, *(model / "baselines").iterdir()]
    assert [target_sum(folder) for folder in folders] == [2000.0] * len(folders)


@pytest.mark.parametrize(
    ("name", "more", "found"),
    [
        ("shallow", (), "X of .*shallow.h5ad is read as log1p, but holds counts: all values are whole numbers"),
        ("scaled", (), "X of .*scaled.h5ad is read as log1p, but holds neither counts nor log1p.* negative"),
        ("own", ("--feature-key", "layers/counts"), "layers/counts of .*own.h5ad is read as log1p, but holds counts"),
        ("own", ("--config", "feature_scale=counts"), "X of .*own.h5ad is read as counts, but holds log1p values"),
    ],
)
def test_training_refuses_other_scales(run, tmp_path, name, more, found):
    status, message = run("train", name, "--output", tmp_path / "model", *SMALL, *more)
    assert status == 2
    assert re.search(found, message)
    assert "--feature-key" in message
    assert "feature_scale in its configuration (--config)" in message
    assert ("state-hf preprocess" in message) == ("read as log1p" in message)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("name", "scale"), [("shallow", "counts"), ("scaled", "embedding")])
def test_what_a_model_reads_can_be_said(run, tmp_path, name, scale):
    folder = tmp_path / "model"
    assert run("train", name, "--output", folder, *SMALL, "--config", f"feature_scale={scale}")[0] == 0
    assert target_sum(folder) is None
    assert run("predict", name, "--model", folder, "--output", tmp_path / "p.h5ad")[0] == 0


@pytest.mark.parametrize("feature_key", ["X", "X_hvg"])
def test_training_refuses_files_of_two_totals(run, files, tmp_path, feature_key):
    options = ("--output", tmp_path / "model", *SMALL, "--feature-key", feature_key)
    status, message = run("train", "own", "deep_own", *options)
    assert status == 2
    assert f"own.h5ad is normalised to {recorded(files, 'own'):,g} counts a cell" in message
    assert f"deep_own.h5ad to {recorded(files, 'deep_own'):,g}" in message
    assert f"(`state-hf preprocess --target-sum {recorded(files, 'own'):g}`)" in message
    if feature_key == "X":
        assert run("train", "same", "deep_same", *options)[0] == 0


def test_a_total_that_is_said_has_to_be_the_files(run, tmp_path):
    options = ("--output", tmp_path / "model", *SMALL, "--target-sum")
    status, message = run("train", "same", *options, "10000")
    assert status == 2
    assert "--target-sum 10000.0 says that cells were normalised to 10,000 counts" in message
    assert "same.h5ad is normalised to 2,000" in message
    assert run("train", "same", *options, "2000")[0] == 0


def test_a_trained_model_goes_on_with_its_total(run, model, tmp_path):
    options = ("--output", tmp_path / "m", "--initial-model", model, *STEPS.split(" "))
    status, message = run("train", "deep_own", *options)
    assert status == 2
    assert "the initial model was trained on cells normalised to 2,000 counts, and X of" in message
    assert "--target-sum 2000" in message
    assert run("train", "deep_same", *options)[0] == 0
    assert target_sum(tmp_path / "m") == 2000.0


def test_prediction_refuses_another_total(run, model, tmp_path):
    output = ("--output", tmp_path / "p.h5ad")
    for folder in (model, model / "baselines" / "perturbation_mean"):
        status, message = run("predict", "deep_own", "--model", folder, *output)
        assert status == 2
        assert "the model was trained on cells normalised to 2,000 counts, and X of" in message
        assert "(`state-hf preprocess --target-sum 2000`)" in message
    assert run("predict", "deep_same", "--model", model, *output)[0] == 0
    assert anndata.read_h5ad(tmp_path / "p.h5ad").uns["prediction"]["target_sum"] == 2000.0


@pytest.mark.parametrize("name", ["shallow", "scaled"])
def test_prediction_refuses_what_training_refuses(run, model, tmp_path, name):
    status, message = run("predict", name, "--model", model, "--output", tmp_path / "p.h5ad")
    assert status == 2
    assert f"{name}.h5ad is read as log1p, but holds" in message
    assert "--feature-key" in message
    assert not list(tmp_path.iterdir())


def test_counts_are_drawn_from_counts(run, model, tmp_path):
    options = ("--model", model, "--emit", "counts", "--output", tmp_path / "p.h5ad", "--counts-slot", "X")
    status, message = run("predict", "same", *options)
    assert status == 2
    assert "X of" in message
    assert "is read as counts, but holds log1p values" in message
    assert "--counts-slot" in message


@pytest.mark.parametrize("scale", ["log1p", "scaled"])
def test_embeddings_name_the_slot_and_the_option(tiny_model, adata, tmp_path, capsys, scale):
    counts = adata.X.toarray()
    adata.layers["other"] = np.log1p(counts) if scale == "log1p" else counts - 1
    adata.obs["cell_type"] = "a"
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    common = ["--model", str(tiny_model), "--layer", "other"]
    for command in (
        ["embed", str(path), "--output", str(tmp_path / "e.npy")],
        ["annotate", str(path), "--reference", str(path), "--output", str(tmp_path / "a.csv")],
    ):
        assert main([*command, *common]) == 2
        message = capsys.readouterr().err
        assert f"layers/other of {path}: The values are " in message
        assert "--layer" in message
        assert ("--input-type log1p" in message) == (scale == "log1p")
    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]


@pytest.mark.parametrize("scale", ["log1p", "scaled"])
def test_corpora_name_the_file_and_the_column_of_the_manifest(tiny_model, adata, tmp_path, capsys, scale):
    adata.X = np.log1p(adata.X.toarray()) if scale == "log1p" else adata.X.toarray() - 1
    adata.write_h5ad(tmp_path / "cells.h5ad")
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("path,dataset\ncells.h5ad,d\n")
    for command in (
        ["corpus", str(manifest), "--model", str(tiny_model)],
        ["tokenize", str(manifest), "--model", str(tiny_model), "--output", str(tmp_path / "tokens")],
    ):
        assert main(command) != 0
        printed = " ".join(capsys.readouterr())
        assert "cells.h5ad" in printed
        assert "column `layer`" in printed
        assert ("write log1p into the column `scale` of the manifest" in printed.lower()) == (scale == "log1p")
