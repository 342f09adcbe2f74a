"""A gene decoder that reuses a State Embedding model: what a run lacks of that model is taken from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers.utils import CONFIG_NAME

from state_hf.configuration.advice import Advised
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.conversion.arc_state.checkpoint import ArcCheckpoint, open_arc_checkpoint
from state_hf.conversion.arc_state.hub_checkpoint import fetch_checkpoint
from state_hf.conversion.arc_state.state_embedding import GENE_TABLE, convert_state_embedding
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.hub import is_hub_id
from state_hf.conversion.lazy_tensor import LoadedTensor, SourceTensor
from state_hf.conversion.safetensors_file import read_weights

_OURS, _THEIRS = "gene_decoder.gene_table.weight", "gene_decoder.finetune.model."
_LEARNED = "gene_decoder.missing_table.weight"


@dataclass(frozen=True)
class _GeneEncoder:
    """What a State Embedding model knows of genes, and how it encodes them."""

    config: StateEmbeddingConfig
    genes: list[str]
    weights: dict[str, Any]


def reuses_state_embedding(weights: dict[str, Any]) -> bool:
    """Whether genes are decoded by a State Embedding model (the original's `finetune_vci_decoder`)."""
    return any(name.startswith(_THEIRS) for name in weights)


def num_decoded_genes(weights: dict[str, SourceTensor], checkpoint: ArcCheckpoint) -> int:
    """Genes that such a decoder predicts.

    Raises:
        CheckpointError: If the decoder has another form than that of arc-state 0.11.1.
    """
    last = weights.get("gene_decoder.latent_decoder.8.weight")
    if last is None:
        raise CheckpointError(
            f"{checkpoint.path} has no gene_decoder.latent_decoder.8.weight, which its decoder needs."
        )
    return last.shape[0]


def add_state_embedding_decoder(
    weights: dict[str, SourceTensor], genes: list[str], checkpoint: ArcCheckpoint, source: str | Path | None
) -> dict[str, Any]:
    """Give the decoder the embeddings of its genes, which it does not keep among its weights.

    Args:
        weights: The run's weights, to which the embeddings are added.
        genes: Names of the genes that the run predicts, in order.
        checkpoint: The run's checkpoint.
        source: The State Embedding model whose decoder it reuses: a checkpoint, a folder, or a repository on the Hub.

    Returns:
        The decoder's fields of a `StateTransitionConfig`.

    Raises:
        CheckpointError: If the model is missing, or is another one.
    """
    if source is None:
        raise CheckpointError(
            Advised(
                f"{checkpoint.path} decodes genes by a State Embedding model, and does not keep their embeddings "
                "(finetune_vci_decoder)",
                "give that model, a checkpoint, folder or hub id (state_embedding=...)",
            )
        )
    known = _read(source)
    for name in ("encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"):
        theirs = weights.get(_THEIRS + name)
        if theirs is None or not torch.equal(theirs.load().float(), known.weights[name].load().float()):
            raise CheckpointError(
                f"{checkpoint.path} was trained with another State Embedding model than {source}: {name} differs."
            )
    row = {gene: number for number, gene in enumerate(known.genes)}
    learned = [position for position, gene in enumerate(genes) if gene not in row]
    recorded = weights[_LEARNED].shape[0] if _LEARNED in weights else 0
    if len(learned) != recorded:
        raise CheckpointError(
            f"{source} does not know {len(learned)} of the {len(genes)} genes that {checkpoint.path} predicts, which "
            f"has learned encodings of {recorded}: the names, or the State Embedding model, are not those of the run."
        )
    table = known.weights[GENE_TABLE].load()
    rows = torch.stack([table[row[gene]] if gene in row else torch.zeros_like(table[0]) for gene in genes])
    weights[_OURS] = LoadedTensor(rows)
    widths = [weights[f"gene_decoder.latent_decoder.{layer}.weight"].shape[0] for layer in (0, 4)]
    return {
        "gene_decoder": "state_embedding",
        "gene_dim": len(genes),
        "gene_decoder_hidden_sizes": widths,
        "gene_decoder_learned_genes": learned,
        "state_embedding_config": known.config,
    }


def _read(source: str | Path) -> _GeneEncoder:
    path, checkpoint = Path(source), None
    if not path.exists() and is_hub_id(str(source)):
        fetched = fetch_checkpoint(str(source))
        path, checkpoint = fetched.folder, fetched.checkpoint
    config = path / CONFIG_NAME
    if config.is_file() and f'"{StateEmbeddingConfig.model_type}"' in config.read_text(encoding="utf-8"):
        names = path / "genes.txt"
        weights = {name.removeprefix("state_embedding."): tensor for name, tensor in read_weights(path).items()}
        if not names.is_file() or GENE_TABLE not in weights:
            raise CheckpointError(f"{source} has no genes.txt or no gene table, so the genes' embeddings are unknown.")
        listed = names.read_text(encoding="utf-8").split()
        return _GeneEncoder(StateEmbeddingConfig.from_pretrained(path), listed, weights)
    opened = open_arc_checkpoint(path, checkpoint=checkpoint)
    if opened.kind != "state_embedding":
        raise CheckpointError(f"state_embedding={str(source)!r} is a State Transition, not a State Embedding model.")
    model = convert_state_embedding(opened, compare_tables=False)
    genes = [] if model.tokenizer is None else list(model.tokenizer.genes)
    return _GeneEncoder(cast(StateEmbeddingConfig, model.config), genes, dict(model.account.used))


__all__ = ["add_state_embedding_decoder", "num_decoded_genes", "reuses_state_embedding"]
