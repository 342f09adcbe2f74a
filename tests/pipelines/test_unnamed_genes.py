"""Expression in obsm whose genes nobody named: `train` and `predict` refuse it, and what they advise works."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from state_hf import open_screens
from state_hf.cli import main
from state_hf.data.cells.open_cells import open_cells

SMALL = ["--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "32",
         "--set-size", "8", "--steps", "2", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def screen(screen_path):
    """As scanpy's users make it: the columns of the variable genes, without their names."""
    adata = anndata.read_h5ad(screen_path)
    adata.var["highly_variable"] = np.arange(adata.n_vars) % 2 == 1
    adata.obsm["X_hvg"] = adata.X[:, 1::2].toarray()
    return adata


@pytest.fixture
def run(tmp_path, capsys):
    def run_command(*words):
        in_folder = [str(tmp_path / word) if word == "model" or word.endswith(".h5ad") else word for word in words]
        return main(in_folder), capsys.readouterr().err

    return run_command


def test_they_are_refused_in_training_and_prediction_and_the_ways_out_work(screen, run, tmp_path):
    screen.write_h5ad(tmp_path / "unnamed.h5ad")
    train = ["--feature-key", "X_hvg", "--test-cell-types", "type_3", "--output", "model", *SMALL]
    status, message = run("train", "unnamed.h5ad", *train)
    assert status == 2
    assert (
        "unnamed.h5ad has 10 columns and does not say which genes they are (there is no uns['X_hvg']['var_names']); "
        "record their names; if they are the genes that var['highly_variable'] marks, which are as many, "
        "adata.uns['X_hvg'] = {'var_names': adata.var_names[adata.var['highly_variable']].to_numpy()}, or make the "
        "file anew (`state-hf preprocess`), or take all genes, which have names (--feature-key X)" in message
    )
    assert not (tmp_path / "model").exists()

    screen.uns["X_hvg"] = {"var_names": screen.var_names[screen.var["highly_variable"]].to_numpy()}
    screen.write_h5ad(tmp_path / "named.h5ad")
    assert run("train", "named.h5ad", *train)[0] == 0
    genes = [f"GENE{number:04}" for number in range(2, 21, 2)]
    assert json.loads((tmp_path / "model" / "vocabulary.json").read_text())["genes"] == genes

    predict = ["--model", "model", "--output", "predicted.h5ad", "--overwrite"]
    status, message = run("predict", "unnamed.h5ad", *predict)
    assert status == 2
    assert "or read the genes by name from a slot that has them (--feature-key X)" in message
    values = {}
    for words in (["named.h5ad"], ["unnamed.h5ad", "--feature-key", "X"]):
        assert run("predict", *words, *predict)[0] == 0
        predicted = anndata.read_h5ad(tmp_path / "predicted.h5ad")
        assert predicted.var_names.tolist() == genes
        values[words[0]] = predicted.X.toarray()
    np.testing.assert_array_equal(values["named.h5ad"], values["unnamed.h5ad"])

    # A model that names no genes, as one converted without them, takes columns as they lie.
    vocabulary = json.loads((tmp_path / "model" / "vocabulary.json").read_text())
    (tmp_path / "model" / "vocabulary.json").write_text(json.dumps({**vocabulary, "genes": []}))
    assert run("predict", "unnamed.h5ad", *predict)[0] == 0
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "predicted.h5ad").X.toarray(), values["named.h5ad"])


def test_without_marked_genes_the_names_are_asked_for(screen, run, tmp_path):
    screen.var["highly_variable"] = True
    screen.write_h5ad(tmp_path / "unnamed.h5ad")
    words = ["--feature-key", "X_hvg", "--test-cell-types", "type_3", "--output", "model", *SMALL]
    message = run("train", "unnamed.h5ad", *words)[1]
    assert "; record their names in order (adata.uns['X_hvg'] = {'var_names': [...]}), or make" in message
    # Decoded expression has to be named, too; an embedding has no names.
    screen.obsm["X_emb"] = np.random.default_rng(0).normal(size=(screen.n_obs, 4)).astype(np.float32)
    screen.write_h5ad(tmp_path / "embedded.h5ad")
    words[1] = "X_emb"
    status, message = run("train", "embedded.h5ad", *words, "--expression-slot", "obsm/X_hvg")
    assert status == 2
    assert "or take all genes, which have names (--expression-slot X)" in message
    assert run("train", "embedded.h5ad", *words)[0] == 0


def test_a_table_in_memory_names_its_columns(screen):
    names = [f"g{number}" for number in range(10)]
    screen.obsm["X_hvg"] = pd.DataFrame(screen.obsm["X_hvg"], index=screen.obs_names, columns=names)
    assert open_cells(screen).matrix("obsm/X_hvg").feature_names == names
    screen.uns["X_hvg"] = {"var_names": np.array([f"h{number}" for number in range(10)])}
    assert open_screens(screen).screens[0].cells.matrix("obsm/X_hvg").feature_names[0] == "h0"
