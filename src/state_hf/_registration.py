"""Registers the models with transformers' Auto classes, without importing transformers (and torch) before it is needed.

A registration joins a module of transformers and one of ours. It is made when both have been imported, and the import
of the first brings the second.
"""

from __future__ import annotations

import importlib
import sys

from state_hf.families import FAMILIES, FORMER_NAMES, auto_classes, config_class

TYPE_CHECKING = False
if TYPE_CHECKING:  # These take longer to import than all of the package.
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    _Register = Callable[[ModuleType, ModuleType], None]


# Where transformers keeps the mapping of each kind of Auto class.
_HOSTS = {
    "AutoConfig": "transformers.models.auto.configuration_auto",
    "AutoTokenizer": "transformers.models.auto.tokenization_auto",
    "AutoProcessor": "transformers.models.auto.processing_auto",
}
_MODEL_HOST = "transformers.models.auto.modeling_auto"


def _register_family(host: ModuleType, ours: ModuleType) -> None:
    """Tell transformers' Auto classes in `host` of the classes that a module of ours has."""
    for model_type in FAMILIES:
        classes = auto_classes(model_type)
        for auto_class, (module, name) in classes.items():
            if module != ours.__name__ or not hasattr(host, auto_class):
                continue
            register, ours_class = getattr(host, auto_class).register, getattr(ours, name)
            if auto_class == "AutoConfig":
                register(model_type, ours_class, exist_ok=True)
            elif auto_class == "AutoTokenizer":
                config = config_class(model_type)
                register(config, tokenizer_class=ours_class, exist_ok=True)
                for former in (old for old, new in FORMER_NAMES.items() if new == name):
                    register(config, ours_class, slow_tokenizer_class=_former_class(former, ours_class), exist_ok=True)
            else:
                register(config_class(model_type), ours_class, exist_ok=True)


def _former_class(name: str, today: Any) -> type:
    """What transformers finds by the name that a tokenizer's class had when a checkpoint was saved: today's class."""
    return type(name, (), {"__module__": today.__module__, "from_pretrained": today.from_pretrained})


def _register_pipelines(pipelines: ModuleType, ours: ModuleType) -> None:
    from transformers import AutoModel

    pipelines.PIPELINE_REGISTRY.register_pipeline(
        "cell-embedding", pipeline_class=ours.CellEmbeddingPipeline, pt_model=AutoModel, type="multimodal"
    )


def _registrations() -> list[tuple[str, str, _Register]]:
    """(module of transformers, module of ours, what joins them), each pair once."""
    places = {
        (_HOSTS.get(auto_class, _MODEL_HOST), module): None
        for model_type in FAMILIES
        for auto_class, (module, _) in auto_classes(model_type).items()
    }
    pairs: list[tuple[str, str, _Register]] = [(host, module, _register_family) for host, module in places]
    return [*pairs, ("transformers.pipelines", "state_hf.pipelines.cell_embedding", _register_pipelines)]


_REGISTRATIONS = _registrations()


class _WatchedLoader:
    """Runs the wrapped loader between two calls of its watcher."""

    def __init__(self, loader: Loader, watcher: _RegisterOnImport) -> None:
        self.loader = loader
        self.watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        self.watcher.on_start(name)
        try:
            self.loader.exec_module(module)
        finally:
            self.watcher.on_end(name)
        self.watcher.on_complete(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _RegisterOnImport:
    """Watches the first import of every module of transformers, and of ours in `_REGISTRATIONS`.

    Our modules are imported when none of these is half imported, as they may need what it has yet to define.
    """

    def __init__(self) -> None:
        self.hosts = {host for host, _, _ in _REGISTRATIONS}
        self.ours = {ours for _, ours, _ in _REGISTRATIONS}
        self.complete: set[str] = set()
        self.registered: set[str] = set()
        self.being_found: set[str] = set()
        self.half_imported: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self.being_found or not (fullname in self.ours or fullname.startswith("transformers.")):
            return None
        self.being_found.add(fullname)
        try:
            finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
            found = (finder.find_spec(fullname, path, target) for finder in finders)
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self.being_found.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _WatchedLoader(spec.loader, self)  # type: ignore[assignment]
        return spec

    def on_start(self, name: str) -> None:
        self.half_imported.add(name)

    def on_end(self, name: str) -> None:
        self.half_imported.discard(name)

    def on_complete(self, name: str) -> None:
        if name in self.hosts or name in self.ours:
            self.complete.add(name)
        if self.half_imported:
            return
        for host, ours, register in _REGISTRATIONS:
            if host not in self.complete or ours in self.registered:
                continue
            if ours not in sys.modules:
                importlib.import_module(ours)
            if ours in self.complete and ours not in self.registered:
                self.registered.add(ours)
                register(sys.modules[host], sys.modules[ours])


def install() -> None:
    """Register now what transformers has already imported, and the rest when it is imported."""
    finder = _RegisterOnImport()
    sys.meta_path.insert(0, finder)
    for name in sorted(finder.hosts | finder.ours):
        if name in sys.modules:
            finder.on_complete(name)
