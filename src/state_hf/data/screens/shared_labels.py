"""Labels of several files in one vocabulary: what is one label, what is none of them, and every cell's id."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from state_hf.configuration.labels import FoundLabels, refuse_look_alikes
from state_hf.configuration.near_names import nearest
from state_hf.configuration.perturbation_labels import PerturbationNames, common_names, label_parts
from state_hf.metrics.label_columns import LabelColumn


@dataclass(frozen=True, eq=False)
class SharedLabels:
    """Labels of one kind over all files.

    Attributes:
        names: Names in the order of their ids.
        ids: For every file (cells,) int32, index into `names`.
        notes: Labels that were taken as one.
    """

    names: list[str]
    ids: list[np.ndarray]
    notes: tuple[str, ...] = ()


def share_labels(
    kind: str,
    columns: Sequence[LabelColumn],
    found: Sequence[FoundLabels],
    *,
    known: Sequence[str] | None,
    distinct_case: bool,
    control: str | None = None,
    told_apart: Sequence[FoundLabels] = (),
) -> SharedLabels:
    """Give the labels of several files one vocabulary.

    Args:
        kind: What a message calls the labels: "cell type", "perturbation", "batch".
        columns: The labels of every file.
        found: The same, with what a message calls each place.
        known: A vocabulary that is given; `None` makes one of what is found, sorted by code point (the order that
            cell-load's maps have).
        distinct_case: Whether labels that differ in upper and lower case only are different things.
        control: Label of the control, for perturbations: labels of one meaning (see `Perturbation`) then have one id.
        told_apart: Labels that are different things, and with which those of the files are compared, as a model's.

    Raises:
        ValueError: Labels look alike, or a given vocabulary lacks one.
    """
    given = [] if known is None else [FoundLabels(f"the vocabulary of {kind} labels", known)]
    refuse_look_alikes(
        found,
        known=[*given, *told_apart],
        distinct_case=distinct_case,
        parts=label_parts if control is not None else lambda label: (label,),
    )
    counts: Counter[str] = sum((column.counts for column in columns), Counter())
    names: dict[str, str] = {label: label for label in sorted(counts)}
    notes: list[str] = []
    if control is not None:
        names, notes = common_names(counts, control=control)
    if known is not None:
        index = (
            PerturbationNames(known, control=control) if control is not None else dict(zip(known, known, strict=True))
        )
        names = {label: _known_name(kind, label, index, known, found) for label in names}
    vocabulary = sorted({*names.values()}) if known is None else list(known)
    number = {name: place for place, name in enumerate(vocabulary)}
    ids = [
        np.array([number[names[label]] for label in column.labels], dtype=np.int32)[column.codes] for column in columns
    ]
    return SharedLabels(vocabulary, ids, tuple(notes))


def _known_name(
    kind: str,
    label: str,
    index: PerturbationNames | dict[str, str],
    known: Sequence[str],
    found: Sequence[FoundLabels],
) -> str:
    name = index.get(label) if isinstance(index, dict) else index.find(label)
    if name is None:
        place = next(here.place for here in found if label in here.labels)
        raise ValueError(f"{place} has the {kind} {label!r}, which the vocabulary lacks; {nearest(label, known)}")
    return name


__all__ = ["SharedLabels", "share_labels"]
