"""Guess what a name that is not found was meant to be: another case, stray spaces, 7.0 for 7, a version suffix."""

import difflib
import re
from collections.abc import Iterable, Sequence

_VERSION_SUFFIX = re.compile(r"^(ens[a-z]*\d{6,})\.\d+$")
# Fuzzy matching costs the product of the two lists; the normalised forms alone are compared beyond these many names.
_MAX_FUZZY_NAMES = 20
_MAX_FUZZY_CANDIDATES = 5000


def normalized_name(name: str) -> str:
    """The name without what people change by accident: case, spaces, `_` for `-`, an Ensembl version."""
    text = re.sub(r"[\s_-]+", "-", name.strip()).casefold()
    if re.fullmatch(r"-?\d+\.0", text):  # an integer label that went through a float column
        text = text[:-2]
    return _VERSION_SUFFIX.sub(r"\1", text)


def near_matches(names: Iterable[str], candidates: Iterable[str]) -> dict[str, str]:
    """For each name that has one, the candidate that it most likely stands for.

    Args:
        names: Names that were not found.
        candidates: Names that exist.

    Returns:
        Name -> candidate: equal after `normalized_name`, else close in spelling. Names with no near match are absent.
    """
    by_form = {normalized_name(candidate): candidate for candidate in candidates}
    forms = {name: normalized_name(name) for name in names}
    matches = {name: by_form[form] for name, form in forms.items() if form in by_form}
    if len(by_form) <= _MAX_FUZZY_CANDIDATES:
        for name in [name for name in forms if name not in matches][:_MAX_FUZZY_NAMES]:
            for form in difflib.get_close_matches(forms[name], list(by_form), n=1, cutoff=0.84):
                matches[name] = by_form[form]
    return matches


def listed(names: Sequence[str], *, limit: int = 8) -> str:
    """The names for a sentence, shortened: `'A', 'B' and 3 more`."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
