"""What the examples run on: a tiny model of a dozen cell states, proteins, and a Hub on the loopback."""

import numpy as np
import pytest

from state_hf import StateEmbeddingForMaskedExpression
from tests.gene_embeddings.conftest import esm_folder, fair_esm
from tests.model_cards.conftest import hub
from tests.tiny_models import save_state_embedding

__all__ = ["esm_folder", "fair_esm", "hub"]

GENES = [f"GENE{number}" for number in range(40)]


@pytest.fixture(scope="session")
def embedding_folder(tmp_path_factory):
    return save_state_embedding(
        tmp_path_factory.mktemp("se"),
        GENES,
        model_class=StateEmbeddingForMaskedExpression,
        gene_embedding_dim=16,
        hidden_size=16,
        intermediate_size=16,
        output_dim=8,
        max_position_embeddings=32,
        initializer_range=0.3,
    )


@pytest.fixture
def cells():
    """Counts of two types of cells: each expresses its own half of the genes, and a little of the other."""
    import anndata

    generator = np.random.default_rng(0)
    types = np.repeat([0, 1], 30)
    rates = np.where((np.arange(len(GENES)) < 20)[None, :] == (types == 0)[:, None], 8.0, 0.2)
    made = anndata.AnnData(generator.poisson(rates).astype(np.float32))
    made.var_names, made.obs_names = GENES, [f"cell{number}" for number in range(len(types))]
    made.obs["cell_type"] = np.array(["B cell", "T cell"])[types]
    return made
