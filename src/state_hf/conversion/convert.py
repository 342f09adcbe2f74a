"""From a checkpoint of arc-state to a model folder, in one call."""

from pathlib import Path
from typing import Any

from state_hf.conversion.arc_checkpoint import ArcCheckpoint, open_arc_checkpoint
from state_hf.conversion.attention_mode import Attention, Positions
from state_hf.conversion.hub_checkpoint import HubCheckpoint, fetch_checkpoint, is_hub_id, refuse_hub_options
from state_hf.conversion.model_folder import MAX_SHARD_BYTES, ConvertedModel
from state_hf.conversion.state_embedding import GENE_TABLE, convert_state_embedding
from state_hf.conversion.state_transition import convert_state_transition


def convert(
    source: str | Path,
    output: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    checkpoint: str | None = None,
    genes: str | Path | None = None,
    gene_embeddings: str | Path | None = None,
    perturbations: str | Path | None = None,
    state_embedding: str | Path | None = None,
    unnamed_genes: bool = False,
    attention: Attention | None = None,
    positions: Positions | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> ConvertedModel:
    """Convert a checkpoint of arc-state into a folder that `from_pretrained` loads.

    Nothing of the checkpoint is run: its pickles are read as data. Memory holds one weight at a time.

    Args:
        source: A `.ckpt` or `.safetensors` file, the folder of a run or model, or the id of a repository on the Hub, of
            which only the files that are needed are downloaded.
        output: The folder to make.
        revision: Branch, tag or commit of a repository on the Hub.
        subfolder: Folder of the run or model within a repository on the Hub.
        checkpoint: Which of a folder's checkpoints, by its file name.
        genes: Names of genes in order (one a line, or an `.h5ad`), where the source has none.
        gene_embeddings: Gene table of a State Embedding model, {gene: vector}, where the source has none.
        perturbations: Names of perturbations in order, one a line, where the source has none.
        state_embedding: State Embedding model (checkpoint, folder, or repository on the Hub) whose decoder a State
            Transition model reuses, for one that does (`finetune_vci_decoder`).
        unnamed_genes: Whether to go without names of genes.
        attention: Attention of a State Transition model; by default that in which arc-state 0.11.1 loads it.
        positions: Positions of a State Transition model; by default likewise.
        max_shard_bytes: Most bytes of a file of weights.
        overwrite: Whether to replace a folder that exists.

    Returns:
        What was written.

    Raises:
        CheckpointError: If the source is broken or incomplete, or its weights do not fit its configuration.
        UnsafeCheckpointError: If the source names code.
        FileExistsError: If the output exists.
        OSError: If the Hub does not have or give the repository, or cannot be reached.
        ValueError: If an option is for the other family.
    """
    fetched = None
    if not Path(source).exists() and is_hub_id(str(source)):
        fetched = fetch_checkpoint(str(source), revision=revision, subfolder=subfolder, checkpoint=checkpoint)
        source, checkpoint = fetched.folder, fetched.checkpoint
    else:
        refuse_hub_options(source, revision=revision, subfolder=subfolder)
    opened = open_arc_checkpoint(Path(source), checkpoint=checkpoint)
    if opened.kind == "state_embedding":
        _refuse(
            opened,
            attention=attention,
            positions=positions,
            perturbations=perturbations,
            state_embedding=state_embedding,
        )
        model = convert_state_embedding(
            opened, genes=_path(genes), gene_embeddings=_path(gene_embeddings), unnamed_genes=unnamed_genes
        )
    else:
        _refuse(opened, gene_embeddings=gene_embeddings)
        model = convert_state_transition(
            opened,
            genes=_path(genes),
            perturbations=_path(perturbations),
            state_embedding=state_embedding,
            unnamed_genes=unnamed_genes,
            attention=attention,
            positions=positions,
        )
    model.origin = _origin(opened, fetched)
    folders = [opened.folder] if fetched is None else [fetched.root, fetched.folder]
    model.write(Path(output), source_folders=folders, overwrite=overwrite, max_shard_bytes=max_shard_bytes)
    return model


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)


def _refuse(opened: ArcCheckpoint, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            kind = opened.kind.replace("_", " ")
            raise ValueError(f"{opened.path} is a {kind} model, for which --{name.replace('_', '-')} has no meaning.")


def _origin(opened: ArcCheckpoint, fetched: HubCheckpoint | None) -> dict[str, Any]:
    """What the record keeps of the source: also what converting back needs."""
    found = {} if fetched is None else {name: getattr(fetched, name) for name in ("repository", "commit", "subfolder")}
    return {
        "file": opened.path.name,
        **found,
        "framework_version": opened.version,
        "global_step": opened.global_step,
        "has_gene_table": GENE_TABLE in opened.weights,
        "hyper_parameters": opened.hyper_parameters,
        "config": opened.config,
    }


__all__ = ["convert"]
