"""Tensors of a checkpoint that are read when they are needed, and forgotten when they have been."""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from state_hf.conversion.errors import CheckpointError

_BLOCK_BYTES = 2**26


class SourceTensor(Protocol):
    """A tensor that has yet to be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""

    def load(self) -> torch.Tensor:
        """The whole of it, contiguous."""


@dataclass
class LazyStorage:
    """Where the numbers of tensors lie: in a part of a file, or in memory.

    Args:
        source: The file, or the bytes themselves.
        name: Name of the file, for messages.
        offset: First byte.
        nbytes: Number of bytes.
    """

    source: Path | bytes
    name: str
    offset: int
    nbytes: int

    def bytes_at(self, start: int, count: int) -> torch.Tensor:
        """(count,) bytes as a tensor, mapped into memory and private: nothing is ever written back."""
        if count == 0:
            return torch.empty(0, dtype=torch.uint8)
        if isinstance(self.source, bytes):
            begin = self.offset + start
            return torch.frombuffer(bytearray(self.source[begin : begin + count]), dtype=torch.uint8)
        absolute = self.offset + start
        skipped = absolute % mmap.ALLOCATIONGRANULARITY
        with self.source.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), count + skipped, access=mmap.ACCESS_COPY, offset=absolute - skipped)
        return torch.frombuffer(mapped, dtype=torch.uint8, offset=skipped, count=count)


@dataclass
class LazyTensor:
    """A view of a storage.

    Args:
        storage: Where the numbers are.
        dtype: Their type.
        offset: First of them, in elements.
        shape: Sizes.
        stride: Steps between neighbours along each dimension, in elements.

    Raises:
        CheckpointError: If the view reaches beyond its storage, or repeats its elements.
    """

    storage: LazyStorage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.stride)
        sound = all(isinstance(n, int) and n >= 0 for n in numbers) and len(self.shape) == len(self.stride)
        if not sound or self.numel > self.storage.nbytes // self.dtype.itemsize or self._end > self.storage.nbytes:
            raise CheckpointError(
                f"{self.storage.name} is broken: a tensor of shape {self.shape} and stride {self.stride} does not fit "
                f"into its {self.storage.nbytes} bytes."
            )

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def _span(self) -> int:
        """Elements of the storage from the first to the last, included."""
        if not self.numel:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def _end(self) -> int:
        return (self.offset + self._span) * self.dtype.itemsize

    def load(self) -> torch.Tensor:
        """The tensor, contiguous."""
        size = self.dtype.itemsize
        raw = self.storage.bytes_at(self.offset * size, self._span * size)
        if raw.data_ptr() % size:  # a legacy file aligns nothing
            raw = raw.clone()
        return raw.view(self.dtype).as_strided(self.shape, self.stride).contiguous()


@dataclass
class StackedTensor:
    """Tensors of one shape as the rows of another, read a block of rows at a time."""

    rows: Sequence[SourceTensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, sizes of a row)."""
        return (len(self.rows), *self.rows[0].shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the rows."""
        return self.rows[0].dtype

    def load(self) -> torch.Tensor:
        """All rows."""
        return torch.cat(list(self.blocks()))

    def blocks(self) -> Iterator[torch.Tensor]:
        """Blocks of rows."""
        row_bytes = max(1, self.rows[0].load().nbytes)
        step = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, len(self.rows), step):
            yield torch.stack([row.load() for row in self.rows[start : start + step]])


@dataclass
class LoadedTensor:
    """A tensor that is in memory."""

    value: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""
        return self.value.dtype

    def load(self) -> torch.Tensor:
        """The tensor, contiguous."""
        return self.value.contiguous()


__all__ = ["LazyStorage", "LazyTensor", "LoadedTensor", "SourceTensor", "StackedTensor"]
