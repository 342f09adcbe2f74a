"""Every command gives of a file with antibodies and guides what it gives of the genes alone."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from state_hf import StateEmbeddingModel, StateEmbeddingTokenizer, generate_screen
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.data.corpus.corpus_report import check_corpus
from state_hf.pipelines.embed import embed
from state_hf.pipelines.evaluate import evaluate_predictions
from state_hf.pipelines.preprocess import preprocess
from state_hf.pipelines.tokenize import tokenize
from state_hf.tokenization.gene_names import resolve_genes
from tests.tiny_models import state_embedding_config


@pytest.fixture(scope="module")
def genes():
    """A screen of genes."""
    screen = generate_screen(
        num_cell_types=2, num_perturbations=3, num_genes=40, cells_per_perturbation=12, controls=20
    )
    screen.var["feature_types"] = "Gene Expression"
    return screen


@pytest.fixture(scope="module")
def mixed(genes):
    """The same with an antibody that has the name of a gene to come, and the guides that tell the perturbation."""
    guides = pd.get_dummies(genes.obs["perturbation"]).to_numpy(dtype=np.float32) * 500
    antibodies = np.full((genes.n_obs, 1), 5000, dtype=np.float32)
    var = pd.DataFrame(
        {"feature_types": ["Antibody Capture"] + ["Gene Expression"] * 40 + ["CRISPR Guide Capture"] * 4},
        index=["CD14", *genes.var_names, *(f"sg_{label}" for label in genes.obs["perturbation"].cat.categories)],
    )
    counts = sparse.hstack([antibodies, genes.X, guides], format="csr", dtype=np.float32)
    return anndata.AnnData(counts, obs=genes.obs, var=var)


@pytest.fixture
def files(genes, mixed, tmp_path):
    """Both as files."""
    paths = {"genes": tmp_path / "genes.h5ad", "mixed": tmp_path / "mixed.h5ad"}
    genes.write_h5ad(paths["genes"])
    mixed.write_h5ad(paths["mixed"])
    return paths


@pytest.fixture(scope="module")
def tokenizer(genes):
    return StateEmbeddingTokenizer([*genes.var_names, "CD14"], model_max_length=24, fill="none")


def test_preprocess(files, tmp_path):
    written = {}
    for name, path in files.items():
        preprocess(path, output=tmp_path / f"{name}_out.h5ad", num_variable_genes=10)
        written[name] = anndata.read_h5ad(tmp_path / f"{name}_out.h5ad")
    one, other = written["genes"], written["mixed"]
    assert one.uns["preprocess"]["target_sum"] == other.uns["preprocess"]["target_sum"]
    assert list(one.uns["X_hvg"]["var_names"]) == list(other.uns["X_hvg"]["var_names"])
    assert list(one.var_names) == list(other.var_names)
    assert (one.X != other.X).nnz == 0


def test_sentences(genes, mixed, tokenizer):
    expected, found = tokenizer.encode_cells(genes), tokenizer.encode_cells(mixed)
    assert (expected["input_ids"] == found["input_ids"]).all()
    assert (expected["expression"] == found["expression"]).all()
    report = resolve_genes(mixed.var, tokenizer)
    assert report.other_features == {"Antibody Capture": 1, "CRISPR Guide Capture": 4}
    assert "40 of 40 genes are in" in str(report)
    assert (tokenizer.encode_cells(mixed.X, report)["input_ids"] == expected["input_ids"]).all()


def test_embed(files, tokenizer, tmp_path):
    model = StateEmbeddingModel(state_embedding_config(41, max_position_embeddings=24))
    embedded = [
        np.load(embed(path, model, tokenizer=tokenizer, output=tmp_path / f"{name}.npy"))
        for name, path in files.items()
    ]
    np.testing.assert_allclose(embedded[0], embedded[1], rtol=1e-5, atol=1e-6)


def test_corpus(files, tokenizer, tmp_path):
    manifest = [CorpusFile(str(path), "d") for path in files.values()]
    table = check_corpus(manifest, tokenizer)
    assert table["problem"].tolist() == ["", ""]
    assert table["genes"].tolist() == table["kept"].tolist() == [40, 40]
    assert table["duplicate_cells"].tolist() == [0, files_cells(files)]
    one, other = tokenize(manifest, tmp_path / "tokens", tokenizer)
    columns = ["gene_ids", "values"]
    pd.testing.assert_frame_equal(pd.read_parquet(one)[columns], pd.read_parquet(other)[columns])


def files_cells(files) -> int:
    return anndata.read_h5ad(files["genes"], backed="r").n_obs


@pytest.mark.parametrize("backed", [True, False])
def test_evaluate(files, mixed, genes, backed):
    sides = (files["mixed"], files["genes"]) if backed else (mixed, genes)
    result = evaluate_predictions(*sides, perturbation_key="perturbation")
    assert result.to_dict()["mae"] == pytest.approx(0.0, abs=1e-6)
