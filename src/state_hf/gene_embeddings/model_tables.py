"""Puts gene tables into models."""

from collections.abc import Sequence

import torch
from torch import nn

from state_hf.configuration.state_transition_vocabulary import StateTransitionVocabulary
from state_hf.gene_embeddings.gene_table import GeneTable
from state_hf.modeling.state_embedding import StateEmbeddingPreTrainedModel
from state_hf.modeling.state_transition import StateTransitionPreTrainedModel
from state_hf.tokenization.cell_sentence import CellSentenceTokenizer
from state_hf.tokenization.gene_names import GeneIndex


def extend_gene_table(
    model: StateEmbeddingPreTrainedModel,
    tokenizer: CellSentenceTokenizer,
    table: GeneTable,
    *,
    replace: bool = False,
) -> CellSentenceTokenizer:
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
    base, config = model.base_model, model.config
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
    extended = CellSentenceTokenizer(
        new if replace else [*tokenizer.genes, *new],
        cls_expression=tokenizer.cls_expression,
        model_max_length=tokenizer.model_max_length,
    )
    extended.gene_index = GeneIndex(extended.genes, tokenizer.gene_index.aliases)
    return extended


def set_perturbation_features(
    model: StateTransitionPreTrainedModel,
    table: GeneTable,
    perturbations: Sequence[str] | None = None,
    *,
    control: str | None = None,
) -> None:
    """Give a State Transition model that reads perturbation features those of genes.

    Perturbations that it was not trained with can then be predicted by name. The control's features are zeros.

    Args:
        model: A model with `perturbation_features="vectors"`, changed in place.
        table: Rows of the perturbed genes.
        perturbations: The perturbations of the model from now on. Default: those of its vocabulary.
        control: Which of them is the control. Default: the vocabulary's.

    Raises:
        ValueError: If the model reads ids, the widths differ, or the table lacks a gene.
    """
    config = model.config
    if config.perturbation_features != "vectors":
        raise ValueError(
            "The model learns a row for each perturbation (perturbation_features='ids'): it has no features."
        )
    if table.width != config.perturbation_dim:
        raise ValueError(
            f"The gene table has rows of width {table.width}, but the model reads {config.perturbation_dim}."
        )
    old = model.vocabulary if model.has_vocabulary else None
    if perturbations is None or control is None:
        if old is None:
            raise ValueError("The model has no vocabulary: name the perturbations and the control.")
        perturbations = old.perturbations if perturbations is None else perturbations
        control = old.control_perturbation if control is None else control
    genes = [name for name in perturbations if name != control]
    of_gene = dict(zip(genes, table.select(genes).embeddings, strict=True))
    zero = torch.zeros(table.width)
    rows = torch.stack([of_gene.get(name, zero) for name in perturbations])
    base = model.base_model
    base.perturbation_table = nn.Embedding.from_pretrained(rows.to(device=model.device, dtype=model.dtype))
    config.num_perturbations = len(rows)
    kept = (old.batches, old.cell_types, old.genes) if old is not None else ()
    model.vocabulary = StateTransitionVocabulary(list(perturbations), control, *kept)


__all__ = ["extend_gene_table", "set_perturbation_features"]
