"""How messages list names and count things."""

from collections.abc import Sequence


def listed(names: Sequence[str], *, limit: int = 8) -> str:
    """The names for a sentence, shortened: `'A', 'B' and 3 more`."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural where it is due."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


__all__ = ["counted", "listed"]
