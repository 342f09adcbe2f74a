"""Whatever an .h5ad file holds, every reader gives a result of the right form, or an error that the command prints.

A few examples a run; `make fuzz` takes thousands.
"""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from scipy import sparse

from state_hf import (
    CellSentenceTokenizer,
    PerturbationDataset,
    StateEmbeddingConfig,
    StateEmbeddingModel,
    embed,
    evaluate_predictions,
    open_screens,
)
from state_hf.pipelines.preprocess import preprocess
from tests.fuzz.damaged_files import DAMAGES, write_damaged

# What the command line turns into one line for the user. Anything else is a defect of ours.
CLEAR = (ValueError, OSError)
GENES = [f"GENE{number}" for number in range(12)]

pytestmark = pytest.mark.filterwarnings("ignore")
fuzzed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


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
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "cells.h5ad"
    cells().write_h5ad(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def model():
    config = StateEmbeddingConfig(
        num_genes=len(GENES),
        gene_embedding_dim=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        output_dim=4,
        num_datasets=2,
        max_position_embeddings=8,
    )
    return StateEmbeddingModel(config).eval()


@fuzzed
@given(DAMAGES)
def test_embed(content, model, tmp_path, damages):
    path = write_damaged(content, damages, tmp_path)
    try:
        tokenizer = CellSentenceTokenizer(GENES, model_max_length=8)
        embedded = embed(path, model, tokenizer=tokenizer, output=tmp_path / "out.npy", overwrite=True)
    except CLEAR:
        return
    assert np.isfinite(np.load(embedded)).all()


@fuzzed
@given(DAMAGES)
def test_screens(content, tmp_path, damages):
    path = write_damaged(content, damages, tmp_path)
    for features in ("X", "layers/logged", "obsm/X_hvg"):
        try:
            screens = open_screens(path, cell_type_key="cell_type", batch_key="batch")
            sets = PerturbationDataset(screens, features=features, set_size=4)
            values = sets[0]["control"]
        except CLEAR:
            continue
        assert bool(np.isfinite(np.asarray(values)).all())


@fuzzed
@given(DAMAGES)
def test_preprocess(content, tmp_path, damages):
    path = write_damaged(content, damages, tmp_path)
    output = tmp_path / "out.h5ad"
    try:
        preprocess(path, output=output, num_variable_genes=4, overwrite=True)
    except CLEAR:
        return
    written = anndata.read_h5ad(output)
    assert np.isfinite(written.X.data if sparse.issparse(written.X) else written.X).all()


@fuzzed
@given(DAMAGES)
def test_evaluate(content, tmp_path, damages):
    path = write_damaged(content, damages, tmp_path)
    try:
        result = evaluate_predictions(path, cells(), "vcc2025", pert_col="perturbation")
    except CLEAR:
        return
    assert np.isfinite(result.aggregate["mean"].to_numpy(dtype=float)).all()


def test_the_damages_damage(content, tmp_path):
    """The file as it is passes every reader, so what the tests above refuse is due to the damage."""
    path = write_damaged(content, [], tmp_path)
    assert isinstance(h5py.File(path)["X"], h5py.Group)
    assert len(open_screens(path, cell_type_key="cell_type", batch_key="batch").perturbations) == 3
    preprocess(path, output=tmp_path / "out.h5ad", num_variable_genes=4)
    evaluate_predictions(path, cells(), "vcc2025", pert_col="perturbation")
