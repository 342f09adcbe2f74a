"""Small models of every class, and the inputs that each takes."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXForSequenceClassification,
)

from state_hf import (
    StateEmbeddingConfig,
    StateEmbeddingForMaskedExpression,
    StateEmbeddingForSequenceClassification,
    StateEmbeddingModel,
)

CELLS, TOKENS, GENES = 3, 10, 40


def state_embedding_config(**changes) -> StateEmbeddingConfig:
    sizes = {
        "num_genes": GENES,
        "gene_embedding_dim": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "output_dim": 24,
        "count_encoder_dim": 8,
        "max_position_embeddings": TOKENS,
        "num_datasets": 4,
        "hidden_dropout_prob": 0.0,
        "classifier_dropout": 0.0,
        # At the usual 0.02 so small a model hardly looks at its inputs, and no property of it could fail.
        "initializer_range": 0.3,
    }
    return StateEmbeddingConfig(**{**sizes, **changes})


def sentences(*, tokens: int = TOKENS, cells: int = CELLS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(GENES, generator=generator)[:tokens] for _ in range(cells)])
    ids[:, 0] = GENES
    expression = torch.rand(cells, tokens, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "expression": expression}


def masked_expression_targets() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "target_ids": torch.randint(0, GENES, (CELLS, 6), generator=generator),
        "labels": torch.rand(CELLS, 6, generator=generator),
        "dataset_labels": torch.tensor([0, 3, 1]),
    }


def bert_config(**changes) -> BertConfig:
    """Geneformer's model, which is a stock one."""
    sizes = {
        "vocab_size": GENES,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": TOKENS,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.3,
    }
    return BertConfig(**{**sizes, **changes})


def ranked_genes(**labels: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.stack([2 + torch.randperm(GENES - 2, generator=generator)[:TOKENS] for _ in range(CELLS)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **labels}


def neox_config(**changes) -> GPTNeoXConfig:
    """One of Cell2Sentence's models, which are any that write text."""
    sizes = {
        "vocab_size": GENES,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": TOKENS,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    return GPTNeoXConfig(**{**sizes, **changes})


MODELS = {
    "StateEmbeddingModel": (StateEmbeddingModel, state_embedding_config, sentences),
    "StateEmbeddingForMaskedExpression": (
        StateEmbeddingForMaskedExpression,
        state_embedding_config,
        lambda: {**sentences(), **masked_expression_targets()},
    ),
    "StateEmbeddingForSequenceClassification": (
        StateEmbeddingForSequenceClassification,
        lambda: state_embedding_config(num_labels=3, class_weights=[1.0, 2.0, 0.5]),
        lambda: {**sentences(), "labels": torch.tensor([2, 0, 1])},
    ),
    "BertModel": (BertModel, bert_config, ranked_genes),
    "BertForMaskedLM": (
        BertForMaskedLM,
        bert_config,
        lambda: ranked_genes(labels=torch.arange(CELLS * TOKENS).reshape(CELLS, TOKENS) % GENES),
    ),
    "BertForSequenceClassification": (
        BertForSequenceClassification,
        lambda: bert_config(num_labels=3),
        lambda: ranked_genes(labels=torch.tensor([2, 0, 1])),
    ),
    "GPTNeoXForCausalLM": (
        GPTNeoXForCausalLM,
        neox_config,
        lambda: ranked_genes(labels=torch.arange(CELLS * TOKENS).reshape(CELLS, TOKENS) % GENES),
    ),
    "GPTNeoXForSequenceClassification": (
        GPTNeoXForSequenceClassification,
        lambda: neox_config(num_labels=3),
        lambda: ranked_genes(labels=torch.tensor([2, 0, 1])),
    ),
    "BertForTokenClassification": (
        BertForTokenClassification,
        lambda: bert_config(num_labels=2),
        lambda: ranked_genes(labels=torch.arange(CELLS * TOKENS).reshape(CELLS, TOKENS) % 2),
    ),
}


@pytest.fixture(params=MODELS)
def case(request):
    """(model in evaluation mode, its inputs), for every model class."""
    model_class, config, inputs = MODELS[request.param]
    torch.manual_seed(0)
    return model_class(config()).eval(), inputs()
