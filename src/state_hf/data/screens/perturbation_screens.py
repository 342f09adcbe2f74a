"""The labels of perturbation screens: every cell's perturbation, cell type and batch, in shared vocabularies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import anndata
import numpy as np
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.configuration.labels import FoundLabels, as_label
from state_hf.configuration.near_names import nearest
from state_hf.configuration.perturbation_labels import Perturbation, PerturbationNames
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.data.cells.cells import Cells
from state_hf.data.cells.locations import as_location
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.screens.shared_labels import share_labels
from state_hf.metrics.label_columns import LabelColumn, labels_or_error

logger = logging.get_logger(__name__)

# A file, a URL, or an object.
Source: TypeAlias = Path | str | anndata.AnnData
Sources: TypeAlias = str | Path | anndata.AnnData | Sequence[str | Path | anndata.AnnData]
# The cell type or batch of all cells where no column has them.
_NO_COLUMN = "all"


def _columns(cells: Cells, keys: Mapping[str, str | None], name: str) -> dict[str, LabelColumn]:
    """The asked columns of obs; no other column is read."""
    known = cells.column_names()
    read: dict[str, LabelColumn] = {}
    for kind, key in keys.items():
        if key is None:
            continue
        if key not in known:
            raise ValueError(f"obs of {name} has no column {key!r} (for the {kind}); {nearest(key, known)}")
        read[kind] = labels_or_error(cells.column(key), f"obs[{key!r}] of {name}")
    return read


def _read_labels(source: Source, keys: Mapping[str, str | None], name: str) -> dict[str, LabelColumn]:
    with open_cells(source) as cells:
        labels = _columns(cells, keys, name)
        for kind in keys:
            labels.setdefault(kind, LabelColumn(np.zeros(cells.num_cells, dtype=np.int64), [_NO_COLUMN], [], {}))
    return labels


@dataclass(frozen=True, eq=False)
class ScreenLabels:
    """The labels of one file.

    Attributes:
        dataset: Name of the dataset that the file belongs to.
        source: The file's path or URL, or the AnnData object itself.
        perturbations: (cells,) int32, index into the vocabulary of perturbations.
        cell_types: (cells,) int32, index into the vocabulary of cell types.
        batches: (cells,) int32, index into the vocabulary of batches.
        is_control: (cells,) bool.
    """

    dataset: str
    source: Source
    perturbations: np.ndarray
    cell_types: np.ndarray
    batches: np.ndarray
    is_control: np.ndarray

    @cached_property
    def cells(self) -> Cells:
        """What its cells are read from."""
        return open_cells(self.source)

    @property
    def name(self) -> str:
        """What messages call the screen."""
        return "the AnnData object" if isinstance(self.source, anndata.AnnData) else str(self.source)

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return len(self.perturbations)


@dataclass(frozen=True, eq=False)
class PerturbationScreens:
    """The labels of one or many screens. Made by `open_screens`.

    Attributes:
        screens: One entry a file, in the order of the datasets and, within one, of its files.
        perturbations: Names in the order of their ids; the control is among them. Of a perturbation that the files
            spell in several ways ("A+B" and "B+A"), the spelling that most cells have.
        cell_types: Names in the order of their ids.
        batches: Names in the order of their ids.
        control: The control's label.
        notes: What was taken as one perturbation.
    """

    screens: tuple[ScreenLabels, ...]
    perturbations: list[str]
    cell_types: list[str]
    batches: list[str]
    control: str
    notes: tuple[str, ...] = ()

    @cached_property
    def perturbation_names(self) -> PerturbationNames:
        """Finds the screens' names of perturbations, whatever their spelling."""
        return PerturbationNames(self.perturbations, control=self.control)

    def ids_of(self, perturbation: Any) -> list[int]:
        """Ids of a perturbation, however it is spelt; several where a given vocabulary lists it more than once."""
        names = {*self.perturbation_names.spellings(perturbation), self.perturbation_names.find(perturbation)}
        return [number for number, name in enumerate(self.perturbations) if name in names]

    def close(self) -> None:
        """Close the files that are open; reading cells opens them again."""
        for screen in self.screens:
            if "cells" in vars(screen):
                screen.cells.close()

    def __enter__(self) -> "PerturbationScreens":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def control_id(self) -> int:
        """The control's id among the perturbations."""
        return self.perturbations.index(self.control)

    @property
    def num_cells(self) -> int:
        """Number of cells of all screens."""
        return sum(screen.num_cells for screen in self.screens)

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in order."""
        return list(dict.fromkeys(screen.dataset for screen in self.screens))


def _as_mapping(sources: Sources | Mapping[str, Sources]) -> dict[str, list[Source]]:
    if not isinstance(sources, Mapping):
        sources = {"screen": sources}
    listed: dict[str, list[Source]] = {}
    for dataset, entry in sources.items():
        entries = [entry] if isinstance(entry, str | Path | anndata.AnnData) else list(entry)
        listed[dataset] = [item if isinstance(item, anndata.AnnData) else as_location(item) for item in entries]
        if not listed[dataset]:
            raise ValueError(f"dataset {dataset!r} has no files")
    return listed


def _refuse_same_file_twice(listed: Mapping[str, Sequence[Source]]) -> None:
    seen: dict[Any, str] = {}
    for dataset, sources in listed.items():
        for source in sources:
            key = source.resolve() if isinstance(source, Path) else source if isinstance(source, str) else id(source)
            if key in seen:
                name = "an AnnData object" if isinstance(source, anndata.AnnData) else str(source)
                raise ValueError(
                    f"{name} is listed twice, in the datasets {seen[key]!r} and {dataset!r}; its cells would come "
                    "twice, and could be on both sides of a split"
                )
            seen[key] = dataset


def _source_names(listed: Mapping[str, Sequence[Source]]) -> list[str]:
    """What messages call the sources, in order; objects have numbers where there are several."""
    sources = [source for items in listed.values() for source in items]
    objects = [place for place, source in enumerate(sources) if isinstance(source, anndata.AnnData)]
    if len(objects) < 2:
        numbers = dict.fromkeys(objects, "the AnnData object")
    else:
        numbers = {place: f"AnnData object {number}" for number, place in enumerate(objects, start=1)}
    return [numbers.get(place, str(source)) for place, source in enumerate(sources)]


def _told_apart(kind: str, vocabulary: PerturbationVocabulary, control: str) -> list[FoundLabels]:
    """The names of a model, and the control, which the user has named."""
    names = {"perturbation": vocabulary.perturbations, "cell type": vocabulary.cell_types, "batch": vocabulary.batches}
    # Without a column all cells are of one cell type or batch, whose name nobody gave.
    known = [] if tuple(names[kind]) == (_NO_COLUMN,) else [FoundLabels(f"the model ({kind} names)", names[kind])]
    return [*known, FoundLabels("the command", [control])] if kind == "perturbation" else known


def open_screens(
    sources: Sources | Mapping[str, Sources],
    *,
    perturbation_key: str = "perturbation",
    control: str | float = "non-targeting",
    cell_type_key: str | None = "cell_type",
    batch_key: str | None = None,
    perturbations: Sequence[str] | None = None,
    cell_types: Sequence[str] | None = None,
    batches: Sequence[str] | None = None,
    vocabulary: PerturbationVocabulary | None = None,
    distinct_case: bool = False,
) -> PerturbationScreens:
    """Read the labels of perturbation screens; no expression is read.

    Labels of any type (categories, text, numbers) are taken as text: texts as they are, a whole number as that number,
    whatever its type (see `label_text`). Labels of perturbations that mean the same, as "A+B" and "B+A" or, with the
    control "ctrl", "A+ctrl" and "A", are one perturbation (see `Perturbation`), which is noted.

    Args:
        sources: A file (see `open_cells`), an AnnData object, several of them, or a mapping of dataset names to them.
        perturbation_key: Column of obs with the perturbations.
        control: Label of control cells in that column.
        cell_type_key: Column of obs with the cell types or other contexts; `None` takes all cells for one context.
        batch_key: Column of obs with the batches; `None` takes all cells for one batch.
        perturbations: A model's vocabulary, when its ids are to be used; `None` makes one of what is found, sorted.
        cell_types: Likewise for cell types.
        batches: Likewise for batches.
        vocabulary: Names of a model that the labels are to be found among: of labels that look alike, those that it
            knows are different things. It need not know all.
        distinct_case: Whether labels that differ in upper and lower case only are different things.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A column or the control label is missing, a cell has no label (or a text that stands for none, see
            `MISSING_TEXTS`), labels of any of the files differ in spaces, case or encoding only, a label is not in a
            given vocabulary, or a file is listed twice.
    """
    listed = _as_mapping(sources)
    _refuse_same_file_twice(listed)
    control = as_label(control, "control")
    keys = {"perturbation": perturbation_key, "cell type": cell_type_key, "batch": batch_key}
    origins = [(dataset, source) for dataset, items in listed.items() for source in items]
    names = _source_names(listed)
    read = [_read_labels(source, keys, name) for (_, source), name in zip(origins, names, strict=True)]
    given = {"perturbation": perturbations, "cell type": cell_types, "batch": batches}
    columns = {kind: [labels[kind] for labels in read] for kind in keys}
    found = {
        kind: [
            FoundLabels(f"obs[{keys[kind]!r}] of {name}", column.labels, keys[kind])
            for name, column in zip(names, columns[kind], strict=True)
        ]
        for kind in keys
    }
    for here in found["perturbation"]:
        if not any(Perturbation.of(label, control=control).is_control for label in here.labels):
            hint = nearest(control, sorted(here.labels))
            problem = f"{here.place} has no cell labelled {control!r}, the control; {hint}"
            if hint.endswith("?"):
                raise ValueError(problem)
            raise ValueError(Advised(problem, "name the label of its control cells (control=...)"))
    shared = {
        kind: share_labels(
            kind,
            columns[kind],
            found[kind],
            known=given[kind],
            distinct_case=distinct_case,
            control=control if kind == "perturbation" else None,
            told_apart=[] if vocabulary is None or keys[kind] is None else _told_apart(kind, vocabulary, control),
        )
        for kind in keys
    }
    perturbation, cell_type, batch = (shared[kind] for kind in keys)
    for note in perturbation.notes:
        logger.warning_once(note)
    # A given vocabulary may spell the control's label in another way.
    name = PerturbationNames(perturbation.names, control=control).find(control) or control
    screens = tuple(
        ScreenLabels(dataset, source, ids, cell_type_ids, batch_ids, ids == perturbation.names.index(name))
        for (dataset, source), ids, cell_type_ids, batch_ids in zip(
            origins, perturbation.ids, cell_type.ids, batch.ids, strict=True
        )
    )
    return PerturbationScreens(screens, perturbation.names, cell_type.names, batch.names, name, perturbation.notes)
