"""Whatever an .h5ad file holds, every reader gives a result of the right form, or an error that the command prints.

A few examples a run; `make fuzz` takes thousands.
"""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from scipy import sparse

from state_hf import (
    CellCorpus,
    PerturbationDataset,
    PerturbationVocabulary,
    StateEmbeddingModel,
    StateEmbeddingTokenizer,
    embed,
    evaluate_predictions,
    open_screens,
    predict,
)
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.pipelines.preprocess import preprocess
from tests.fuzz.cases import fuzzed, one_case
from tests.fuzz.damaged_files import DAMAGES, write_damaged
from tests.tiny_models import state_embedding_config, state_transition_model

GENES = [f"GENE{number}" for number in range(12)]

pytestmark = pytest.mark.filterwarnings("ignore")


def cells() -> AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (24, len(GENES))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(["non-targeting", "GENE1", "GENE2"] * 8),
            "cell_type": ["T", "B"] * 12,
            "batch": [1, 2, 3] * 8,
        },
        index=[f"cell{number}" for number in range(24)],
    )
    adata = AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame({"symbol": GENES}, index=GENES))
    adata.layers["logged"] = np.log1p(counts)
    adata.obsm["X_hvg"] = np.log1p(counts[:, :5])
    adata.uns["X_hvg"] = {"var_names": GENES[:5]}
    return adata


@pytest.fixture(scope="module")
def whole(folder) -> Path:
    """The file as it should be."""
    path = folder / "whole.h5ad"
    cells().write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def model():
    return StateEmbeddingModel(state_embedding_config(len(GENES))).eval()


@pytest.fixture(scope="module")
def perturbation_model(whole):
    screens = open_screens(whole)
    return state_transition_model(
        PerturbationVocabulary(screens.perturbations, screens.control, screens.batches, screens.cell_types, GENES)
    )


def embed_cells(path, model):
    tokenizer = StateEmbeddingTokenizer(GENES, model_max_length=8)
    embedded = embed(path, model, tokenizer=tokenizer, output=path.with_name("out.npy"), overwrite=True)
    assert np.isfinite(np.load(embedded)).all()


def read_screen(path, features):
    screens = open_screens(path, cell_type_key="cell_type", batch_key="batch")
    sets = PerturbationDataset(screens, features=features, set_size=4)
    assert np.isfinite(np.asarray(sets[0]["control"])).all()


def prepare(path):
    preprocess(path, output=path.with_name("out.h5ad"), num_variable_genes=4, overwrite=True)
    written = anndata.read_h5ad(path.with_name("out.h5ad"))
    assert np.isfinite(written.X.data if sparse.issparse(written.X) else written.X).all()


def evaluate_cells(path):
    result = evaluate_predictions(path, cells(), "vcc2025")
    assert np.isfinite(result.aggregate["mean"].to_numpy(dtype=float)).all()


def predict_cells(path, model):
    predicted = predict(path, model, "all", cells=3, feature_key="layers/logged")
    assert np.isfinite(predicted.X.data).all()


def read_corpus(path):
    tokenizer = StateEmbeddingTokenizer(GENES, model_max_length=8)
    corpus = CellCorpus([CorpusFile(str(path), "one")], tokenizer, lanes=2)
    for batch in corpus.__getitems__(range(16)):
        encoded = tokenizer.encode_cells(batch.counts, batch.source.genes, input_type="counts")
        assert np.isfinite(encoded["expression"].numpy()).all()


@fuzzed
@given(damages=DAMAGES)
def test_embed(whole, model, damages):
    path = write_damaged(whole, damages)
    with one_case(path.name):
        embed_cells(path, model)


@fuzzed
@given(damages=DAMAGES)
def test_screens(whole, damages):
    path = write_damaged(whole, damages)
    for features in ("X", "layers/logged", "obsm/X_hvg"):
        with one_case(path.name):
            read_screen(path, features)


@fuzzed
@given(damages=DAMAGES)
def test_preprocess(whole, damages):
    path = write_damaged(whole, damages)
    with one_case(path.name):
        prepare(path)


@fuzzed
@given(damages=DAMAGES)
def test_evaluate(whole, damages):
    path = write_damaged(whole, damages)
    with one_case(path.name):
        evaluate_cells(path)


@fuzzed
@given(damages=DAMAGES)
def test_predict(whole, perturbation_model, damages):
    path = write_damaged(whole, damages)
    with one_case(path.name):
        predict_cells(path, perturbation_model)


@fuzzed
@given(damages=DAMAGES)
def test_corpus(whole, damages):
    path = write_damaged(whole, damages)
    with one_case(path.name):
        read_corpus(path)


def test_the_damages_damage(whole, model, perturbation_model):
    """The file as it is passes every reader, so what the tests above refuse is due to the damage."""
    path = write_damaged(whole, [])
    embed_cells(path, model)
    read_screen(path, "X")
    prepare(path)
    evaluate_cells(path)
    predict_cells(path, perturbation_model)
    read_corpus(path)
