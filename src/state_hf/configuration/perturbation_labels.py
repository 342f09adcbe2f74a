"""What was done to a cell, as a label says it: one perturbation, several at once, or the control's nothing."""

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from state_hf.configuration.labels import label_text

SEPARATOR = "+"
"""What joins the members of a combination in a label, as in "IFNG+TNF"."""

# Perturbations that a note names.
_SHOWN = 3


@dataclass(frozen=True)
class Perturbation:
    """What a label of a perturbation means, whatever the order and spelling of its members.

    "A+B" and "B+A" are one combination. The control adds nothing: "A+ctrl" and "ctrl+A" (the convention of GEARS) are
    "A". A member that is named twice is there once: "A+A" is "A". A "+" at the end of a name belongs to it, so "HLA-A+"
    is a name, and "HLA-A++IFNG" two. Spaces around a "+" between members are no part of them.

    Attributes:
        members: Names of what was perturbed, sorted, none twice; empty for the control.
    """

    members: tuple[str, ...]

    @classmethod
    def of(cls, label: str, *, control: str | None) -> "Perturbation":
        """What a label means.

        Args:
            label: The label.
            control: Label of the control; None if there is none. One of two names, as "NT+NT", adds nothing either.
        """
        return cls(tuple(sorted(set(member_names(label))))).without(control)

    def without(self, control: str | None) -> "Perturbation":
        """The perturbation where a control's label is among its members, without it."""
        names = set() if control is None else set(member_names(control))
        return Perturbation(tuple(name for name in self.members if name not in names or not names <= {*self.members}))

    @property
    def is_control(self) -> bool:
        """Whether nothing was perturbed."""
        return not self.members

    def __str__(self) -> str:
        return SEPARATOR.join(self.members)


def member_names(label: str) -> list[str]:
    """The names that a label is made of, the control's among them; the label itself if it is no combination."""
    if SEPARATOR not in label:
        return [label]
    names: list[str] = []
    before = ""
    for token in label.split(SEPARATOR):
        name = token.strip()
        if name:
            names.append(before + name)
            before = ""
        elif names:
            names[-1] += SEPARATOR
        else:
            before += SEPARATOR
    return names if len(names) > 1 else [label]


def label_parts(label: str) -> list[str]:
    """What `refuse_look_alikes` compares of a label of perturbations: the label, and the names it is made of."""
    if SEPARATOR not in label:
        return [label]
    return list(dict.fromkeys([label, *member_names(label)]))


def common_names(
    counts: Mapping[str, int], *, control: str, preferred: Container[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """One name for all labels of a perturbation.

    Args:
        counts: Number of cells of every label.
        control: Label of the control, which is its name.
        preferred: Labels that give their perturbation its name. Without one it is the label that most cells have.

    Returns:
        The name of every label, and notes in words on labels that were taken as one.
    """
    spellings: dict[Perturbation, list[str]] = {}
    for label in sorted(counts):
        spellings.setdefault(Perturbation.of(label, control=control), []).append(label)
    names: dict[str, str] = {}
    merged = []
    for meaning, labels in spellings.items():
        candidates = [label for label in labels if label in preferred] or labels
        name = control if meaning.is_control else max(candidates, key=lambda label: counts[label])
        names.update(dict.fromkeys(labels, name))
        if labels != [name]:
            listed = " and ".join(f"{label!r} ({counts[label]:,})" for label in labels)
            merged.append(f"{listed} as {name!r}")
    if not merged:
        return names, []
    more = f"; and {len(merged) - _SHOWN:,} more" if len(merged) > _SHOWN else ""
    shown = "; ".join(merged[:_SHOWN])
    return names, [f"labels of one perturbation are taken as one (numbers of cells): {shown}{more}"]


class PerturbationNames:
    """Finds perturbations among known names by what they are, not by how they are spelt.

    Args:
        names: Known names.
        control: Label of the control; None if there is none.
    """

    def __init__(self, names: Iterable[str], *, control: str | None) -> None:
        self.control = control
        self._names = dict.fromkeys(names)

    @cached_property
    def _by_meaning(self) -> Mapping[Perturbation, list[str]]:
        found: dict[Perturbation, list[str]] = {}
        for name in self._names:
            found.setdefault(Perturbation.of(name, control=self.control), []).append(name)
        return found

    def _meaning(self, label: str, control: str | None) -> Perturbation:
        """What a label means in which the control may have another name than it has here."""
        meaning = Perturbation.of(label, control=self.control if control is None else control)
        return meaning.without(self.control)

    def spellings(self, label: object, *, control: str | None = None) -> list[str]:
        """The known names that mean what a label means.

        Args:
            label: A label; numbers stand for their texts.
            control: What the control is called where the label comes from, if not as here.
        """
        return list(self._by_meaning.get(self._meaning(_text(label), control), ()))

    def find(self, label: object, *, control: str | None = None) -> str | None:
        """The known name of a perturbation: the label itself, or the first name that means the same."""
        text = _text(label)
        if text in self._names and (control in (None, self.control) or text != control):
            return text
        return next(iter(self.spellings(label, control=control)), None)

    def members(self, label: object, *, control: str | None = None) -> list[str] | None:
        """The known names whose effects add up to a label's: its own, or those of its members.

        A name that holds a "+" is a member where the label spells it, as "CD3+ T" in "CD3+ T+IFNG".

        Returns:
            The names; None if a member has none.
        """
        found = self.find(label, control=control)
        if found is not None:
            return [found]
        text = _text(label)
        members = self._meaning(text, control).members
        singles = [self.find(member) for member in members]
        if None not in singles and len(singles) > 1:
            return list(dict.fromkeys(name for name in singles if name is not None))
        spelt = _spelt_names(text, self._names)
        meant = [name for name in spelt or () if not self._meaning(name, control).is_control]
        return list(dict.fromkeys(meant)) if len(meant) > 1 else None

    def unknown_members(self, label: object, *, control: str | None = None) -> list[str]:
        """The members that have no known name; the label as a whole where none has."""
        text = _text(label)
        if self.members(text, control=control) is not None:
            return []
        members = self._meaning(text, control).members
        unknown = [member for member in members if self.find(member) is None]
        return unknown if len(members) == 1 or 0 < len(unknown) < len(members) else [text]


def _text(label: object) -> str:
    """The text of a label; one that stands for no label may be the name of an old model's perturbation."""
    return label_text(label) or str(label)


def _spelt_names(label: str, known: Collection[str]) -> list[str] | None:
    """Cuts a label at "+" into known names, the longest first from the left; None if it is not made of them."""
    tokens = label.split(SEPARATOR)
    names: list[str] = []
    start = 0
    while start < len(tokens):
        for stop in range(len(tokens), start, -1):
            name = SEPARATOR.join(tokens[start:stop]).strip()
            if name in known:
                names.append(name)
                start = stop
                break
        else:
            return None
    return names


__all__ = ["SEPARATOR", "Perturbation", "PerturbationNames", "common_names", "label_parts", "member_names"]
