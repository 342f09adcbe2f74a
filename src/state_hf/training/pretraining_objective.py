"""How a family is pretrained on a corpus of cells: what the table's `pretraining` names."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoTokenizer

from state_hf.configuration.model_folders import loading_from
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.families import FAMILIES, family_of, pretraining_places
from state_hf.training.corpus_arguments import CorpusTrainingArguments
from state_hf.training.corpus_trainer import CorpusTrainer


class PretrainingObjective(Protocol):
    """What pretraining asks of a family.

    Attributes:
        arguments: Class of the training's arguments, with the fields of the objective.
        epochs: Passes over the cells by default.
    """

    arguments: type[CorpusTrainingArguments]
    epochs: float

    def continued(self, model: str | Path, tokenizer: Any, files: Sequence[CorpusFile]) -> Any:
        """A model to go on with, which learns from these files.

        Raises:
            ValueError: Weights of its body are missing.
        """

    def started(
        self,
        tokenizer: Any,
        files: Sequence[CorpusFile],
        *,
        genes: str | Path | None,
        gene_embeddings: str | Path | None,
        config: Mapping[str, Any],
    ) -> tuple[Any, Any]:
        """A new model, and its tokenizer: the given one, or where there is none, one for the genes of the files.

        Raises:
            ValueError: The options do not fit each other, or are none of this family.
        """

    def trainer(self, model: Any, args: Any, *, tokenizer: Any, **options: Any) -> CorpusTrainer:
        """The trainer of the objective."""


def objective_for(model: str | Path | None) -> tuple[PretrainingObjective, Any]:
    """The objective of a model's or a tokenizer's family, and the tokenizer.

    Args:
        model: Folder or hub id; None for the first family of the table that is pretrained, and no tokenizer.

    Raises:
        ValueError: Models of this family are not pretrained here.
    """
    places = pretraining_places()
    if model is None:
        return _at(next(iter(places.values()))), None
    with loading_from(model, holds="tokenizer_config.json"):
        tokenizer: Any = AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    family = family_of({}, {"tokenizer_class": type(tokenizer).__name__})
    if family not in places:
        known = ", ".join(name for name in FAMILIES if name in places)
        raise ValueError(f"{model} has a {type(tokenizer).__name__}; families that are pretrained here are {known}")
    return _at(places[family]), tokenizer


def _at(place: tuple[str, str]) -> PretrainingObjective:
    module, name = place
    return getattr(importlib.import_module(module), name)


__all__ = ["PretrainingObjective", "objective_for"]
