"""The folder of a converted model: weights, configuration, names, a card, and a record of where all of it is from."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import PreTrainedConfig, PreTrainedModel

from state_hf._version import __version__
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.safetensors_file import write_weights
from state_hf.conversion.weight_accounting import WeightAccount
from state_hf.data.whole_files import folder_written_whole
from state_hf.model_cards.card import write_model_card
from state_hf.model_cards.facts import conversion_origin

RECORD_FILE = "conversion.json"
# Shards of the size that transformers writes.
MAX_SHARD_BYTES = 5 * 10**9
LICENCE_FILES = ("LICENSE*", "LICENCE*", "*LICENSE*.md", "*ACCEPTABLE_USE*", "NOTICE*")
_LICENCE_NOTE = "The weights keep the licence of the checkpoint that they were converted from."


@dataclass
class ConvertedModel:
    """A model that is ready to be written.

    Args:
        model_class: Its class.
        config: Its configuration.
        account: Its weights, and the source's weights that are not among them.
        source_folders: Where the source's licence is, if it has one.
        licence_note: What is known of the licence of the format's published weights.
        tokenizer: Tokenizer or processor of a model that reads cells.
        vocabulary: Names of a State Transition model.
        notes: What was decided, and why.
        origin: What the record keeps of the source.
        copied: Files of the source that are taken as they are.
    """

    model_class: type[PreTrainedModel]
    config: PreTrainedConfig
    account: WeightAccount
    source_folders: list[Path] = field(default_factory=list)
    licence_note: str = ""
    tokenizer: Any = None
    vocabulary: PerturbationVocabulary | None = None
    notes: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)
    copied: list[Path] = field(default_factory=list)

    def write(self, folder: Path, *, overwrite: bool, max_shard_bytes: int) -> None:
        """Write the folder with its model card: whole, or not at all.

        Args:
            folder: The folder to make.
            overwrite: Whether to replace a folder that exists.
            max_shard_bytes: Most bytes of a file of weights.

        Raises:
            FileExistsError: If the folder exists.
        """
        with folder_written_whole(folder, overwrite=overwrite) as unfinished:
            first = next(iter(self.account.used.values()))
            self.config.architectures = [self.model_class.__name__]
            self.config.dtype = str(first.dtype).removeprefix("torch.")
            licences = _copy_licences(self.source_folders, unfinished)
            record = {
                "converted_by": f"state-hf {__version__}",
                "notes": self.notes,
                "licence": {"note": f"{_LICENCE_NOTE} {self.licence_note}".strip(), "files": licences},
                "ignored_weights": self.account.ignored,
                "original": self.origin,
            }
            # A stock model that is trained further keeps of the record what its configuration says.
            self.config.converted_from = conversion_origin(record)
            self.config.save_pretrained(unfinished)
            for path in self.copied:
                shutil.copyfile(path, unfinished / path.name)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(unfinished)
            if self.vocabulary is not None:
                self.vocabulary.save(unfinished)
            text = json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n"
            (unfinished / RECORD_FILE).write_text(text, encoding="utf-8")
            write_weights(self.account.used, unfinished, max_shard_bytes=max_shard_bytes)
            # The folder has its own name only later.
            write_model_card(unfinished, name=folder.resolve().name)


def _copy_licences(sources: Iterable[Path], target: Path) -> list[str]:
    patterns = [(source, pattern) for source in sources for pattern in LICENCE_FILES]
    found = sorted({path for source, pattern in patterns for path in source.glob(pattern) if path.is_file()})
    for path in found:
        shutil.copyfile(path, target / path.name)
    return sorted({path.name for path in found})


def stated_licence(folder: Path) -> str | None:
    """The licence that the card in a folder names; None if it names none, or there is no card."""
    path = folder / "README.md"
    try:
        card = ModelCard(path.read_text(encoding="utf-8")) if path.is_file() else None
        return None if card is None else card.data.get("license")
    except (ValueError, OSError):
        return None


def read_conversion_record(folder: Path) -> dict[str, Any]:
    """The record of a converted model; empty for other models.

    Raises:
        CheckpointError: If the file is not a record.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is broken: {error}.") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is not the record of a conversion.")
    return record


__all__ = [
    "LICENCE_FILES",
    "MAX_SHARD_BYTES",
    "RECORD_FILE",
    "ConvertedModel",
    "read_conversion_record",
    "stated_licence",
]
