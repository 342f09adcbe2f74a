"""The foreign formats that can be converted: each is known to the table of families by its converter."""

import importlib
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.inspection import Inspection
from state_hf.conversion.model_folder import ConvertedModel
from state_hf.families import converter_places


class Converter(Protocol):
    """One foreign format.

    Attributes:
        name: What messages call the format.
    """

    name: str

    def recognises(self, source: Path) -> bool:
        """Whether a file or folder is of this format, told from names and headers alone."""

    def plan(self, source: Path, *, checkpoint: str | None = None, **options: Any) -> ConvertedModel:
        """The model that a checkpoint becomes: no weight is read yet.

        Args:
            source: The file or folder.
            checkpoint: Which of a folder's checkpoints, by its file name.
            **options: The format's own.

        Raises:
            CheckpointError: If it is broken or incomplete.
            UnsafeCheckpointError: If it names code.
        """

    def inspect(self, source: Path, *, checkpoint: str | None = None) -> Inspection:
        """What a checkpoint is. Raises as `plan` does."""


def converters() -> list[Converter]:
    """All converters, in the order of the table."""
    return [getattr(importlib.import_module(module), name) for module, name in converter_places()]


def converter_of(source: Path) -> Converter:
    """The converter of a checkpoint.

    Raises:
        FileNotFoundError: If there is no such file or folder.
    """
    if not source.exists():
        raise FileNotFoundError(f"There is no file or folder {source}, and an id on the Hub has the form owner/name.")
    known = converters()
    # What nobody recognises is most often a damaged checkpoint of the first, which says what is wrong with it.
    return next((converter for converter in known if converter.recognises(source)), known[0])


def refuse_unknown_options(converter: Converter, options: dict[str, Any]) -> None:
    """Refuse options that a format does not have.

    Raises:
        CheckpointError: If there is one.
    """
    parameters = signature(converter.plan).parameters
    for name in options:
        if name not in parameters:
            raise CheckpointError(f"{name}=... has no meaning for a checkpoint of {converter.name}.")


__all__ = ["Converter", "converter_of", "converters", "refuse_unknown_options"]
