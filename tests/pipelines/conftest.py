"""A tiny model whose embedding differs from cell to cell, and cells for it."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from tests.tiny_models import GENES, save_state_embedding


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model of 60 genes and sentences of 24 tokens."""
    return save_state_embedding(
        tmp_path_factory.mktemp("tiny_model"),
        hidden_size=16,
        num_hidden_layers=2,
        output_dim=8,
        max_position_embeddings=24,
        initializer_range=0.2,
    )


def make_cells(num_cells: int, seed: int = 0) -> anndata.AnnData:
    """Cells that express 0 to 40 of 55 genes: all but 5 of the model's, and 2 that it does not know."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3.0, size=(num_cells, 55)) * (rng.random((num_cells, 55)) < rng.random((num_cells, 1)) * 0.7)
    adata = anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.var_names = [*GENES[:53], "UNKNOWN1", "UNKNOWN2"]
    adata.obs_names = [f"cell{number}" for number in range(num_cells)]
    return adata


@pytest.fixture
def adata() -> anndata.AnnData:
    return make_cells(90)


@pytest.fixture
def h5ad(adata: anndata.AnnData, tmp_path: Path) -> Path:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few cells, so that a small file has many."""
    monkeypatch.setattr("state_hf.inference.embedding_task._BLOCK_BYTES", 2**13)
