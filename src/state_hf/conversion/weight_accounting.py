"""Checks that every weight of a source is used or ignored by a rule, and that every weight of the model is filled."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.lazy_tensor import SourceTensor

_COMPILED = re.compile(r"(^|\.)_orig_mod(?=\.)")


@dataclass(frozen=True)
class IgnoreRule:
    """Weights that a converted model has no use for, and why.

    Args:
        pattern: Regular expression that the whole name of such a weight matches.
        reason: What they are.
    """

    pattern: str
    reason: str


@dataclass(frozen=True)
class WeightAccount:
    """What becomes of the weights of a source.

    Args:
        used: Weights of the model by name.
        ignored: Names of the source's other weights, by the reason why they are ignored.
    """

    used: dict[str, SourceTensor]
    ignored: dict[str, list[str]]


def original_shapes(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights, under the original's names."""
    with torch.device("meta"):
        model = model_class(config)
    weights = revert_weight_conversion(model, model.state_dict())
    prefix = f"{model_class.base_model_prefix}."
    return {name.removeprefix(prefix): tuple(value.shape) for name, value in weights.items()}


def without_compiled_prefixes(weights: Mapping[str, SourceTensor], source: str) -> dict[str, SourceTensor]:
    """Weights under the names that they had before `torch.compile` wrapped their modules.

    Raises:
        CheckpointError: If two have the same name then.
    """
    renamed: dict[str, SourceTensor] = {}
    for name, value in weights.items():
        short = _COMPILED.sub("", name).removeprefix(".")
        if short in renamed:
            raise CheckpointError(f"{source} holds the weight {short} twice, compiled and not.")
        renamed[short] = value
    return renamed


def account_for(
    weights: Mapping[str, SourceTensor],
    expected: Mapping[str, tuple[int, ...]],
    rules: Sequence[IgnoreRule],
    source: str,
) -> WeightAccount:
    """Match a source's weights with those of the model.

    Args:
        weights: The source's weights by name.
        expected: Shapes of the model's weights by name.
        rules: Which weights may be ignored. A rule does not touch what the model has a use for.
        source: Name of the file, for messages.

    Raises:
        CheckpointError: If a weight is missing, has another shape, or is neither used nor ignored by a rule.
    """
    ignored: dict[str, list[str]] = {}
    surplus = []
    for name in weights:
        if name in expected:
            continue
        reason = next((rule.reason for rule in rules if re.fullmatch(rule.pattern, name)), None)
        if reason is None:
            surplus.append(name)
        else:
            ignored.setdefault(reason, []).append(name)
    missing = [f"{name} {_text(shape)}" for name, shape in expected.items() if name not in weights]
    wrong = [
        f"{name} is {_text(weights[name].shape)} and not {_text(shape)}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != tuple(shape)
    ]
    problems = [
        f"{len(names)} {what}: {_listed(names)}"
        for what, names in (
            ("of the model's weights are missing", missing),
            ("weights do not have the shape that the configuration says", wrong),
            ("weights have no place in the model", surplus),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit its configuration. " + "; ".join(problems) + ".")
    return WeightAccount({name: weights[name] for name in expected}, ignored)


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


__all__ = ["IgnoreRule", "WeightAccount", "account_for", "original_shapes", "without_compiled_prefixes"]
