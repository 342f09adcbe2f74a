"""Ways to damage the bytes or the words of a file, as Hypothesis draws them."""

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes]

_NUMBERS = [0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]
_PLACE = st.integers(0, 2**16)


def _at(content: bytes, place: int) -> int:
    return place % (len(content) + 1)


def _set(place: int, value: bytes) -> Damage:
    def damage(content: bytes) -> bytes:
        start = _at(content, place)
        return content[:start] + value + content[start + len(value) :]

    return damage


def _insert(place: int, value: bytes) -> Damage:
    return lambda content: content[: _at(content, place)] + value + content[_at(content, place) :]


def _delete(place: int, length: int) -> Damage:
    return lambda content: content[: _at(content, place)] + content[_at(content, place) + length :]


def _repeat(place: int, length: int, times: int) -> Damage:
    def damage(content: bytes) -> bytes:
        start = _at(content, place)
        return content[: start + length] + content[start : start + length] * times + content[start + length :]

    return damage


def _cut(place: int) -> Damage:
    return lambda content: content[: _at(content, place)]


def _move(place: int, length: int, to: int) -> Damage:
    def damage(content: bytes) -> bytes:
        start = _at(content, place)
        return _insert(to, content[start : start + length])(content[:start] + content[start + length :])

    return damage


def byte_damages(words: Sequence[bytes] = ()) -> st.SearchStrategy[list[Damage]]:
    """Up to four damages; `words` are what the format gives a meaning to."""
    value = st.one_of(
        st.binary(min_size=1, max_size=4),
        st.builds(
            lambda number, width, order: number.to_bytes(8, "little")[:width][::order],
            st.sampled_from(_NUMBERS),
            st.sampled_from([1, 2, 4, 8]),
            st.sampled_from([1, -1]),
        ),
        *([st.sampled_from(list(words))] * 3 if words else []),
    )
    length = st.integers(1, 60)
    return st.lists(
        st.one_of(
            st.builds(_set, _PLACE, value),
            st.builds(_insert, _PLACE, value),
            st.builds(_delete, _PLACE, length),
            st.builds(_repeat, _PLACE, length, st.sampled_from([1, 2, 50])),
            st.builds(_cut, _PLACE),
            st.builds(_move, _PLACE, length, _PLACE),
        ),
        min_size=1,
        max_size=4,
    )


def damaged(content: bytes, damages: Sequence[Damage]) -> bytes:
    """The content with all damages done to it, one after the other."""
    for damage in damages:
        content = damage(content)
    return content
