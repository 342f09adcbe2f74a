"""From a model folder of ours back to a checkpoint that arc-state 0.11.1 loads, so that nobody is locked in."""

from pathlib import Path

import torch
from transformers import AutoConfig

from state_hf.configuration.advice import refuse_existing
from state_hf.configuration.model_folders import loading_from
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.conversion.arc_state.state_embedding_to_arc import state_embedding_checkpoint
from state_hf.conversion.arc_state.state_transition_to_arc import state_transition_checkpoint, write_run_files
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.model_folder import folder_written_whole, read_conversion_record
from state_hf.conversion.safetensors_file import read_weights
from state_hf.data.whole_files import written_whole

_PREFIXES = ("state_embedding.", "state_transition.")


def convert_to_arc(source: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write a model as a checkpoint of arc-state.

    The model is held in memory while it is written.

    Args:
        source: A model folder: converted, or trained here.
        output: For a State Embedding model the `.ckpt` to write, for a State Transition model the folder of the run.
        overwrite: Whether to replace what exists.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If arc-state has no such model, or the folder is incomplete.
        FileExistsError: If the output exists.
    """
    source, output = Path(source), Path(output)
    if not (source / "config.json").is_file():
        raise CheckpointError(f"{source} is not a model folder: it has no config.json.")
    with loading_from(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    record = read_conversion_record(source).get("original") or {}
    weights = {}
    for name, tensor in read_weights(source).items():
        short = name
        for prefix in _PREFIXES:
            short = short.removeprefix(prefix)
        weights[short] = tensor.load()
    if isinstance(config, StateEmbeddingConfig):
        if output.suffix != ".ckpt":
            raise ValueError(
                f"A State Embedding model becomes one file: give it a name that ends in .ckpt, not {output}."
            )
        refuse_existing(output, overwrite=overwrite)
        checkpoint = state_embedding_checkpoint(config, weights, record, source)
        output.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(output) as temporary:
            torch.save(checkpoint, temporary)
        return output
    if not isinstance(config, StateTransitionConfig):
        raise CheckpointError(f"{source} is a {config.model_type} model, which arc-state does not have.")
    with folder_written_whole(output, overwrite=overwrite) as unfinished:
        checkpoint = state_transition_checkpoint(config, weights, record, source)
        (unfinished / "checkpoints").mkdir()
        write_run_files(config, checkpoint["hyper_parameters"], record, source, unfinished)
        torch.save(checkpoint, unfinished / "checkpoints" / "final.ckpt")
    return output / "checkpoints" / "final.ckpt"


__all__ = ["convert_to_arc"]
