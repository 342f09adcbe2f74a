"""The smallest models that do all that large ones do, for every test that needs one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from state_hf import (
    PerturbationVocabulary,
    StateEmbeddingConfig,
    StateEmbeddingModel,
    StateEmbeddingTokenizer,
    StateTransitionConfig,
    StateTransitionForPerturbation,
)

GENES = [f"GENE{number}" for number in range(60)]


def state_embedding_config(genes: int = len(GENES), **changes) -> StateEmbeddingConfig:
    """Sizes of a State Embedding model; what a test looks at, it says."""
    sizes = {
        "gene_embedding_dim": 8,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "output_dim": 4,
        "count_encoder_dim": 4,
        "num_datasets": 2,
        "max_position_embeddings": 8,
    }
    return StateEmbeddingConfig(num_genes=genes, **{**sizes, **changes})


def save_state_embedding(
    folder: Path,
    genes: Sequence[str] = GENES,
    *,
    model_class: type[PreTrainedModel] = StateEmbeddingModel,
    **changes,
) -> Path:
    """A folder with a model, the same each time, and its tokenizer."""
    torch.manual_seed(0)
    config = state_embedding_config(len(genes), **changes)
    model_class(config).save_pretrained(folder)
    StateEmbeddingTokenizer(list(genes), model_max_length=config.max_position_embeddings).save_pretrained(folder)
    return folder


def state_transition_model(vocabulary: PerturbationVocabulary, **changes) -> StateTransitionForPerturbation:
    """A State Transition model for the names of a screen."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"input_dim": len(vocabulary.genes), "perturbation_dim": len(vocabulary.perturbations)}
    config = StateTransitionConfig(**{"feature_key": "X", "cell_set_length": 8, **sizes, **changes})
    model = StateTransitionForPerturbation(config)
    model.vocabulary = vocabulary
    return model
