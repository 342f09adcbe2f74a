"""Finds the checkpoint to go on from, and loads its weights."""

import json
import re
from pathlib import Path

from transformers import PreTrainedModel

_STATE = "trainer_state.json"


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


def load_weights(model: PreTrainedModel, checkpoint: str) -> None:
    """Load by the model's own way: its files may have the original's parameter names, which Trainer would not find."""
    model.load_state_dict(type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict())


def _is_complete(checkpoint: Path) -> bool:
    state = checkpoint / _STATE
    if not state.exists():
        return False
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


__all__ = ["last_complete_checkpoint", "load_weights"]
