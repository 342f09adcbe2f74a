"""Registers the models with transformers' Auto classes, without importing transformers (and torch) before it is needed.

A registration joins a module of transformers and one of ours. It is made when both have been imported, and the import
of the first brings the second.
"""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # These take longer to import than all of the package.
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    _Register = Callable[[ModuleType, ModuleType], None]


def _register_state_embedding_config(auto: ModuleType, ours: ModuleType) -> None:
    config = ours.StateEmbeddingConfig
    auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_state_transition_config(auto: ModuleType, ours: ModuleType) -> None:
    config = ours.StateTransitionConfig
    auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_baseline_config(auto: ModuleType, ours: ModuleType) -> None:
    config = ours.PerturbationBaselineConfig
    auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_tokenizers(auto: ModuleType, ours: ModuleType) -> None:
    from state_hf.configuration.state_embedding import StateEmbeddingConfig

    auto.AutoTokenizer.register(StateEmbeddingConfig, slow_tokenizer_class=ours.CellSentenceTokenizer, exist_ok=True)


def _register_state_embedding_model(auto: ModuleType, ours: ModuleType) -> None:
    auto.AutoModel.register(ours.StateEmbeddingConfig, ours.StateEmbeddingModel, exist_ok=True)


def _register_state_embedding_pretraining(auto: ModuleType, ours: ModuleType) -> None:
    auto.AutoModelForPreTraining.register(
        ours.StateEmbeddingConfig, ours.StateEmbeddingForMaskedExpression, exist_ok=True
    )


def _register_state_embedding_classifier(auto: ModuleType, ours: ModuleType) -> None:
    from state_hf.configuration.state_embedding import StateEmbeddingConfig

    auto.AutoModelForSequenceClassification.register(
        StateEmbeddingConfig, ours.StateEmbeddingForSequenceClassification, exist_ok=True
    )


def _register_state_transition_models(auto: ModuleType, ours: ModuleType) -> None:
    config = ours.StateTransitionConfig
    auto.AutoModel.register(config, ours.StateTransitionModel, exist_ok=True)
    auto.AutoModelForPreTraining.register(config, ours.StateTransitionForPerturbation, exist_ok=True)


def _register_baselines(auto: ModuleType, ours: ModuleType) -> None:
    auto.AutoModel.register(ours.PerturbationBaselineConfig, ours.PerturbationBaseline, exist_ok=True)


def _register_pipelines(pipelines: ModuleType, ours: ModuleType) -> None:
    from transformers import AutoModel

    pipelines.PIPELINE_REGISTRY.register_pipeline(
        "cell-embedding", pipeline_class=ours.CellEmbeddingPipeline, pt_model=AutoModel, type="multimodal"
    )


_REGISTRATIONS: tuple[tuple[str, str, _Register], ...] = (
    (
        "transformers.models.auto.configuration_auto",
        "state_hf.configuration.state_embedding",
        _register_state_embedding_config,
    ),
    (
        "transformers.models.auto.configuration_auto",
        "state_hf.configuration.state_transition",
        _register_state_transition_config,
    ),
    (
        "transformers.models.auto.configuration_auto",
        "state_hf.configuration.perturbation_baseline",
        _register_baseline_config,
    ),
    (
        "transformers.models.auto.tokenization_auto",
        "state_hf.tokenization.cell_sentence",
        _register_tokenizers,
    ),
    (
        "transformers.models.auto.modeling_auto",
        "state_hf.modeling.state_embedding",
        _register_state_embedding_model,
    ),
    (
        "transformers.models.auto.modeling_auto",
        "state_hf.modeling.state_embedding_pretraining",
        _register_state_embedding_pretraining,
    ),
    (
        "transformers.models.auto.modeling_auto",
        "state_hf.modeling.state_embedding_classification",
        _register_state_embedding_classifier,
    ),
    (
        "transformers.models.auto.modeling_auto",
        "state_hf.modeling.state_transition",
        _register_state_transition_models,
    ),
    (
        "transformers.models.auto.modeling_auto",
        "state_hf.modeling.baselines",
        _register_baselines,
    ),
    (
        "transformers.pipelines",
        "state_hf.pipelines.cell_embedding",
        _register_pipelines,
    ),
)


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
