"""What a language model wrote, as labels and as genes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from state_hf.configuration.advice import Advised

# What a word is called that is no gene.
_NO_GENE = None
# Words so short, and numbers, are names: in "B cell" and "CD4 T cell" one letter makes another cell.
_SHORT_WORD = 3


@dataclass(frozen=True)
class FoundLabel:
    """The label of a text.

    Attributes:
        label: One of the vocabulary; None where the text is none of them.
        how: Whether the text is the label, the same but for case and punctuation, the nearest in spelling, or unknown.
        distance: Letters that differ from the label; 0 where it is the same.
    """

    label: str | None
    how: Literal["exact", "normalised", "near", "unknown"]
    distance: int = 0


class LabelParser:
    """Finds the label that a text stands for.

    A text is cut at the end of its first line, and a full stop there. It is the label that it equals; else the one that
    it equals without regard to case, punctuation, spaces and a plural; else the nearest, if that is within
    `max_distance` and no other is as near. Words of up to three letters, and words with numbers in them, have to agree:
    a T cell is never the nearest of a B cell.

    Args:
        labels: The vocabulary.
        max_distance: Letters that may differ (inserted, left out or replaced), as a share of the label's, in [0, 1].

    Raises:
        ValueError: There is no label, one twice, or two that are equal but for case and punctuation.
    """

    def __init__(self, labels: Iterable[str], *, max_distance: float = 0.2) -> None:
        self.labels = list(labels)
        if not self.labels or not all(map(_form, self.labels)):
            raise ValueError(Advised("there is no label to look for", "name them (labels=...)"))
        if not 0 <= max_distance <= 1:
            raise ValueError(f"max_distance is {max_distance}; it has to be in [0, 1]")
        self.max_distance = max_distance
        self._exact = set(self.labels)
        self._forms: dict[str, str] = {}
        for label in self.labels:
            same = self._forms.setdefault(_form(label), label)
            if same != label:
                raise ValueError(f"the labels {same!r} and {label!r} cannot be told apart in a text")
        if len(self._exact) < len(self.labels):
            raise ValueError("a label is named twice")
        self._found: dict[str, FoundLabel] = {}

    def __call__(self, text: str) -> FoundLabel:
        """The label of a text."""
        answer = text.strip().split("\n")[0].strip().removesuffix(".").strip()
        if answer not in self._found:
            self._found[answer] = self._find(answer)
        return self._found[answer]

    def _find(self, answer: str) -> FoundLabel:
        if answer in self._exact:
            return FoundLabel(answer, "exact")
        form = _form(answer)
        if form in self._forms:
            return FoundLabel(self._forms[form], "normalised")
        short, nearest = _short_words(form), len(form) + 1
        best: list[str] = []
        for known, label in self._forms.items():
            most = min(int(self.max_distance * len(known)), nearest)
            if abs(len(known) - len(form)) > most or _short_words(known) != short:
                continue
            distance = edit_distance(form, known)
            if distance <= most:
                best = [label] if distance < nearest else [*best, label]
                nearest = distance
        return FoundLabel(best[0], "near", nearest) if len(best) == 1 else FoundLabel(None, "unknown")


def _form(text: str) -> str:
    """A text without what says nothing: case, punctuation but + and -, spaces, the plural of a word."""
    words = re.findall(r"[^\W_]+(?:[+-](?![^\W_]))*", text.casefold())
    return " ".join(word.removesuffix("s") if len(word) > _SHORT_WORD else word for word in words)


def _short_words(form: str) -> list[str]:
    return sorted(word for word in form.split() if len(word) <= _SHORT_WORD or any(map(str.isdigit, word)))


def edit_distance(one: str, other: str) -> int:
    """Fewest letters to insert, leave out or replace to make one text the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], number
        for at, opposite in enumerate(other, start=1):
            replaced = diagonal + (letter != opposite)
            diagonal = row[at]
            row[at] = min(replaced, row[at] + 1, row[at - 1] + 1)
    return row[-1]


@dataclass(frozen=True)
class FoundGenes:
    """The genes of a text.

    Attributes:
        rows: Vocabulary rows in order, each once.
        unknown: Words that are no gene of the vocabulary.
        repeated: How many words named a gene again.
    """

    rows: list[int]
    unknown: list[str]
    repeated: int


def parse_genes(text: str, rows: Mapping[str, int]) -> FoundGenes:
    """Read a text as genes, as Cell2Sentence does.

    Words are what a space, or the end of a line, is between; two spaces have an empty one between them, and it is
    unknown like every word that is no gene. Of a gene that is named several times, one is left, at the whole part of
    the mean of its positions, gene after gene in the order in which they are first named, while the list becomes
    shorter. Unknown words go last, so that until then they count as positions.

    Args:
        text: What a model wrote; a full stop at its end is none of it.
        rows: Vocabulary: name in upper case -> row.
    """
    stripped = text.strip().removesuffix(".").rstrip()
    words = re.split(r"\s", stripped.upper()) if stripped else []
    unknown = [word for word in words if word not in rows]
    found = [rows.get(word, _NO_GENE) for word in words]
    repeated = 0
    for row in dict.fromkeys(row for row in found if row is not _NO_GENE):
        places = [place for place, other in enumerate(found) if other == row]
        if len(places) > 1:
            repeated += len(places) - 1
            found = [other for other in found if other != row]
            found.insert(sum(places) // len(places), row)
    return FoundGenes([row for row in found if row is not _NO_GENE], unknown, repeated)


def gene_run(text: str, rows: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """The longest run of words of a text that are genes: (row, first letter, end) of each.

    Genes are written in the case of the vocabulary; a full stop or comma at the end of a word is none of it.
    """
    best: list[tuple[int, int, int]] = []
    current: list[tuple[int, int, int]] = []
    for found in re.finditer(r"\S+", text):
        word = found[0] if found[0] in rows else found[0].rstrip(".,")
        if word not in rows:
            current = []
            continue
        current.append((rows[word], found.start(), found.start() + len(word)))
        if len(current) > len(best):
            best = current
        if word != found[0]:
            current = []
    return best


__all__ = ["FoundGenes", "FoundLabel", "LabelParser", "edit_distance", "gene_run", "parse_genes"]
