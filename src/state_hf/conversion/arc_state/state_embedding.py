"""State Embedding checkpoints of arc-state become `StateEmbeddingForMaskedExpression` models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from state_hf.configuration.advice import Advised
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.conversion.arc_state.checkpoint import ArcCheckpoint, gene_rows
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.lazy_tensor import LazyTensor, SourceTensor, StackedTensor
from state_hf.conversion.model_folder import ConvertedModel
from state_hf.conversion.name_lists import read_gene_names
from state_hf.conversion.torch_file import read_pickled
from state_hf.conversion.weight_accounting import IgnoreRule, account_for, original_shapes
from state_hf.modeling.state_embedding import StateEmbeddingModel
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer

GENE_TABLE = "pe_embedding.weight"
EMBEDDINGS_FILE = "protein_embeddings.pt"
_RULES = (
    IgnoreRule(r"gene_embedding_layer\..*", "the gene encoder under its second name"),
    IgnoreRule(r"loss(_fn)?\..*", "parts of the original's loss"),
)
# Our field: names under which the original records it, as an argument of the model or in its configuration.
_DECLARED: dict[str, tuple[str, ...]] = {
    "gene_embedding_dim": ("token_dim", "tokenizer.token_dim"),
    "hidden_size": ("d_model", "emsize", "model.emsize"),
    "num_attention_heads": ("nhead", "model.nhead"),
    "intermediate_size": ("d_hid", "model.d_hid"),
    "num_hidden_layers": ("nlayers", "model.nlayers"),
    "output_dim": ("output_dim", "model.output_dim"),
    "max_position_embeddings": ("pad_length", "dataset.pad_length"),
    "hidden_dropout_prob": ("dropout", "model.dropout"),
    # One number for both in the original.
    "attention_dropout": ("dropout", "model.dropout"),
}
_NOT_IN_WEIGHTS = {"max_position_embeddings": "pad_length", "hidden_dropout_prob": "dropout"}
# The same for what weights tell: (weight, dimension).
_SHAPES = {
    "gene_embedding_dim": ("cls_token", 1),
    "hidden_size": ("encoder.0.weight", 0),
    "intermediate_size": ("transformer_encoder.layers.0.linear1.weight", 0),
    "output_dim": ("decoder.1.weight", 0),
    "num_expression_bins": ("bin_encoder.weight", 0),
    "count_encoder_dim": ("count_encoder.0.weight", 0),
    "num_datasets": ("dataset_encoder.4.weight", 0),
    "dataset_embedding_dim": ("dataset_embedder.weight", 0),
}


def convert_state_embedding(
    checkpoint: ArcCheckpoint,
    *,
    genes: Path | None = None,
    gene_embeddings: Path | None = None,
    unnamed_genes: bool = False,
    compare_tables: bool = True,
) -> ConvertedModel:
    """Make a model of a State Embedding checkpoint.

    Args:
        checkpoint: The checkpoint.
        genes: File with the names of the gene table's rows, where the checkpoint has none.
        gene_embeddings: File with the gene table, {gene: vector}, where the checkpoint has none.
        unnamed_genes: Whether to go without names, and so without a tokenizer.
        compare_tables: Whether to compare two gene tables, where there are two, which reads both.

    Raises:
        CheckpointError: If something is missing, or does not fit.
    """
    weights = dict(checkpoint.weights)
    if "count_encoder.0.weight" not in weights:
        raise CheckpointError(
            f"{checkpoint.path} has no expression encoder (`count_encoder`), which every model needs."
        )
    rows, origin = _gene_rows(checkpoint, gene_embeddings)
    notes = []
    if GENE_TABLE not in weights:
        if rows is None:
            raise CheckpointError(
                Advised(
                    f"{checkpoint.path} has no gene table, neither `{GENE_TABLE}` nor `protein_embeds_dict`, and there "
                    f"is no {EMBEDDINGS_FILE} in {checkpoint.folder}",
                    "give its file (gene_embeddings=...)",
                )
            )
        weights[GENE_TABLE] = StackedTensor(list(rows.values()))
        notes.append(f"The gene table is from {origin}.")
    elif rows is not None and compare_tables:
        _check_same_table(weights[GENE_TABLE], rows, checkpoint, origin)
    table = weights[GENE_TABLE]
    names = _gene_names(checkpoint, rows, genes, table.shape[0], unnamed=unnamed_genes)
    config = _config(checkpoint, weights)
    heads = any(name.startswith("binary_decoder.") for name in weights)
    model_class = StateEmbeddingForMaskedExpression if heads else StateEmbeddingModel
    if not heads:
        notes.append("The checkpoint has no expression decoder, so the model embeds cells and decodes nothing.")
    declared = declared_sizes(checkpoint)
    for field, theirs in _NOT_IN_WEIGHTS.items():
        if field not in declared:
            notes.append(f"The checkpoint does not say its {theirs}: {field} is {getattr(config, field)}, our default.")
    if not config.use_dataset_token:
        notes.append("The checkpoint has no dataset token: embeddings are the cell embedding alone.")
    tokenizer = None
    if names is not None:
        tokenizer = StateEmbeddingTokenizer(
            names, cls_expression=config.cls_expression, model_max_length=config.max_position_embeddings
        )
    account = account_for(weights, original_shapes(model_class, config), _RULES, str(checkpoint.path))
    return ConvertedModel(model_class, config, account, tokenizer=tokenizer, notes=notes)


def _gene_rows(checkpoint: ArcCheckpoint, gene_embeddings: Path | None) -> tuple[dict[str, LazyTensor] | None, str]:
    if gene_embeddings is not None:
        return gene_rows(read_pickled(gene_embeddings), str(gene_embeddings)), str(gene_embeddings)
    if checkpoint.gene_embeddings is not None:
        return checkpoint.gene_embeddings, "the checkpoint's protein_embeds_dict"
    beside = checkpoint.folder / EMBEDDINGS_FILE
    if beside.is_file():
        return gene_rows(read_pickled(beside), str(beside)), EMBEDDINGS_FILE
    return None, ""


def _check_same_table(table: SourceTensor, rows: dict[str, LazyTensor], checkpoint: ArcCheckpoint, origin: str) -> None:
    stacked = StackedTensor(list(rows.values()))
    same = tuple(table.shape) == stacked.shape
    if same:
        whole = table.load()
        start = 0
        for block in stacked.blocks():
            same = same and torch.equal(whole[start : start + len(block)], block.to(whole.dtype))
            start += len(block)
    if not same:
        raise CheckpointError(
            Advised(
                f"The gene table of {checkpoint.path} ({GENE_TABLE}) is not that of {origin}, so its rows cannot be "
                "named after it",
                "give a file with their names (genes=...), and move the other table away",
            )
        )


def _gene_names(
    checkpoint: ArcCheckpoint,
    rows: dict[str, LazyTensor] | None,
    genes: Path | None,
    count: int,
    *,
    unnamed: bool,
) -> list[str] | None:
    if genes is not None:
        return read_gene_names(genes, count)
    if rows is not None:
        return list(rows)
    listed = checkpoint.folder / "genes.txt"
    if listed.is_file():
        return read_gene_names(listed, count)
    if unnamed:
        return None
    raise CheckpointError(
        Advised(
            f"{checkpoint.path} does not name the {count} genes of its table",
            "give a file with their names in order, one a line, or an .h5ad (genes=...)",
            "go without a tokenizer (unnamed_genes=True)",
        )
    )


def _config(checkpoint: ArcCheckpoint, weights: Mapping[str, SourceTensor]) -> StateEmbeddingConfig:
    fields: dict[str, Any] = {}
    for name, (weight, dimension) in _SHAPES.items():
        if weight in weights:
            fields[name] = weights[weight].shape[dimension]
    layers = {name.split(".")[2] for name in weights if name.startswith("transformer_encoder.layers.")}
    fields.update(
        num_genes=weights[GENE_TABLE].shape[0],
        num_hidden_layers=len(layers),
        use_dataset_token="dataset_token" in weights,
        # What the original's trained weights have seen.
        cls_expression="gene_3",
    )
    fields.update(declared_sizes(checkpoint))
    if "num_attention_heads" not in fields:
        raise CheckpointError(
            f"{checkpoint.path} does not say how many attention heads it has (`nhead`), and weights cannot tell: put "
            f"its config.yaml into {checkpoint.folder}."
        )
    if "binary_decoder.0.dense.weight" in weights:
        width = weights["binary_decoder.0.dense.weight"].shape[0]
        known = fields["hidden_size"] + fields["output_dim"]
        known += fields.get("dataset_embedding_dim", 0) if fields["use_dataset_token"] else 0
        fields["use_read_depth"] = width == known + 1
    return StateEmbeddingConfig(**fields)


def declared_sizes(checkpoint: ArcCheckpoint) -> dict[str, Any]:
    """What a checkpoint's arguments and configuration say of the model, under our names."""
    declared: dict[str, Any] = {}
    for field, names in _DECLARED.items():
        sources = (checkpoint.hyper_parameters, checkpoint.config)
        values = (_looked_up(source, name) for name in (field, *names) for source in sources)
        value = next((value for value in values if isinstance(value, int | float)), None)
        if value is not None:
            declared[field] = float(value) if field.endswith(("_prob", "_dropout")) else int(value)
    return declared


def _looked_up(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


__all__ = ["EMBEDDINGS_FILE", "GENE_TABLE", "convert_state_embedding", "declared_sizes"]
