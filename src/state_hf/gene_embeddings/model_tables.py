"""Puts a gene table into a State Embedding model."""

from typing import cast

import torch
from torch import nn

from state_hf.gene_embeddings.gene_table import GeneTable
from state_hf.modeling.state_embedding import StateEmbeddingModel, StateEmbeddingPreTrainedModel
from state_hf.tokenization.gene_names import GeneIndex
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer


def extend_gene_table(
    model: StateEmbeddingPreTrainedModel,
    tokenizer: StateEmbeddingTokenizer,
    table: GeneTable,
    *,
    replace: bool = False,
) -> StateEmbeddingTokenizer:
    """Give a State Embedding model new genes, or those of another species. No other weight is touched.

    The rows must be from the protein language model that the model's own are from, made in the same way. Genes that the
    model knows already keep their row.

    Args:
        model: The model, with or without heads, changed in place.
        tokenizer: Its tokenizer, which stays as it is.
        table: The new genes.
        replace: Whether the table takes the place of the model's own, instead of being added to its end.

    Returns:
        The tokenizer of the changed model; save both into one folder.

    Raises:
        ValueError: If the widths differ, the tokenizer is not the model's, or there is nothing to add.
    """
    if not isinstance(model, StateEmbeddingPreTrainedModel):
        raise ValueError(f"a {type(model).__name__} has no gene table of protein embeddings that could take more genes")
    base = cast(StateEmbeddingModel, model.base_model)
    config = model.config
    if table.width != config.gene_embedding_dim:
        raise ValueError(
            f"The gene table has rows of width {table.width}, but the model reads {config.gene_embedding_dim}: it has "
            "to be made with the same protein language model."
        )
    if tokenizer.vocab_size != config.num_genes:
        raise ValueError(f"The tokenizer knows {tokenizer.vocab_size:,} genes, but the model {config.num_genes:,}.")
    known = set() if replace else set(tokenizer.genes)
    new = [gene for gene in table.genes if gene not in known]
    if not new:
        raise ValueError(f"The model knows all of the table's {len(table):,} genes already.")
    old = base.gene_table.weight
    rows = table.select(new).embeddings.to(old)
    embedding = nn.Embedding.from_pretrained(rows if replace else torch.cat([old.detach(), rows]))
    embedding.weight.requires_grad_(config.train_gene_table)
    base.gene_table, base.has_gene_table = embedding, True
    config.num_genes = embedding.num_embeddings
    # Forgets what was computed from the old table.
    base.train(base.training)
    extended = StateEmbeddingTokenizer(
        new if replace else [*tokenizer.genes, *new],
        cls_expression=tokenizer.cls_expression,
        fill=tokenizer.fill,
        model_max_length=tokenizer.model_max_length,
    )
    extended.gene_index = GeneIndex(extended.genes, tokenizer.gene_index.aliases)
    return extended


__all__ = ["extend_gene_table"]
