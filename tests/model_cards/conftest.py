"""A Hub on the loopback, and models to push there."""

import huggingface_hub
import pytest
import torch
import transformers.utils.hub

from state_hf import StateEmbeddingForMaskedExpression, StateEmbeddingTokenizer
from tests.hub_server import hub_server
from tests.tiny_models import state_embedding_config, state_transition_model

GENES = [f"GENE{number}" for number in range(20)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Everything that asks for the Hub asks this server, with a token, and keeps what it gets in an empty cache."""
    constants = huggingface_hub.constants
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture
def embedding_model():
    torch.manual_seed(0)
    config = state_embedding_config(len(GENES), gene_embedding_dim=6)
    return StateEmbeddingForMaskedExpression(config).eval()


@pytest.fixture
def tokenizer():
    return StateEmbeddingTokenizer(GENES, model_max_length=8)


@pytest.fixture
def transition_model(vocabulary):
    torch.manual_seed(0)
    return state_transition_model(vocabulary).eval()
