"""Ways to damage what a JSON or YAML file says, as Hypothesis draws them: wrong types, absurd sizes, other keys."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Damage = Callable[[Any], Any]

_VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "X", "0", "../x", "\x00", "none", "llama", [], {}, [1], ["a", 1], {"a": 1}, [[]], {"": None}]),
    st.integers(-3, 70),
)


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every entry, however deep."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [place for key, entry in inner for place in ((*above, key), *_places(entry, (*above, key)))]


def _with(value: Any, where: int, change: Callable[[Any, Any], None]) -> Any:
    """`value`, in which `change(holder, key)` was called for one entry."""
    places = _places(value)
    if not places:
        return value
    *path, key = places[where % len(places)]
    holder = value
    for step in path:
        holder = holder[step]
    change(holder, key)
    return value


def _replace(where: int, new: Any) -> Damage:
    return lambda value: _with(value, where, lambda holder, key: holder.__setitem__(key, copy.deepcopy(new)))


def _delete(where: int) -> Damage:
    return lambda value: _with(value, where, lambda holder, key: holder.__delitem__(key))


def _wrap(where: int, depth: int) -> Damage:
    def change(holder: Any, key: Any) -> None:
        for _ in range(depth):
            holder[key] = [holder[key]]

    return lambda value: _with(value, where, change)


def _add(name: str, new: Any) -> Damage:
    return lambda value: {**value, name: copy.deepcopy(new)} if isinstance(value, dict) else value


def value_damages(names: Sequence[str] = ()) -> st.SearchStrategy[list[Damage]]:
    """Up to three damages; `names` are keys that a reader may look for."""
    where = st.integers(0, 300)
    return st.lists(
        st.one_of(
            st.builds(_replace, where, _VALUES),
            st.builds(_replace, where, _VALUES),
            st.builds(_delete, where),
            st.builds(_wrap, where, st.sampled_from([1, 3, 50])),
            st.builds(_add, st.sampled_from(["extra", *names]), _VALUES),
        ),
        min_size=1,
        max_size=3,
    )
