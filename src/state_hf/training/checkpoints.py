"""Finds the checkpoint to go on from, and loads its weights."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from transformers import PreTrainedModel

from state_hf.configuration.advice import Advised
from state_hf.configuration.file_permissions import weights_follow_umask
from state_hf.data.screens.perturbation_features import FEATURES_FILE

CHECKPOINTS = "checkpoints"
"""Folder of a training's checkpoints, in the folder of its model."""

_STATE = "trainer_state.json"
_GATHERED_OPTIMIZER = "optimizer.bin"


class ReadableCheckpointsMixin:
    """For a Trainer: the weights of checkpoints follow the umask, whichever library saves the model."""

    args: Any

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        weights_follow_umask(output_dir or str(self.args.output_dir))


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint of a training's folder that was written to its end; None if there is none.

    Trainer writes the state last, so a checkpoint without it was interrupted.
    """
    found = [(int(match[1]), path) for path in Path(folder).glob("checkpoint-*")
             if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))]  # fmt: skip
    for _, path in sorted(found, reverse=True):
        if _is_complete(path):
            return str(path)
    return None


def start_of_training(folder: Path, *, resume: bool, overwrite: bool) -> str | None:
    """Decide how a training in a folder begins, before any work.

    Args:
        folder: The folder; a training keeps its checkpoints in `checkpoints` in it.
        resume: Whether to go on from the last complete checkpoint.
        overwrite: Whether to start anew in the place of another training.

    Returns:
        The checkpoint to go on from; None to start.

    Raises:
        FileExistsError: The folder holds a training, and neither is wanted.
        ValueError: Both are.
    """
    if resume and overwrite:
        raise ValueError("a training either goes on (resume) or starts anew (overwrite)")
    checkpoint = last_complete_checkpoint(folder / CHECKPOINTS)
    if resume:
        return checkpoint
    if not overwrite and ((folder / "config.json").exists() or checkpoint is not None):
        raise FileExistsError(
            Advised(
                f"{folder} exists already, and holds a training",
                "choose another name",
                "go on with it (resume=True)",
                "replace it (overwrite=True)",
            )
        )
    return None


def clear_training(folder: Path) -> None:
    """Take an earlier training out of a folder: its checkpoints, and what was saved of its models.

    What else lies there stays, as a `split.toml`, and the card, to which somebody may have added.
    """
    for name in (CHECKPOINTS, "baselines"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in (
        "config.json", "model*.safetensors*", FEATURES_FILE, "scores.csv", "vocabulary.json", "split.json", "split.csv",
    ):  # fmt: skip
        for path in folder.glob(pattern):
            path.unlink()


def load_weights(model: PreTrainedModel, checkpoint: str) -> None:
    """Load by the model's own way: its files may have the original's parameter names, which Trainer would not find."""
    model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())


def has_gathered_optimizer(checkpoint: str) -> bool:
    """Whether FSDP processes put the state of their optimizer together in this checkpoint."""
    return Path(checkpoint, _GATHERED_OPTIMIZER).exists()


def load_gathered_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, checkpoint: str
) -> None:
    """Load the state that FSDP processes put together, which is by the names of parameters, without FSDP."""

    def load(name: str) -> Any:
        # The form that Trainer and Accelerate write it in; tensors and numbers alone are read.
        return torch.load(Path(checkpoint, name), map_location="cpu", weights_only=True)  # noqa: TID251

    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimizer, load(_GATHERED_OPTIMIZER), options=options)
    schedule.load_state_dict(load("scheduler.pt"))


def _is_complete(checkpoint: Path) -> bool:
    state = checkpoint / _STATE
    if not state.exists():
        return False
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


__all__ = [
    "ReadableCheckpointsMixin",
    "has_gathered_optimizer",
    "last_complete_checkpoint",
    "load_gathered_optimizer",
    "load_weights",
]
