"""What the numbers of a configuration may be, whichever the model."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

# More than any model has. A model is made layer by layer before its weights are looked at, so that a damaged number
# would keep a machine busy for hours.
_MOST_LAYERS = 1000


def check_numbers(config: PreTrainedConfig, sizes: Sequence[str]) -> None:
    """Check the numbers of a configuration, each for itself.

    Args:
        config: A configuration whose fields have the right types.
        sizes: Fields that are at least 1.

    Raises:
        ValueError: A size is below 1, there are more than 1,000 layers, a dropout is not a probability below 1, an
            epsilon (`..._eps`) is not between 0 and 1, or a number is not finite. The error names the field and its
            value.
    """
    for name in sizes:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, but is {getattr(config, name)}")
        if name.endswith("_layers") and getattr(config, name) > _MOST_LAYERS:
            raise ValueError(f"{name} must be at most {_MOST_LAYERS:,}, but is {getattr(config, name):,}")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "dropout" in field.name and not 0 <= value < 1:
            raise ValueError(f"{field.name} must be at least 0 and below 1, but is {value}")
        if field.name.endswith("_eps") and not 0 < value < 1:
            raise ValueError(f"{field.name} must be between 0 and 1, but is {value}")
        if not all(map(math.isfinite, _floats(value))):
            raise ValueError(f"{field.name} must hold finite numbers, but is {value}")


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _floats(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _floats(inner)
