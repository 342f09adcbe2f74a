"""Checkpoints of stock transformers models, as any version of the library saved them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from state_hf.configuration.model_folders import loading_from
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.foreign_files import foreign_file
from state_hf.conversion.lazy_tensor import LazyTensor, SourceTensor
from state_hf.conversion.safetensors_file import read_weights
from state_hf.conversion.torch_file import read_pickled
from state_hf.conversion.weight_accounting import IgnoreRule, WeightAccount, account_for

# What the library writes today comes first.
_WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


@dataclass(frozen=True)
class StockCheckpoint:
    """A checkpoint of a stock model.

    Args:
        folder: Where it is.
        config: Its configuration.
        weights: Weights by name, unread.
        file: The file that the weights are in, or their index.
    """

    folder: Path
    config: PreTrainedConfig
    weights: dict[str, SourceTensor]
    file: Path

    @property
    def files(self) -> list[Path]:
        """All files with weights."""
        return [self.folder / name for name in _shards(self.file)] if "index" in self.file.name else [self.file]


def weight_file(folder: Path) -> Path | None:
    """The file in a folder that a stock model's weights are in, or their index; None if there is none."""
    return next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: It is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(foreign_file(path) or f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no object but a {type(content).__name__}.")
    return content


def open_stock_checkpoint(folder: Path) -> StockCheckpoint:
    """Open a folder with `config.json` and weights, sharded or not, in safetensors or PyTorch's own format.

    Raises:
        CheckpointError: Something of it is missing or broken.
        UnsafeCheckpointError: If its pickle names code.
    """
    read_json_object(folder / CONFIG_NAME)
    with loading_from(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    file = weight_file(folder)
    if file is None:
        raise CheckpointError(f"{folder} has no weights: none of {', '.join(_WEIGHT_FILES)}.")
    if file.name.startswith("model."):
        return StockCheckpoint(folder, config, dict(read_weights(folder)), file)
    weights: dict[str, SourceTensor] = {}
    for name in _shards(file) if file.name == WEIGHTS_INDEX_NAME else [file.name]:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is incomplete: its shard {name} is missing.")
        content = read_pickled(folder / name)
        if not isinstance(content, dict) or not all(isinstance(value, LazyTensor) for value in content.values()):
            raise CheckpointError(f"{folder / name} holds no weights of a model by name.")
        weights |= content
    return StockCheckpoint(folder, config, weights, file)


def _shards(index: Path) -> list[str]:
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} is no index of shards.")
    # A shard lies beside its index, whatever the index says.
    return sorted({Path(str(name)).name for name in places.values()})


def account_for_stock(
    checkpoint: StockCheckpoint,
    model_class: type[PreTrainedModel],
    rules: Sequence[IgnoreRule] = (),
    *,
    compare_tied: bool = True,
) -> WeightAccount:
    """Match a checkpoint's weights with those of a stock model.

    What the library saved a second time, as a decoder that is the table of input embeddings, is left out. Names that it
    gave in earlier versions are those of today, as when it loads them.

    Args:
        checkpoint: The checkpoint.
        model_class: Class of the model.
        rules: Which other weights may be ignored.
        compare_tied: Whether to make sure that second copies are copies, for which they are read.

    Raises:
        CheckpointError: If a weight is missing, has another shape, is neither used nor ignored by a rule, or is called
            a copy of another, but differs from it.
    """
    with torch.device("meta"):
        model = model_class(checkpoint.config)
    tied: dict[str, str] = model.all_tied_weights_keys
    own = model.state_dict()
    expected = {name: tuple(value.shape) for name, value in own.items() if name not in tied}
    weights, copies = _under_todays_names(checkpoint, model, own), []
    for copy, original in tied.items():
        if copy not in weights:
            continue
        if original not in weights:
            weights[original] = weights.pop(copy)
            continue
        if compare_tied and not torch.equal(weights[copy].load(), weights[original].load()):
            raise CheckpointError(
                f"{checkpoint.file}: {copy} differs from {original}, of which it is a copy in a {model_class.__name__}."
            )
        copies.append(copy)
        del weights[copy]
    account = account_for(weights, expected, rules, str(checkpoint.file))
    return WeightAccount(account.used, {**account.ignored, **({"copies of other weights": copies} if copies else {})})


def _under_todays_names(
    checkpoint: StockCheckpoint, model: PreTrainedModel, own: Mapping[str, torch.Tensor]
) -> dict[str, SourceTensor]:
    renamings = [step for step in get_model_conversion_mapping(model) if isinstance(step, WeightRenaming)]
    renamed: dict[str, SourceTensor] = {}
    for name, value in checkpoint.weights.items():
        today = name if name in own else rename_source_key(name, renamings, [], model.base_model_prefix, dict(own))[0]
        if today in renamed:
            raise CheckpointError(
                f"{checkpoint.file} holds the weight {today} under two names, of which one is {name}."
            )
        renamed[today] = value
    return renamed


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = [
    "StockCheckpoint",
    "account_for_stock",
    "file_digest",
    "open_stock_checkpoint",
    "read_json_object",
    "weight_file",
]
