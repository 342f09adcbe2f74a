"""Reads safetensors lazily, and writes them one tensor at a time, so that memory holds one tensor and not a model."""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from state_hf.configuration.file_permissions import check_readable
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.foreign_files import foreign_file
from state_hf.conversion.lazy_tensor import SourceTensor, StackedTensor
from state_hf.data.whole_files import written_whole

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass
class StoredTensor:
    """A tensor of a safetensors file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def load(self) -> torch.Tensor:
        """Read it."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.name)


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, unread.

    Raises:
        CheckpointError: If it is truncated or no safetensors file.
        PermissionError: If it may not be read.
    """
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {
                name: StoredTensor(path, name, tuple(part.get_shape()), _DTYPES[part.get_dtype()])
                for name, part in parts.items()
            }
    except SafetensorError as error:
        raise CheckpointError(foreign_file(path) or f"{path} is broken: {error}.") from error
    except KeyError as error:
        raise CheckpointError(f"{path} holds tensors of the type {error.args[0]}, which no model here has.") from error


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a model folder by name, unread: of `model.safetensors`, or of its shards.

    Raises:
        CheckpointError: If there are none, or a shard is missing.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return read_safetensors(folder / SAFE_WEIGHTS_NAME)
    if not index.is_file():
        raise CheckpointError(f"{folder} has no weights: neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}.")
    try:
        shards = sorted({str(Path(shard)) for shard in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}.") from error
    if not shards:
        raise CheckpointError(f"{index} names no shards.")
    weights: dict[str, StoredTensor] = {}
    for shard in shards:
        if not (folder / Path(shard).name).is_file():
            raise CheckpointError(f"{folder} is incomplete: its shard {shard} is missing.")
        weights.update(read_safetensors(folder / Path(shard).name))
    return weights


def write_weights(weights: Mapping[str, SourceTensor], folder: Path, *, max_shard_bytes: int) -> list[Path]:
    """Write a model's weights as `model.safetensors` or, if there are too many bytes, as shards with an index.

    Args:
        weights: Tensors by name. They are read one after another.
        folder: Where the files go; it exists.
        max_shard_bytes: Most bytes of a shard, unless a single tensor has more.

    Returns:
        The files.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(weights):
        size = _nbytes(weights[name])
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    total = sum(map(_nbytes, weights.values()))
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [SAFE_WEIGHTS_NAME]
    progress = logging.tqdm(total=total, unit="B", unit_scale=True, desc="Writing weights", disable=total < 2**28)
    with progress:
        for file, shard in zip(names, shards, strict=True):
            with written_whole(folder / file) as temporary:
                _write_file({name: weights[name] for name in shard}, temporary, progress)
    paths = [folder / name for name in names]
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: file for file, shard in zip(names, shards, strict=True) for name in shard},
        }
        paths.append(folder / SAFE_WEIGHTS_INDEX_NAME)
        paths[-1].write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return paths


def _nbytes(tensor: SourceTensor) -> int:
    size = tensor.dtype.itemsize
    for length in tensor.shape:
        size *= length
    return size


def _write_file(tensors: Mapping[str, SourceTensor], path: Path, progress: Any) -> None:
    # The format: the header's length, the header (names, types, shapes, places), and the numbers.
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # As safetensors' own writer does: wide types first, so that each begins where its type may.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in order:
        start, end = end, end + _nbytes(tensors[name])
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _NAMES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            for block in _blocks(tensors[name]):
                file.write(block.contiguous().flatten().view(torch.uint8).numpy().data)
                progress.update(block.nbytes)


def _blocks(tensor: SourceTensor) -> Iterator[torch.Tensor]:
    if isinstance(tensor, StackedTensor):
        yield from tensor.blocks()
    else:
        yield tensor.load()


__all__ = ["StoredTensor", "read_safetensors", "read_weights", "write_weights"]
