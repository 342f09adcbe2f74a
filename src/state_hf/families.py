"""The table of model families, and the only place that lists them: what a family is made of, and where.

A row names the family's classes as `module:Class` below this package: what the Auto classes of transformers are to find
(under the Auto class' own name), under `more` what else it makes public, under `converter` what reads the original's
checkpoints, and under `pretraining` how a model learns from a corpus. A family's files share one stem: its
configuration, tokenizer, models, converter, card and page of the documentation.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing `typing` takes longer than all of this module. What type checkers and editors see:
    from typing import Any, TypeAlias

    from state_hf.configuration.cell2sentence import Cell2SentenceConfig as Cell2SentenceConfig
    from state_hf.configuration.geneformer import GeneformerConfig as GeneformerConfig
    from state_hf.configuration.perturbation_baseline import PerturbationBaselineConfig as PerturbationBaselineConfig
    from state_hf.configuration.state_embedding import StateEmbeddingConfig as StateEmbeddingConfig
    from state_hf.configuration.state_transition import StateTransitionConfig as StateTransitionConfig
    from state_hf.modeling.perturbation_baseline import PerturbationBaseline as PerturbationBaseline
    from state_hf.modeling.state_embedding import StateEmbeddingModel as StateEmbeddingModel
    from state_hf.modeling.state_embedding_classification import (
        StateEmbeddingForSequenceClassification as StateEmbeddingForSequenceClassification,
    )
    from state_hf.modeling.state_embedding_pretraining import (
        StateEmbeddingForMaskedExpression as StateEmbeddingForMaskedExpression,
    )
    from state_hf.modeling.state_transition import StateTransitionForPerturbation as StateTransitionForPerturbation
    from state_hf.modeling.state_transition import StateTransitionModel as StateTransitionModel
    from state_hf.tokenization.cell2sentence import Cell2SentenceProcessor as Cell2SentenceProcessor
    from state_hf.tokenization.geneformer import GeneformerTokenizer as GeneformerTokenizer
    from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer as StateEmbeddingTokenizer
    from state_hf.training.state_embedding_arguments import (
        StateEmbeddingTrainingArguments as StateEmbeddingTrainingArguments,
    )
    from state_hf.training.state_embedding_trainer import StateEmbeddingTrainer as StateEmbeddingTrainer
    from state_hf.training.state_transition_arguments import (
        StateTransitionTrainingArguments as StateTransitionTrainingArguments,
    )
    from state_hf.training.state_transition_trainer import StateTransitionTrainer as StateTransitionTrainer

    Row: TypeAlias = dict[str, str | tuple[str, ...]]

FAMILIES: dict[str, Row] = {
    "state_embedding": {
        "AutoConfig": "configuration.state_embedding:StateEmbeddingConfig",
        "AutoTokenizer": "tokenization.state_embedding:StateEmbeddingTokenizer",
        "AutoModel": "modeling.state_embedding:StateEmbeddingModel",
        "AutoModelForPreTraining": "modeling.state_embedding_pretraining:StateEmbeddingForMaskedExpression",
        "AutoModelForSequenceClassification": (
            "modeling.state_embedding_classification:StateEmbeddingForSequenceClassification"
        ),
        "converter": "conversion.arc_state.converter:ARC_STATE",
        "pretraining": "training.state_embedding_objective:STATE_EMBEDDING",
        "more": (
            "training.state_embedding_trainer:StateEmbeddingTrainer",
            "training.state_embedding_arguments:StateEmbeddingTrainingArguments",
        ),
    },
    "geneformer": {
        "AutoConfig": "configuration.geneformer:GeneformerConfig",
        "AutoTokenizer": "tokenization.geneformer:GeneformerTokenizer",
        "converter": "conversion.geneformer:GENEFORMER",
        "pretraining": "training.geneformer_objective:GENEFORMER_PRETRAINING",
    },
    "cell2sentence": {
        "AutoConfig": "configuration.cell2sentence:Cell2SentenceConfig",
        "AutoProcessor": "tokenization.cell2sentence:Cell2SentenceProcessor",
        "converter": "conversion.cell2sentence:CELL2SENTENCE",
    },
    "state_transition": {
        "AutoConfig": "configuration.state_transition:StateTransitionConfig",
        "AutoModel": "modeling.state_transition:StateTransitionModel",
        "AutoModelForPreTraining": "modeling.state_transition:StateTransitionForPerturbation",
        "converter": "conversion.arc_state.converter:ARC_STATE",
        "more": (
            "training.state_transition_trainer:StateTransitionTrainer",
            "training.state_transition_arguments:StateTransitionTrainingArguments",
        ),
    },
    "perturbation_baseline": {
        "AutoConfig": "configuration.perturbation_baseline:PerturbationBaselineConfig",
        "AutoModel": "modeling.perturbation_baseline:PerturbationBaseline",
    },
}

# What is no class, and not public.
_NO_CLASSES = ("converter", "pretraining")
# What a family that reads cells has one of.
READERS = ("AutoTokenizer", "AutoProcessor")

# Names that files of earlier versions may hold.
FORMER_NAMES = {"CellSentenceTokenizer": "StateEmbeddingTokenizer"}


def auto_classes(model_type: str) -> dict[str, tuple[str, str]]:
    """A family's classes for transformers: Auto class -> (module, class)."""
    row = FAMILIES[model_type]
    return {role: _place(place) for role, place in row.items() if role.startswith("Auto") and isinstance(place, str)}


def public_classes(model_type: str) -> dict[str, str]:
    """All public classes of a family: class -> module."""
    classes: dict[str, str] = {}
    for role, places in FAMILIES[model_type].items():
        if role in _NO_CLASSES:
            continue
        for place in (places,) if isinstance(places, str) else places:
            module, name = _place(place)
            classes[name] = module
    return classes


def converter_places() -> list[tuple[str, str]]:
    """(module, name) of every converter, each once, in the order of the table."""
    places = {row["converter"]: None for row in FAMILIES.values() if "converter" in row}
    return [_place(str(place)) for place in places]


def pretraining_places() -> dict[str, tuple[str, str]]:
    """(module, name) of the objective of every family that is pretrained on a corpus."""
    return {family: _place(str(row["pretraining"])) for family, row in FAMILIES.items() if "pretraining" in row}


def family_of(config: dict[str, Any], tokenizer: dict[str, Any]) -> str | None:
    """The family of a saved model, or None for one of no family.

    Args:
        config: Content of its `config.json`: a model of the family's own class names the family.
        tokenizer: Content of its `tokenizer_config.json`: on a stock model, the tokenizer does.
    """
    if config.get("model_type") in FAMILIES:
        return str(config["model_type"])
    # A processor of ours is around a stock tokenizer, which says so.
    names = [tokenizer.get("processor_class"), tokenizer.get("tokenizer_class")]
    for family, row in FAMILIES.items():
        readers = (str(row[role]).partition(":")[2] for role in READERS if role in row)
        if any(name in names for name in readers):
            return family
    return None


def config_class(model_type: str) -> Any:
    """A family's configuration class, or None for a model type that is no family's."""
    if model_type not in FAMILIES:
        return None
    import importlib

    module, name = auto_classes(model_type)["AutoConfig"]
    return getattr(importlib.import_module(module), name)


def _place(text: str) -> tuple[str, str]:
    module, _, name = text.partition(":")
    return f"state_hf.{module}", name
