"""Features of perturbations from every kind of file, and what is refused."""

import anndata
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from state_hf.data.screens.perturbation_features import (
    feature_table,
    features_of,
    kept_perturbation_features,
    read_perturbation_features,
    save_perturbation_features,
)

FEATURES = {"A": [1.0, 2.0], "B": [10.0, 20.0], "NA": [0.5, 0.25]}


@pytest.fixture(params=[".safetensors", ".parquet", ".csv", ".tsv", ".h5ad"])
def path(request, tmp_path):
    path = tmp_path / f"features{request.param}"
    table = pd.DataFrame(FEATURES, index=["x", "y"]).T
    if path.suffix == ".safetensors":
        save_file({name: np.array(values) for name, values in FEATURES.items()}, path)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".h5ad":
        anndata.AnnData(table).write_h5ad(path)
    else:
        table.to_csv(path, sep="," if path.suffix == ".csv" else "\t")
    return path


def test_every_kind_of_file(path):
    read = read_perturbation_features(path)
    assert {name: vector.tolist() for name, vector in read.items()} == FEATURES


def test_combinations_are_sums_and_the_control_is_zero():
    features = {name: np.array(values) for name, values in FEATURES.items()}
    table = feature_table(features, ["A+B", "B", "control"], control="control")
    assert table.tolist() == [[11, 22], [10, 20], [0, 0]]
    with pytest.raises(ValueError, match="1 perturbations have no features: 'AA'; did you mean 'A'"):
        feature_table({**features, "A": features["A"]}, ["AA"], control="control")


def test_features_are_found_whatever_the_spelling():
    features = {"FOO": np.ones(2), "BAR": np.full(2, 2.0), "A+B": np.full(2, 5.0), "CD3+ T": np.full(2, 7.0)}
    names = ["ctrl", "FOO+ctrl", "ctrl+BAR", "FOO+BAR", "BAR+ctrl+FOO", "B+A", "CD3+ T", "CD3+ T+FOO", "FOO+FOO"]
    table = feature_table(features, names, control="ctrl")
    assert table[:, 0].tolist() == [0, 1, 2, 3, 3, 5, 7, 8, 1]
    assert feature_table({"2": np.ones(1)}, [2, 2.0, "0", "2+0"], control=0.0).tolist() == [[1], [1], [0], [1]]
    with pytest.raises(ValueError, match="2 perturbations have no features: 'X', 'Y'; "):
        feature_table(features, ["X+ctrl", "FOO+Y", "X"], control="ctrl")


def test_names_of_features_that_are_numbers(tmp_path):
    pd.DataFrame({"x": [1.0, 2.0]}, index=[7.0, 8.0]).to_parquet(tmp_path / "f.parquet")
    assert list(read_perturbation_features(tmp_path / "f.parquet")) == ["7", "8"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.csv", "g,x\nA,1\nA,2\n", "features of 'A' twice"),
        ("f.csv", "g,x\nA,1\nB,nan\n", "feature of 'B' that is not finite"),
        ("f.csv", "g,x\nA,one\n", "no number"),
        ("f.pkl", "", "of an unknown kind"),
    ],
)
def test_what_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_perturbation_features(tmp_path / name)


def test_features_are_kept_beside_a_model_and_its_baselines(tmp_path):
    features = {"A": np.ones(2, np.float32), "B": np.zeros(2, np.float32), "A+B/é": np.arange(2, dtype=np.float64)}
    save_perturbation_features(features, tmp_path)
    (tmp_path / "baselines" / "kernel_ridge").mkdir(parents=True)
    for model in (tmp_path, tmp_path / "baselines" / "kernel_ridge"):
        kept = kept_perturbation_features(model)
        assert {name: vector.tolist() for name, vector in kept.items()} == {
            "A": [1, 1], "B": [0, 0], "A+B/é": [0, 1]
        }  # fmt: skip
    # Nothing is taken from a folder that merely lies around a model.
    (tmp_path / "one" / "two").mkdir(parents=True)
    assert kept_perturbation_features(tmp_path / "one" / "two") == {}


def test_those_that_labels_name(tmp_path):
    features = {"A": np.ones(2), "B": np.zeros(2), "C": np.zeros(2), "D+E": np.zeros(2)}
    assert set(features_of(features, ["B+A", "E+D", "ctrl", "Z"], control="ctrl")) == {"A", "B", "D+E"}
