"""Low-rank adapters (LoRA) of a backbone, added to the weights that they adapt."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.lazy_tensor import SourceTensor

_WRAPPED = "transformer_backbone.base_model.model."
_ADAPTER = re.compile(r"(.*)\.lora_([AB])(\.\w+)?\.weight")


@dataclass
class AdaptedTensor:
    """A weight plus the product of its adapter's two factors."""

    base: SourceTensor
    down: SourceTensor
    up: SourceTensor
    scale: float
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.base.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weight."""
        return self.base.dtype

    def load(self) -> torch.Tensor:
        """The sum, computed in double so that it is rounded once."""
        change = self.scale * (self.up.load().double() @ self.down.load().double())
        base = self.base.load().double()
        return (base + (change.t() if self.transposed else change)).to(self.dtype)


def has_adapters(weights: Mapping[str, Any]) -> bool:
    """Whether a backbone is wrapped by adapters."""
    return any(name.startswith(_WRAPPED) for name in weights)


def merge_adapters(
    weights: Mapping[str, SourceTensor], adapter: Mapping[str, Any], *, transposed: bool, source: str
) -> dict[str, SourceTensor]:
    """The weights of a backbone whose adapters are part of it.

    Args:
        weights: Weights by name.
        adapter: The original's `lora` arguments, of which `r` and `alpha` matter.
        transposed: Whether the backbone's weights are (in, out), as GPT-2's are.
        source: Name of the file, for messages.

    Raises:
        CheckpointError: If the scale of the adapters is not recorded, or one is incomplete.
    """
    try:
        scale = float(adapter["alpha"]) / float(adapter["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{source} has adapters (LoRA), but does not record their `r` and `alpha`.") from error
    merged: dict[str, SourceTensor] = {}
    factors: dict[str, dict[str, SourceTensor]] = {}
    for name, value in weights.items():
        short = name.replace(_WRAPPED, "transformer_backbone.", 1)
        if (found := _ADAPTER.fullmatch(short)) is not None:
            factors.setdefault(f"{found[1]}.weight", {})[found[2]] = value
        else:
            merged[short.replace(".base_layer.", ".")] = value
    for name, pair in factors.items():
        if pair.keys() != {"A", "B"} or name not in merged:
            raise CheckpointError(f"{source} is incomplete: the adapter of {name} lacks a part.")
        merged[name] = AdaptedTensor(merged[name], pair["A"], pair["B"], scale, transposed)
    return merged


__all__ = ["AdaptedTensor", "has_adapters", "merge_adapters"]
