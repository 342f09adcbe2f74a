"""Evaluation profiles: frozen lists of metrics and settings, each a plain YAML file with a digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

_METRIC_KEYS = {"name", "function", "best", "reliability", "floor", "cap", "missing_value"}


@dataclass(frozen=True)
class Metric:
    """One metric of a profile.

    Args:
        name: The name that it has in results.
        function: The key of its function in `state_hf.metrics.catalogue.METRICS`.
        best: The best value that it can take; None where it has none (counts).
        parameters: The keyword arguments of the function.
        reliability: Whether the Spearman-Brown correction applies to it in a ceiling.
        floor: The lowest score counted, None for the profile's.
        cap: The highest score counted, None for no limit.
        missing_value: The value that is scored where the metric has none, None for the profile's rule.
    """

    name: str
    function: str
    best: float | None
    parameters: Mapping[str, Any]
    reliability: bool = False
    floor: float | None = None
    cap: float | None = None
    missing_value: float | None = None


@dataclass(frozen=True)
class Profile:
    """A frozen evaluation rule: what is computed, with which settings, and how it is scored.

    Args:
        name: The profile's name, such as `vcc2025`.
        digest: SHA-256 of its values (comments and layout of the YAML file do not count).
        metrics: The metrics, in the order of the results.
        settings: Everything else of the file, as nested read-only mappings: `expression`, `control_source`,
            `excluded_genes`, `discrimination`, `differential_expression`, `score`.
    """

    name: str
    digest: str
    metrics: tuple[Metric, ...]
    settings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Name, digest and settings as plain values, ready for JSON."""
        return {"profile": self.name, "digest": self.digest, **_thaw(self.settings)}


def profile_names() -> list[str]:
    """The names of the profiles in the package."""
    folder = files("state_hf.metrics") / "profiles"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@cache
def load_profile(name: str) -> Profile:
    """Read one of the package's profiles.

    Args:
        name: One of `profile_names()`.

    Raises:
        ValueError: If there is no such profile.
    """
    if name not in profile_names():
        raise ValueError(f"there is no evaluation profile {name!r}; the profiles are {', '.join(profile_names())}")
    text = (files("state_hf.metrics") / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    metrics = tuple(_metric(entry) for entry in values.pop("metrics"))
    return Profile(values.pop("name"), digest, metrics, _freeze(values))


def _metric(entry: dict[str, Any]) -> Metric:
    parameters = {key: value for key, value in entry.items() if key not in _METRIC_KEYS}
    fields = {key: value for key, value in entry.items() if key in _METRIC_KEYS}
    return Metric(parameters=MappingProxyType(parameters), **fields)


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    return value


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thaw(item) for key, item in value.items()}
    return value
