"""The transformers pipeline gives what `embed` gives, as an array."""

import numpy as np
import pytest
from transformers import pipeline

import state_hf
from tests.pipelines.conftest import make_cells


def test_pipeline_embeds_objects_and_files(tiny_model, adata, h5ad):
    embedder = pipeline("cell-embedding", model=str(tiny_model), device="cpu")
    embedding = embedder(adata)
    assert embedding.shape == (90, 18)
    assert embedding.dtype == np.float32
    assert list(adata.obsm) == []
    np.testing.assert_allclose(embedder(str(h5ad), batch_size=7), embedding, atol=1e-5)
    first, second = embedder([adata, make_cells(5, seed=1)])
    np.testing.assert_allclose(first, embedding, atol=1e-5)
    assert second.shape == (5, 18)
    state_hf.embed(adata, tiny_model, device="cpu")
    np.testing.assert_allclose(adata.obsm["X_state"], embedding, atol=1e-6)


def test_parameters_of_the_pipeline_are_defaults_of_the_call(tiny_model, adata):
    adata.layers["log"] = adata.X.log1p()
    embedder = pipeline("cell-embedding", model=str(tiny_model), device="cpu", layer="log", input_type="log1p")
    plain = pipeline("cell-embedding", model=str(tiny_model), device="cpu")
    np.testing.assert_allclose(embedder(adata), plain(adata), atol=1e-5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'gene_colum'"):
        embedder(adata, gene_colum="index")
