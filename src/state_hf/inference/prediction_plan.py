"""What is to be predicted: how many cells of every perturbation in every cell type."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.configuration.labels import FoundLabels, as_label, label_text, refuse_look_alikes
from state_hf.configuration.near_names import nearest
from state_hf.configuration.perturbation_labels import Perturbation, label_parts
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.data.screens.perturbation_screens import PerturbationScreens

logger = logging.get_logger(__name__)

Perturbations: TypeAlias = Literal["all"] | Sequence[str] | pd.DataFrame | str | Path | None


@dataclass(frozen=True)
class PredictedGroup:
    """Cells to predict.

    Attributes:
        cell_type: Name of the cell type whose control cells are used.
        perturbation: Label of the predicted cells.
        ids: The model's ids of the perturbations; several for a combination.
        cells: Number of cells.
        meaning: The model's names of the perturbations, which random draws are named after, whatever the label's
            spelling; the label, if empty.
    """

    cell_type: str
    perturbation: str
    ids: tuple[int, ...]
    cells: int
    meaning: str = ""

    @property
    def draw_name(self) -> str:
        """What random draws are named after."""
        return self.meaning or self.perturbation


def plan_predictions(
    screens: PerturbationScreens,
    vocabulary: PerturbationVocabulary,
    perturbations: Perturbations,
    *,
    cells: int | None,
    min_cells: int | None,
    max_cells: int | None,
    cell_types: Sequence[str] | None,
    on_unknown: Literal["error", "control"],
    distinct_case: bool = False,
) -> list[PredictedGroup]:
    """List what is to be predicted; for the arguments see `predict`.

    Raises:
        ValueError: There is nothing to predict, a perturbation or a cell type is unknown, or a number is impossible.
    """
    for name, number in (("cells", cells), ("min_cells", min_cells), ("max_cells", max_cells)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, and is {number}")
    named = None if cell_types is None else [as_label(name, "a cell type") for name in cell_types]
    for cell_type in named or ():
        if cell_type not in screens.cell_types:
            raise ValueError(f"there is no cell type {cell_type!r}; {nearest(cell_type, screens.cell_types)}")
    chosen = [name for name in screens.cell_types if named is None or name in named]
    wanted = _wanted(screens, vocabulary, perturbations, chosen, cells)
    groups = []
    labels = list(dict.fromkeys(label for _, label, _ in wanted))
    control = screens.control
    refuse_look_alikes(
        [FoundLabels("what is to be predicted", labels)],
        known=[FoundLabels("the model (perturbation names)", vocabulary.perturbations), FoundLabels("obs", [control])],
        distinct_case=distinct_case,
        parts=label_parts,
    )
    names = _known_names(labels, vocabulary, control, on_unknown)
    _note_spellings(labels, control)
    for cell_type, label, number in wanted:
        number = max(number, min_cells or 1)
        ids = tuple(vocabulary.perturbation_ids(names[label]))
        meaning = "+".join(vocabulary.perturbation_names.members(label, control=control) or ())
        groups.append(PredictedGroup(cell_type, label, ids, min(number, max_cells or number), meaning))
    if not groups:
        raise ValueError("there is nothing to predict: no perturbed cells in the file, and no perturbations named")
    return groups


def labels_to_predict(screens: PerturbationScreens, perturbations: Perturbations) -> list[str]:
    """The perturbations that are named, by whatever `predict` takes; none for "all", which names none."""
    if isinstance(perturbations, Path) or (isinstance(perturbations, str) and perturbations != "all"):
        perturbations = _read_table(Path(perturbations))
    if isinstance(perturbations, pd.DataFrame):
        named = perturbations["perturbation"].tolist() if "perturbation" in perturbations else []
    elif isinstance(perturbations, str):
        named = []
    else:
        named = [label for _, label in _present(screens)] if perturbations is None else list(perturbations)
    return [as_label(name, "a perturbation") for name in dict.fromkeys(named)]


def _note_spellings(labels: Sequence[str], control: str) -> None:
    spellings: dict[Perturbation, list[str]] = {}
    for label in labels:
        spellings.setdefault(Perturbation.of(label, control=control), []).append(label)
    for alike in spellings.values():
        if len(alike) > 1:
            logger.warning(f"{' and '.join(map(repr, alike))} are one perturbation: each has the same cells")


def _wanted(
    screens: PerturbationScreens,
    vocabulary: PerturbationVocabulary,
    perturbations: Perturbations,
    cell_types: Sequence[str],
    cells: int | None,
) -> list[tuple[str, str, int]]:
    """(cell type, perturbation, cells)."""
    if isinstance(perturbations, Path) or (isinstance(perturbations, str) and perturbations != "all"):
        perturbations = _read_table(Path(perturbations))
    if isinstance(perturbations, pd.DataFrame):
        return _of_table(perturbations, screens, cell_types, cells)
    if perturbations is None:
        present = _present(screens)
        return [
            (cell_type, label, cells or number)
            for (cell_type, label), number in present.items()
            if cell_type in cell_types
        ]
    if isinstance(perturbations, str):
        perturbations = [name for name in vocabulary.perturbations if name != vocabulary.control_perturbation]
    perturbations = [as_label(name, "a perturbation") for name in perturbations]
    if cells is None:
        raise ValueError(Advised("how many cells to predict is not known", "say how many of each (cells=...)"))
    return [(cell_type, label, cells) for cell_type in cell_types for label in dict.fromkeys(perturbations)]


def _present(screens: PerturbationScreens) -> dict[tuple[str, str], int]:
    """Number of perturbed cells of every (cell type, perturbation) that the files have."""
    found: dict[tuple[str, str], int] = {}
    for screen in screens.screens:
        keys = np.stack([screen.cell_types, screen.perturbations], axis=1)[~screen.is_control]
        for (cell_type, label), number in zip(*_counted(keys), strict=True):
            key = (screens.cell_types[cell_type], screens.perturbations[label])
            found[key] = found.get(key, 0) + number
    return found


def _counted(keys: np.ndarray) -> tuple[list[list[int]], list[int]]:
    if len(keys) == 0:
        return [], []
    groups, counts = np.unique(keys, axis=0, return_counts=True)
    return groups.tolist(), counts.tolist()


def _read_table(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"there is no table of perturbations {path}")
    return pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", dtype={"perturbation": str, "cell_type": str})


def _of_table(
    table: pd.DataFrame, screens: PerturbationScreens, cell_types: Sequence[str], cells: int | None
) -> list[tuple[str, str, int]]:
    if "perturbation" not in table or ("cells" not in table and cells is None):
        raise ValueError(
            "a table of perturbations needs the columns 'perturbation' and 'cells' (and may have 'cell_type'); it has "
            f"{', '.join(map(repr, table.columns))}"
        )
    wanted = []
    for row in table.to_dict("records"):
        number = int(row["cells"]) if "cells" in row else int(cells or 0)
        if number < 1:
            raise ValueError(f"the table asks for {number} cells of {row['perturbation']!r}; leave such rows out")
        label, named = as_label(row["perturbation"], "a perturbation of the table"), label_text(row.get("cell_type"))
        if named is not None and named not in screens.cell_types:
            raise ValueError(f"the table names the cell type {named!r}; {nearest(named, screens.cell_types)}")
        wanted += [(name, label, number) for name in cell_types if named in (None, name)]
    return wanted


def _known_names(
    labels: Sequence[str], vocabulary: PerturbationVocabulary, control: str, on_unknown: Literal["error", "control"]
) -> dict[str, list[str]]:
    """The model's names for every label; a combination that has no row of its own is the sum of its members."""
    names = vocabulary.perturbation_names
    members = {label: names.members(label, control=control) for label in labels}
    unknown = [label for label, found in members.items() if found is None]
    if unknown and on_unknown == "control":
        if vocabulary.control_perturbation is None:
            raise ValueError("the model does not say which perturbation is its control, so nothing can stand in")
        shown = ", ".join(map(repr, unknown[:5]))
        logger.warning(f"{len(unknown)} perturbations are unknown and predicted as the control: {shown}")
        members.update({label: [vocabulary.control_perturbation] for label in unknown})
    elif unknown:
        vocabulary.perturbation_ids(
            [name for label in unknown for name in names.unknown_members(label, control=control)]
        )
    return {label: found for label, found in members.items() if found is not None}


__all__ = ["Perturbations", "PredictedGroup", "labels_to_predict", "plan_predictions"]
