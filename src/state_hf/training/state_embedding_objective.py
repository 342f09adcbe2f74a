"""State Embedding's pretraining: masked expression, with learnt or given gene embeddings, and classes of datasets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import logging

from state_hf.configuration.file_permissions import check_readable
from state_hf.configuration.model_folders import loading_from, refuse_missing_weights
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.data.corpus.corpus_files import corpus_genes
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer
from state_hf.training.dataset_classes import extend_datasets
from state_hf.training.state_embedding_arguments import StateEmbeddingTrainingArguments
from state_hf.training.state_embedding_trainer import StateEmbeddingTrainer

logger = logging.get_logger(__name__)


class _StateEmbeddingObjective:
    """See `PretrainingObjective`."""

    arguments = StateEmbeddingTrainingArguments
    epochs = 16.0

    def continued(
        self, model: str | Path, tokenizer: StateEmbeddingTokenizer, files: Sequence[CorpusFile]
    ) -> StateEmbeddingForMaskedExpression:
        with loading_from(model):
            loaded, info = StateEmbeddingForMaskedExpression.from_pretrained(str(model), output_loading_info=True)
        # The heads of an embedding model are new; the rest of it is what training goes on with.
        body = {name for name in info["missing_keys"] if name.startswith(f"{loaded.base_model_prefix}.")}
        refuse_missing_weights(model, body)
        return _with_datasets(loaded, files)

    def started(
        self,
        tokenizer: StateEmbeddingTokenizer | None,
        files: Sequence[CorpusFile],
        *,
        genes: str | Path | None,
        gene_embeddings: str | Path | None,
        config: Mapping[str, Any],
    ) -> tuple[StateEmbeddingForMaskedExpression, StateEmbeddingTokenizer]:
        if tokenizer is None:
            tokenizer = _tokenizer(files, genes, config)
        elif genes is not None:
            raise ValueError("The tokenizer has its genes: give no genes beside it.")
        return _with_datasets(_new_model(tokenizer, files, gene_embeddings, dict(config)), files), tokenizer

    def trainer(
        self, model: Any, args: Any, *, tokenizer: StateEmbeddingTokenizer, **options: Any
    ) -> StateEmbeddingTrainer:
        return StateEmbeddingTrainer(model, args, tokenizer=tokenizer, **options)


def _with_datasets(
    model: StateEmbeddingForMaskedExpression, files: Sequence[CorpusFile]
) -> StateEmbeddingForMaskedExpression:
    if model.config.use_dataset_token:
        new = extend_datasets(model, [file.dataset for file in files])
        if new:
            logger.info(f"the model has {len(new)} new datasets, {new[0]!r} among them")
    return model


def _tokenizer(
    files: Sequence[CorpusFile], genes: str | Path | None, config: Mapping[str, Any]
) -> StateEmbeddingTokenizer:
    names: Any = str(genes) if genes is not None else corpus_genes(files)
    options = {"model_max_length": config.get("max_position_embeddings", 2048)}
    return StateEmbeddingTokenizer(names, fill="none", cls_expression=config.get("cls_expression", "zero"), **options)


def _new_model(
    tokenizer: StateEmbeddingTokenizer,
    files: Sequence[CorpusFile],
    gene_embeddings: str | Path | None,
    config: dict[str, Any],
) -> StateEmbeddingForMaskedExpression:
    # Not by default: with a token, the decoder learns of the cell by its dataset embedding too, which is not
    # normalised, and cell types lie closer together in the cell embedding.
    fields: dict[str, Any] = {"use_dataset_token": False, "train_gene_table": gene_embeddings is None, **config}
    fields["num_genes"] = tokenizer.vocab_size
    if fields["use_dataset_token"]:
        names = list(dict.fromkeys(file.dataset for file in files))
        classes = {name: number for number, name in enumerate(names)}
        fields |= {"num_datasets": len(names), "dataset_classes": classes}
    table = None
    if gene_embeddings is not None:
        check_readable(gene_embeddings)
        tensors = load_file(str(gene_embeddings))
        table = tensors.get("gene_embeddings")
        if table is None or table.dim() != 2 or len(table) != tokenizer.vocab_size:
            found = {name: tuple(value.shape) for name, value in tensors.items()}
            raise ValueError(
                f"{gene_embeddings} has no tensor 'gene_embeddings' of {tokenizer.vocab_size:,} rows; it has {found}"
            )
        fields["gene_embedding_dim"] = table.shape[1]
    model = StateEmbeddingForMaskedExpression(StateEmbeddingConfig(**fields))
    if table is not None:
        with torch.no_grad():
            model.state_embedding.gene_table.weight.copy_(table)
    return model


STATE_EMBEDDING = _StateEmbeddingObjective()

__all__ = ["STATE_EMBEDDING"]
