"""Guess what a name that is not found was meant to be, for every message that offers a hint."""

import difflib
import re
from collections.abc import Iterable, Sequence

from state_hf.configuration.labels import look_alike_form

# What is appended to a name to tell versions, lanes or repeated names apart: an Ensembl version, -1, _2, .1
_SUFFIX = re.compile(r"(?<=[^\s._-])[._-]\d{1,3}$")
_ENSEMBL_VERSION = re.compile(r"^(ens[a-z]*\d{6,})\.\d+$")
# Fuzzy matching costs the product of the two lists; the normalised forms alone are compared beyond these many names.
_MAX_FUZZY_NAMES = 20
_MAX_FUZZY_CANDIDATES = 5000
# Likeness (0 to 1) from which a name of one list is paired with one of another, and from which a name is suggested.
_PAIRED, _SUGGESTED = 0.84, 0.6


def normalized_name(name: str) -> str:
    """The name without what people change by accident: see `look_alike_form`; `_` for `-`, an Ensembl version."""
    text = re.sub(r"[\s_-]+", "-", look_alike_form(name))
    return _ENSEMBL_VERSION.sub(r"\1", text)


def _stem(form: str) -> str:
    return _SUFFIX.sub("", form)


class _Candidates:
    """Names that exist, to be found by what they are but for accidents, then but for a suffix, then by likeness."""

    def __init__(self, names: Iterable[str]) -> None:
        self.by_form: dict[str, list[str]] = {}
        self.by_stem: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            form = normalized_name(name)
            self.by_form.setdefault(form, []).append(name)
            if (stem := _stem(form)) != form:
                self.by_stem.setdefault(stem, []).append(name)

    def same(self, name: str) -> list[str]:
        form = normalized_name(name)
        # A suffix is set aside on one side only: IL-2 is not IL-6.
        found = self.by_form.get(form) or self.by_form.get(_stem(form)) or self.by_stem.get(form) or []
        return sorted(found, key=lambda candidate: candidate.strip() != name.strip())

    def alike(self, name: str, *, most: int, cutoff: float) -> list[str]:
        forms = difflib.get_close_matches(normalized_name(name), list(self.by_form), n=most, cutoff=cutoff)
        return [candidate for form in forms for candidate in self.by_form[form]]


def near_names(name: str, known: Iterable[str], *, most: int = 3) -> list[str]:
    """The known names that an unknown one most likely stands for, best first; empty if none is like it.

    Names equal after `normalized_name` come alone, then those that are equal without a suffix such as `.12`, `-1` or
    `_1`, then those close in spelling.
    """
    candidates = _Candidates(known)
    return (candidates.same(name) or candidates.alike(name, most=most, cutoff=_SUGGESTED))[:most]


def near_matches(names: Iterable[str], candidates: Iterable[str]) -> dict[str, str]:
    """For each name that has one, the candidate that it most likely stands for.

    Args:
        names: Names that were not found.
        candidates: Names that exist.

    Returns:
        Name -> candidate: as `near_names` finds it, but close in spelling only where two names hardly differ. Names
        with no near match are absent.
    """
    existing, names = _Candidates(candidates), list(names)
    matches = {name: same[0] for name in names if (same := existing.same(name))}
    if len(existing.by_form) <= _MAX_FUZZY_CANDIDATES:
        for name in [name for name in names if name not in matches][:_MAX_FUZZY_NAMES]:
            for near in existing.alike(name, most=1, cutoff=_PAIRED)[:1]:
                matches[name] = near
    return matches


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a message: the known names most like an unknown one, or some of the known ones."""
    close = near_names(name, known)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(map(repr, known[:8]))
    return f"known: {shown}, ... ({len(known)} in all)" if len(known) > 8 else f"known: {shown or 'none'}"


__all__ = ["near_matches", "near_names", "nearest", "normalized_name"]
