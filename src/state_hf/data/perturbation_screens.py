"""The labels of perturbation screens: every cell's perturbation, cell type and batch, in shared vocabularies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd

from state_hf.configuration.file_permissions import check_readable
from state_hf.configuration.near_names import nearest
from state_hf.data.cells.frames import column_names, num_rows, read_column, row_names
from state_hf.data.damaged_files import damage_named, open_hdf5

Source: TypeAlias = Path | anndata.AnnData
Sources: TypeAlias = str | Path | anndata.AnnData | Sequence[str | Path | anndata.AnnData]
# The code of every cell, and the texts that the codes stand for.
Labels: TypeAlias = tuple[np.ndarray, list[str]]


def _label_texts(column: pd.Series, place: str) -> Labels:
    """Codes (cells,) and category names of a column of any type; refuses missing and look-alike labels."""
    categorical = column.astype("category")
    codes = categorical.cat.codes.to_numpy()
    if (codes < 0).any():
        first = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"{place} has no label for {int((codes < 0).sum()):,} of {len(codes):,} cells (the first is cell {first}); "
            "label or remove them"
        )
    texts = [str(category) for category in categorical.cat.categories]
    stripped: dict[str, str] = {}
    for code in np.unique(codes):
        text = texts[code]
        other = stripped.setdefault(text.strip(), text)
        if other != text:
            raise ValueError(
                f"{place} has the labels {other!r} and {text!r}, which differ in spaces only; make them one"
            )
    return codes, texts


def _open_file(path: Path) -> h5py.File:
    check_readable(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir() or not h5py.is_hdf5(path):
        raise ValueError(f"{path} is not an .h5ad file (it is not HDF5)")
    file = open_hdf5(path)
    if not isinstance(file.get("obs"), h5py.Group):
        raise ValueError(f"{path} is not an AnnData file: obs is missing or of a format before anndata 0.7")
    return file


def _columns(obs: Any, keys: Mapping[str, str | None], name: str) -> tuple[dict[str, Labels], int]:
    """The asked columns of obs (a frame, or its group in a file) and the number of cells; no other column is read."""
    known = [str(key) for key in obs] if isinstance(obs, pd.DataFrame) else column_names(obs)
    read: dict[str, Labels] = {}
    for kind, key in keys.items():
        if key is None:
            continue
        if key not in known:
            raise ValueError(f"obs of {name} has no column {key!r} (for the {kind}); {nearest(key, known)}")
        values = obs[key] if isinstance(obs, pd.DataFrame) else read_column(obs, key)
        read[kind] = _label_texts(values, f"obs[{key!r}] of {name}")
    if isinstance(obs, pd.DataFrame):
        return read, len(obs)
    num_cells = num_rows(obs)
    for kind, (codes, _) in read.items():
        if len(codes) != num_cells:
            raise ValueError(
                f"obs of {name} is damaged: it names {num_cells:,} cells, and has a {kind} for {len(codes):,}"
            )
    return read, num_cells


def _read_labels(source: Source, keys: Mapping[str, str | None], name: str) -> dict[str, Labels]:
    if isinstance(source, anndata.AnnData):
        labels, num_cells = _columns(source.obs, keys, name)
    else:
        with damage_named(f"obs of {name}"), _open_file(source) as file:
            labels, num_cells = _columns(file["obs"], keys, name)
    for kind in keys:
        labels.setdefault(kind, (np.zeros(num_cells, dtype=np.int8), ["all"]))
    return labels


def cell_names(source: Source) -> list[str]:
    """Names of all cells (`obs_names`) of an .h5ad file or an AnnData object."""
    if isinstance(source, anndata.AnnData):
        return [str(name) for name in source.obs_names]
    with damage_named(f"obs of {source}"), _open_file(source) as file:
        return row_names(file["obs"]).tolist()


@dataclass(frozen=True, eq=False)
class Screen:
    """The labels of one file.

    Attributes:
        dataset: Name of the dataset that the file belongs to.
        source: The file's path, or the AnnData object itself.
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
        perturbations: Names in the order of their ids; the control is among them.
        cell_types: Names in the order of their ids.
        batches: Names in the order of their ids.
        control: The control's label.
    """

    screens: tuple[Screen, ...]
    perturbations: list[str]
    cell_types: list[str]
    batches: list[str]
    control: str

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
        for item in entries:
            if isinstance(item, anndata.AnnData) and item.isbacked:
                raise ValueError(f"an AnnData object backed by {item.filename}: give the file's path instead")
        listed[dataset] = [item if isinstance(item, anndata.AnnData) else Path(item) for item in entries]
        if not listed[dataset]:
            raise ValueError(f"dataset {dataset!r} has no files")
    return listed


def _refuse_same_file_twice(listed: Mapping[str, Sequence[Source]]) -> None:
    seen: dict[Any, str] = {}
    for dataset, sources in listed.items():
        for source in sources:
            key = id(source) if isinstance(source, anndata.AnnData) else source.resolve()
            if key in seen:
                name = "an AnnData object" if isinstance(source, anndata.AnnData) else str(source)
                raise ValueError(
                    f"{name} is listed twice, in the datasets {seen[key]!r} and {dataset!r}; its cells would come "
                    "twice, and could be on both sides of a split"
                )
            seen[key] = dataset


def _vocabulary(kind: str, found: Sequence[tuple[str, set[str]]], given: Sequence[str] | None) -> list[str]:
    """The given names, or those found, sorted by code point (the order that cell-load's maps have)."""
    if given is None:
        return sorted(set().union(*(labels for _, labels in found)))
    names = list(given)
    known = set(names)
    for place, labels in found:
        for label in sorted(labels):
            if label not in known:
                raise ValueError(
                    f"{place} has the {kind} {label!r}, which the vocabulary lacks; {nearest(label, names)}"
                )
    return names


def open_screens(
    sources: Sources | Mapping[str, Sources],
    *,
    perturbation_key: str = "perturbation",
    control: str = "non-targeting",
    cell_type_key: str | None = "cell_type",
    batch_key: str | None = None,
    perturbations: Sequence[str] | None = None,
    cell_types: Sequence[str] | None = None,
    batches: Sequence[str] | None = None,
) -> PerturbationScreens:
    """Read the labels of perturbation screens; no expression is read.

    Labels of any type (categories, text, whole numbers) are taken as text, as they are.

    Args:
        sources: A .h5ad file, an AnnData object, several of them, or a mapping of dataset names to them.
        perturbation_key: Column of obs with the perturbations.
        control: Label of control cells in that column.
        cell_type_key: Column of obs with the cell types or other contexts; `None` takes all cells for one context.
        batch_key: Column of obs with the batches; `None` takes all cells for one batch.
        perturbations: A model's vocabulary, when its ids are to be used; `None` makes one of what is found, sorted.
        cell_types: Likewise for cell types.
        batches: Likewise for batches.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A column or the control label is missing, a cell has no label, labels differ in spaces only, a label
            is not in a given vocabulary, or a file is listed twice.
    """
    listed = _as_mapping(sources)
    _refuse_same_file_twice(listed)
    keys = {"perturbation": perturbation_key, "cell type": cell_type_key, "batch": batch_key}
    read: list[tuple[str, Source, str, dict[str, Labels]]] = []
    for dataset, items in listed.items():
        for source in items:
            name = "the AnnData object" if isinstance(source, anndata.AnnData) else str(source)
            read.append((dataset, source, name, _read_labels(source, keys, name)))
    given = {"perturbation": perturbations, "cell type": cell_types, "batch": batches}
    found: dict[str, list[tuple[str, set[str]]]] = {kind: [] for kind in given}
    for _, _, name, labels in read:
        for kind, (codes, texts) in labels.items():
            found[kind].append((name, {texts[code] for code in np.unique(codes)}))
    for name, labels_found in found["perturbation"]:
        if control not in labels_found:
            raise ValueError(
                f"obs[{perturbation_key!r}] of {name} has no cell labelled {control!r}, the control; "
                f"{nearest(control, sorted(labels_found))}"
            )
    names = {kind: _vocabulary(kind, found[kind], given[kind]) for kind in given}
    places = {kind: {label: place for place, label in enumerate(names[kind])} for kind in names}

    def to_ids(kind: str, labels: dict[str, Labels]) -> np.ndarray:
        codes, texts = labels[kind]
        # A category without cells may be absent from a given vocabulary.
        return np.array([places[kind].get(text, -1) for text in texts], dtype=np.int32)[codes]

    screens = []
    for dataset, source, _, labels in read:
        ids = to_ids("perturbation", labels)
        is_control = ids == places["perturbation"][control]
        screens.append(Screen(dataset, source, ids, to_ids("cell type", labels), to_ids("batch", labels), is_control))
    return PerturbationScreens(tuple(screens), names["perturbation"], names["cell type"], names["batch"], control)
