"""What a baseline of perturbed cells is said to be, on its card and by `inspect`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state_hf.configuration.perturbation_baseline import PerturbationBaselineConfig
from state_hf.model_cards.facts import feature_words, name_words, read_json
from state_hf.model_cards.state_paper import CITATION, LICENCE, LICENCE_NOTE


def facts(config: PerturbationBaselineConfig, folder: Path) -> dict[str, str]:
    """The rows of a card's table of facts."""
    return {"Input": feature_words(config), **name_words(read_json(folder / "vocabulary.json"))}


def inspection(
    config: PerturbationBaselineConfig, *, genes: Sequence[str] | None, vocabulary: Any
) -> tuple[dict[str, str], list[str]]:
    """What a model is, by topic, and what a user would need and is not there: its kind says it all."""
    return {}, []


__all__ = ["CITATION", "LICENCE", "LICENCE_NOTE", "facts", "inspection"]
