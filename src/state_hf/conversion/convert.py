"""From a foreign checkpoint to a model folder, in one call."""

from pathlib import Path
from typing import Any

from state_hf.conversion.arc_state.hub_checkpoint import fetch_checkpoint
from state_hf.conversion.converters import converter_of, refuse_unknown_options
from state_hf.conversion.hub import is_hub_id, refuse_hub_options
from state_hf.conversion.model_folder import MAX_SHARD_BYTES, ConvertedModel


def convert(
    source: str | Path,
    output: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    checkpoint: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    **options: Any,
) -> ConvertedModel:
    """Convert a checkpoint into a folder that `from_pretrained` loads.

    Nothing of the checkpoint is run: its pickles are read as data. Memory holds one weight at a time.

    Args:
        source: A file or folder in the format of an original, or the id of a repository on the Hub with a checkpoint of
            arc-state, of which only the files that are needed are downloaded.
        output: The folder to make.
        revision: Branch, tag or commit of a repository on the Hub.
        subfolder: Folder of the run or model within a repository on the Hub.
        checkpoint: Which of a folder's checkpoints, by its file name.
        max_shard_bytes: Most bytes of a file of weights.
        overwrite: Whether to replace a folder that exists.
        **options: The format's own. `dictionaries`: the folder with what an original keeps apart from its weights
            (vocabularies, medians, names). Of arc-state: `genes`, `unnamed_genes`, `gene_embeddings`, `perturbations`,
            `state_embedding`, `attention`, `positions`. Of Cell2Sentence: `genes`, `templates`, `labels`. See
            `state-hf convert --help`.

    Returns:
        What was written.

    Raises:
        CheckpointError: If the source is broken or incomplete, or its weights do not fit its configuration, or an
            option has no meaning for its format.
        UnsafeCheckpointError: If the source names code.
        FileExistsError: If the output exists.
        OSError: If the Hub does not have or give the repository, or cannot be reached.
        ValueError: If an option is for another kind of model of the format.
    """
    options = {name: value for name, value in options.items() if value is not None}
    fetched = None
    if not Path(source).exists() and is_hub_id(str(source)):
        fetched = fetch_checkpoint(str(source), revision=revision, subfolder=subfolder, checkpoint=checkpoint)
        source, checkpoint = fetched.folder, fetched.checkpoint
    else:
        refuse_hub_options(source, revision=revision, subfolder=subfolder)
    converter = converter_of(Path(source))
    refuse_unknown_options(converter, options)
    model = converter.plan(Path(source), checkpoint=checkpoint, **options)
    if fetched is not None:
        where = {name: getattr(fetched, name) for name in ("repository", "commit", "subfolder")}
        model.origin = {**where, **model.origin}
        model.source_folders = [fetched.root, fetched.folder]
    model.write(Path(output), overwrite=overwrite, max_shard_bytes=max_shard_bytes)
    return model


__all__ = ["convert"]
