"""Registers the models with transformers' Auto classes, without importing transformers (and torch) before it is needed.

Each registrar runs as soon as the transformers module that it writes to has been imported: at once if it already is,
otherwise right after its first import.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def _register_configurations(module: ModuleType) -> None:
    from state_hf.configuration.state_embedding import StateEmbeddingConfig

    module.AutoConfig.register(StateEmbeddingConfig.model_type, StateEmbeddingConfig, exist_ok=True)


def _register_tokenizers(module: ModuleType) -> None:
    from state_hf.configuration.state_embedding import StateEmbeddingConfig
    from state_hf.tokenization.cell_sentence import CellSentenceTokenizer

    module.AutoTokenizer.register(StateEmbeddingConfig, slow_tokenizer_class=CellSentenceTokenizer, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    from state_hf.configuration.state_embedding import StateEmbeddingConfig
    from state_hf.modeling.state_embedding import StateEmbeddingForMaskedExpression, StateEmbeddingModel

    module.AutoModel.register(StateEmbeddingConfig, StateEmbeddingModel, exist_ok=True)
    module.AutoModelForPreTraining.register(StateEmbeddingConfig, StateEmbeddingForMaskedExpression, exist_ok=True)


def _register_pipelines(module: ModuleType) -> None:
    from transformers import AutoModel

    from state_hf.pipelines.cell_embedding import CellEmbeddingPipeline

    module.PIPELINE_REGISTRY.register_pipeline(
        "cell-embedding", pipeline_class=CellEmbeddingPipeline, pt_model=AutoModel, type="multimodal"
    )


_REGISTRARS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configurations,
    "transformers.models.auto.tokenization_auto": _register_tokenizers,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.pipelines": _register_pipelines,
}


class _RegisteringLoader(Loader):
    """Runs the wrapped loader, then the registrar."""

    def __init__(self, loader: Loader, register: Callable[[ModuleType], None]) -> None:
        self.loader = loader
        self.register = register

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


class _RegisterOnImport(MetaPathFinder):
    """Finds the four transformers modules once each and attaches their registrar to the import."""

    def __init__(self) -> None:
        self.pending = dict(_REGISTRARS)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register = self.pending.pop(fullname, None)
        if register is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, register)
        return spec


def install() -> None:
    """Register now what transformers has already imported, and the rest when it is imported."""
    finder = _RegisterOnImport()
    sys.meta_path.insert(0, finder)
    for name in list(finder.pending):
        if name in sys.modules:
            finder.pending.pop(name)(sys.modules[name])
