"""Labels of cells as texts: one for each value, which of them are none, and which are too alike to be two."""

import math
import numbers
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from state_hf.configuration.advice import Advised

MISSING_TEXTS = ("", "nan", "NaN", "NA", "N/A", "n/a", "#N/A", "<NA>", "None", "null", "NULL", "NaT")
"""Texts that stand for no label, as they are spelt: what `astype(str)`, CSV files and R leave of missing values. Other
spellings are labels, as the gene symbol NAN."""

DISTINCT_CASE_HINT = "if they are different things, as TP53 of human and Tp53 of mouse, say so (distinct_case=True)"

# Letters of other alphabets that no screen tells from those of the Latin one: Greek capitals, Cyrillic.
_TWINS = str.maketrans(
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf"
    "\u0405\u0406\u0408\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458",
    "ABEZHIKMNOPTYXoSIJABEKMHOPCTXaeopcyxsij",
)
_SPACED_PLUS = re.compile(r" ?\+ ?")
# Whole or with a fraction, in decimal digits; 1E5 is a well of a plate.
_NUMBER = re.compile(r"([+-]?)0*(\d+)(?:\.(\d*?)0*)?")


def label_text(value: Any) -> str | None:
    """The text that a value of a column is known by; None if it stands for no label.

    Texts are taken as they are. A whole number has one text, whatever its type: 2, 2.0, `numpy.int8(2)` and "2" are the
    label "2". Other numbers have the shortest text that gives the number back.
    """
    text = str(value)
    if isinstance(value, bytes):
        text = value.decode()
    elif value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
        text = str(int(value))
    elif isinstance(value, numbers.Real) and math.isfinite(value) and value == math.floor(value):
        text = str(value) if isinstance(value, bool) else str(math.floor(value))
    return None if is_missing(text) else text


def is_missing(text: str) -> bool:
    """Whether a text stands for no label: one of `MISSING_TEXTS`, with or without spaces around it."""
    return _without_formatting(text).strip() in MISSING_TEXTS


def as_label(value: Any, argument: str) -> str:
    """`label_text` of what the user names, as the control.

    Args:
        value: A text or a number of any type.
        argument: What a message calls it.

    Raises:
        ValueError: It is something else, or stands for no label.
    """
    scalar = isinstance(value, str | bytes | numbers.Number) or getattr(value, "ndim", None) == 0
    text = label_text(value) if scalar else None
    if text is None:
        raise ValueError(f"{argument} is a label, a text or a number, and not {value!r}")
    return text


def look_alike_form(text: str, *, distinct_case: bool = False) -> str:
    """What is left of a label without the differences that nobody means: two labels of one form look alike.

    These are spaces around it or a "+", and runs of spaces within; how its letters are encoded (Unicode NFKC; a
    non-breaking space or hyphen, a letter composed or not, a Cyrillic or Greek one with the look of a Latin one);
    characters without width; the form of a number (2, 2.0, 02); and, unless `distinct_case`, upper and lower case.
    """
    form = _composed(_without_formatting(text))
    if not distinct_case:
        form = _composed(form.casefold())
    form = "".join("-" if unicodedata.category(letter) == "Pd" or letter == "\u2212" else letter for letter in form)
    form = _SPACED_PLUS.sub("+", " ".join(form.split()))
    number = _NUMBER.fullmatch(form)
    if number:
        sign, whole, fraction = number.groups()
        form = ("-" if sign == "-" else "") + whole + (f".{fraction}" if fraction else "")
    return form


def _composed(text: str) -> str:
    """The text in one encoding, with letters of one look as one letter."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).translate(_TWINS))


def _without_formatting(text: str) -> str:
    """The text without characters that have neither width nor ink, as a byte order mark."""
    return text if text.isascii() else "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


@dataclass(frozen=True)
class FoundLabels:
    """Labels and where they are.

    Attributes:
        place: What a message calls the place, as "obs['perturbation'] of a.h5ad".
        labels: The labels.
        column: The column, for a message to say how to change it; None where there is none.
    """

    place: str
    labels: Sequence[str]
    column: str | None = None


def refuse_look_alikes(
    found: Iterable[FoundLabels],
    *,
    known: Iterable[FoundLabels] = (),
    distinct_case: bool = False,
    case_hint: str | None = DISTINCT_CASE_HINT,
    parts: Callable[[str], Iterable[str]] = lambda label: (label,),
) -> None:
    """Refuse labels that differ in what nobody means, over all places together.

    Args:
        found: Labels by place.
        known: Labels that are known to be different things, as a model's. They are compared with the others only.
        distinct_case: Whether labels that differ in upper and lower case are different things.
        case_hint: The way out for labels that differ in upper and lower case, see `Advised`; None for none.
        parts: The names that a label is made of, which are compared too.

    Raises:
        ValueError: Two labels look alike; the message names both, their places, and what to do.
    """
    seen: dict[str, _Place] = {}
    settled: set[str] = set()
    for name in _names_of(known, parts):
        settled.add(name.part)
        seen.setdefault(look_alike_form(name.part, distinct_case=distinct_case), name)
    pairs: dict[tuple[str, str], tuple[_Place, _Place]] = {}
    for name in _names_of(found, parts):
        if name.part not in settled:
            other = seen.setdefault(look_alike_form(name.part, distinct_case=distinct_case), name)
            if other.part != name.part:
                pairs.setdefault((other.part, name.part), (other, name))
    if pairs:
        first = next(iter(pairs.values()))
        raise ValueError(_look_alike_message(*first, pairs=len(pairs), case_hint=case_hint))


@dataclass(frozen=True)
class _Place:
    """A name, the label that it is a part of, and where that is."""

    part: str
    label: str
    found: FoundLabels

    def shown(self, *, exactly: bool) -> str:
        show = ascii if exactly else repr
        return show(self.label) if self.part == self.label else f"{show(self.label)} (of which {show(self.part)})"


def _names_of(found: Iterable[FoundLabels], parts: Callable[[str], Iterable[str]]) -> Iterator[_Place]:
    """All names, in each place those of whole labels first, which messages had better name."""
    for here in found:
        names = [_Place(part, label, here) for label in here.labels for part in parts(label)]
        yield from sorted(names, key=lambda name: name.part != name.label)


def _look_alike_message(one: _Place, two: _Place, *, pairs: int, case_hint: str | None) -> str:
    forms = [look_alike_form(place.part, distinct_case=True) for place in (one, two)]
    # What looks the same on a screen is told apart by its codes.
    exactly = forms[0] == forms[1]
    first, second = one.shown(exactly=exactly), two.shown(exactly=exactly)
    difference = _difference(one.part, two.part)
    if one.found.place == two.found.place:
        what = f"{one.found.place} has the labels {first} and {second}, which {difference}"
    else:
        what = f"{two.found.place} has the label {second}, and {one.found.place} {first}, which {difference}"
    if pairs > 1:
        what += f" ({pairs} such pairs in all)"
    change = ""
    if two.found.column is not None and (one.part, two.part) == (one.label, two.label):
        column = f"adata.obs[{two.found.column!r}]"
        change = f" ({column} = {column}.astype(str).replace({{{second}: {first}}}))"
    return Advised(what, f"make them one{change}", *([] if exactly or case_hint is None else [case_hint]))


def _difference(one: str, other: str) -> str:
    if "".join(one.split()) == "".join(other.split()):
        return "differ in spaces only"
    if one.casefold() == other.casefold():
        return "differ in upper and lower case only"
    if _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other):
        return "are one number in two forms"
    if look_alike_form(one, distinct_case=True) == look_alike_form(other, distinct_case=True):
        return "differ in how they are encoded (Unicode) only"
    return "differ in spaces, case or encoding only"


__all__ = [
    "DISTINCT_CASE_HINT",
    "MISSING_TEXTS",
    "FoundLabels",
    "as_label",
    "is_missing",
    "label_text",
    "look_alike_form",
    "refuse_look_alikes",
]
