"""Which part of a split a group of cells is of, from the split's file alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from state_hf.configuration.perturbation_labels import Perturbation
from state_hf.data.screens.split_definition import Context, SplitDefinition, SplitPart
from state_hf.data.screens.split_toml import read_split_toml

SPLIT_FILE, AUDIT_FILE = "split.json", "split.csv"
"""What a training writes: the definition of its split, and the cells of each part."""


def split_file(path: str | Path) -> Path:
    """The file of a split: itself, or that of a model's folder. Baselines have that of the model beside them.

    Raises:
        FileNotFoundError: There is no such file, or the folder has no split.
    """
    path = Path(path)
    if path.is_dir():
        for folder in (path, *([path.parent.parent] if path.parent.name == "baselines" else [])):
            if (folder / SPLIT_FILE).is_file():
                return folder / SPLIT_FILE
        raise FileNotFoundError(f"there is no split in the folder {path} (no {SPLIT_FILE})")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def read_split(path: str | Path) -> SplitDefinition:
    """Read the definition of a split from its TOML file, the `split.json` of a training, or a folder that has one.

    Raises:
        FileNotFoundError: See `split_file`.
        ValueError: The file is no split.
    """
    path = split_file(path)
    if path.suffix.lower() == ".toml":
        return read_split_toml(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return SplitDefinition(
            training=tuple(content["training"]),
            zeroshot=_by_context(content["zeroshot"]),
            fewshot=_by_context(content["fewshot"]),
            exclude=_by_context(content["exclude"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no split: it is neither TOML nor what a training writes ({error!r})") from error


class GroupParts:
    """Looks the part of a (cell type, perturbation) up in a split.

    Datasets are not told apart: a group that one of them holds out and another trains is of the training part.

    Args:
        path: A split's file or a folder with one, see `read_split`.
        control: Label of control cells. A perturbation is found in any spelling, see `Perturbation`.
        split_control: What the split calls the control, if it has another name there.
    """

    def __init__(self, path: str | Path, *, control: str, split_control: str | None = None) -> None:
        self.path, self._control, self._split_control = split_file(path), control, split_control
        self._definition = read_split(self.path)
        self._lists = {
            context: {part: set(map(self._meaning, names)) for part, names in lists.items()}
            for context, lists in self._definition.fewshot.items()
        }
        self._excluded = {
            context: set(map(self._meaning, names)) for context, names in self._definition.exclude.items()
        }
        audit = self.path.with_name(AUDIT_FILE)
        self._trained: set[str] | None = None
        if self.path.name == SPLIT_FILE and audit.is_file():
            table = pd.read_csv(audit, dtype={"cell_type": str}, keep_default_na=False)
            self._trained = set(table.loc[(table["part"] == "train") & (table["perturbed_cells"] > 0), "cell_type"])

    def part(self, cell_type: str, perturbation: str) -> SplitPart | None:
        """ "train", "val" or "test"; None for what the split leaves out, or does not know."""
        named = [context for context in (*self._definition.zeroshot, *self._lists) if context[1] == cell_type]
        parts = {self._part_in(context, self._meaning(perturbation)) for context in named}
        if not named and self._definition.training and (self._trained is None or cell_type in self._trained):
            excluded = [names for context, names in self._excluded.items() if context[1] == cell_type]
            if not any(self._meaning(perturbation) in names for names in excluded):
                return "train"
        return next((part for part in ("train", "test", "val") if part in parts), None)

    def _part_in(self, context: Context, meaning: Perturbation) -> SplitPart | None:
        if meaning in self._excluded.get(context, ()):
            return None
        if context in self._definition.zeroshot:
            return self._definition.zeroshot[context]
        held: list[SplitPart] = [part for part in ("test", "val") if meaning in self._lists[context].get(part, ())]
        return held[0] if held else "train"

    def _meaning(self, label: str) -> Perturbation:
        return Perturbation.of(label, control=self._control).without(self._split_control)


def _by_context(nested: Mapping[str, Mapping[str, Any]]) -> dict[Context, Any]:
    return {(dataset, cell_type): value for dataset, inner in nested.items() for cell_type, value in inner.items()}


__all__ = ["AUDIT_FILE", "SPLIT_FILE", "GroupParts", "read_split", "split_file"]
