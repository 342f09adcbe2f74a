"""An exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from state_hf.configuration.file_permissions import check_readable, follow_umask

AVERAGE_FILE = "weight_average.safetensors"


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights on the CPU; every process has to call it where they are sharded."""
    return _whole(model.state_dict())


def _whole(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).cpu().contiguous()
        for name, value in weights.items()
    }


class WeightAverage:
    """Keeps the average of the weights that are trained, which is smoother than the last step's.

    The decay starts low, as min(decay, (1 + steps) / (10 + steps)), so that the first weights are forgotten. Sharded
    weights have sharded averages.

    Args:
        model: The model.
        decay: Share of the average that stays in a step, between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of the weights' average must be from 0 to below 1, and is {decay}.")
        self.decay, self.steps = decay, 0
        self.weights = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    def _parameters(self, model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        named = dict(model.named_parameters())
        for name, average in self.weights.items():
            yield named[name].data, average

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take a step's weights in."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for value, average in self._parameters(model):
            average.lerp_(value, weight)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Let the model have the averaged weights for a while."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Give the model the averaged weights for good."""
        for value, average in self._parameters(model):
            value.copy_(average)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for value, average in self._parameters(model):
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)

    def save(self, folder: str | Path, *, is_main: bool) -> None:
        """Write the average to a checkpoint's folder; every process has to call it where weights are sharded."""
        whole = _whole(self.weights)
        if is_main:
            path = Path(folder, AVERAGE_FILE)
            save_file(whole, path, metadata={"steps": str(self.steps)})
            follow_umask(path)

    def load(self, folder: str | Path, *, steps: int) -> None:
        """Read the average of a checkpoint.

        Raises:
            FileNotFoundError: The checkpoint has none.
        """
        path = Path(folder, AVERAGE_FILE)
        check_readable(path)
        if not path.exists():
            raise FileNotFoundError(
                f"The checkpoint {folder} has no {AVERAGE_FILE}: it was trained without average_decay; go on without"
            )
        stored: dict[str, Any] = load_file(path)
        for name, value in self.weights.items():
            whole = stored[name].to(value.device)
            if isinstance(value, DTensor):
                whole = distribute_tensor(whole, value.device_mesh, value.placements)
            value.copy_(whole)
        self.steps = steps


__all__ = ["AVERAGE_FILE", "WeightAverage", "whole_weights"]
