"""Ways to damage the structure of an .h5ad file, as Hypothesis draws them; HDF5 can still read it."""

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

_ENCODINGS = [
    "csr_matrix",
    "csc_matrix",
    "array",
    "dataframe",
    "categorical",
    "dict",
    "string-array",
    "nullable-integer",
]
_VALUES = [np.nan, np.inf, -np.inf, -1, 0, 1, 10**6, 2**31 - 1, 2**40, -(2**40), 0.5]
_DTYPES = ["f4", "f8", "f2", "i1", "i8", "u8", "S4", "O", "?", "c8"]
_SHAPES = [(), (0,), (1,), (2**29,), (2**40,), (24,), (12,), (3, 4), (2**20, 2**20), (1, 1, 1)]

Damage = Callable[[h5py.File], None]
_NUMBERS = count()


def _paths(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return sorted(found)


def _node(file: h5py.File, where: int) -> tuple[str, Any] | None:
    """A node of the file as it is by then, whatever was damaged before."""
    paths = _paths(file)
    if not paths:
        return None
    path = paths[where % len(paths)]
    return path, file[path]


def _is_vector(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and node.ndim == 1 and node.size < 2**20


def _delete(where: int) -> Damage:
    def damage(file: h5py.File) -> None:
        if (node := _node(file, where)) is not None:
            del file[node[0]]

    return damage


def _set_attribute(where: int, which: int, value: Any) -> Damage:
    def damage(file: h5py.File) -> None:
        node = _node(file, where)
        owner = file if node is None else node[1]
        names = sorted(owner.attrs) or ["encoding-type"]
        name = names[which % len(names)]
        if value is None:
            owner.attrs.pop(name, None)
        else:
            owner.attrs[name] = value

    return damage


def _set_values(where: int, position: int, value: float) -> Damage:
    def damage(file: h5py.File) -> None:
        node = _node(file, where)
        if node is None or not _is_vector(node[1]) or node[1].dtype.kind not in "iuf" or not node[1].size:
            return
        values = node[1][()]
        flat = np.atleast_1d(values).reshape(-1)
        with np.errstate(all="ignore"):
            flat[position % flat.size] = np.array(value, dtype=float).astype(flat.dtype)
        node[1][()] = flat.reshape(node[1].shape)

    return damage


def _replace_dataset(where: int, dtype: str, shape: tuple[int, ...]) -> Damage:
    def damage(file: h5py.File) -> None:
        node = _node(file, where)
        if node is None:
            return
        attributes = dict(node[1].attrs)
        del file[node[0]]
        kind = h5py.string_dtype() if dtype == "O" else np.dtype(dtype)
        # Chunked and empty: a shape of any size takes no room.
        chunks = tuple(min(length, 16) or 1 for length in shape) or None
        if 0 in shape:
            chunks = None
        file.create_dataset(node[0], shape=shape, dtype=kind, chunks=chunks)
        file[node[0]].attrs.update(attributes)

    return damage


def _shorten(where: int, length: int) -> Damage:
    def damage(file: h5py.File) -> None:
        node = _node(file, where)
        if node is None or not _is_vector(node[1]):
            return
        attributes, values = dict(node[1].attrs), node[1][()][:length]
        kind = node[1].dtype
        del file[node[0]]
        file.create_dataset(node[0], data=values, dtype=kind)
        file[node[0]].attrs.update(attributes)

    return damage


def _shuffle(where: int, seed: int) -> Damage:
    def damage(file: h5py.File) -> None:
        node = _node(file, where)
        if node is None or not _is_vector(node[1]):
            return
        node[1][()] = np.random.default_rng(seed).permutation(node[1][()])

    return damage


def _link(where: int, target: int, kind: str) -> Damage:
    def damage(file: h5py.File) -> None:
        node, other = _node(file, where), _node(file, target)
        if node is None or other is None:
            return
        del file[node[0]]
        links = {
            "self": lambda: h5py.SoftLink("/" + node[0]),
            "other": lambda: h5py.SoftLink("/" + other[0]),
            "root": lambda: h5py.SoftLink("/"),
            "outside": lambda: h5py.ExternalLink("/etc/passwd", "/X"),
        }
        file[node[0]] = links[kind]()

    return damage


_where = st.integers(0, 200)

DAMAGES = st.lists(
    st.one_of(
        st.builds(_delete, _where),
        st.builds(
            _set_attribute,
            _where,
            st.integers(0, 5),
            st.sampled_from([None, "", "0.0.0", 3, np.array([2**40, 2**40]), np.array([-1, 3]), *_ENCODINGS]),
        ),
        st.builds(_set_values, _where, st.integers(0, 500), st.sampled_from(_VALUES)),
        st.builds(_replace_dataset, _where, st.sampled_from(_DTYPES), st.sampled_from(_SHAPES)),
        st.builds(_shorten, _where, st.integers(0, 30)),
        st.builds(_shuffle, _where, st.integers(0, 3)),
        st.builds(_link, _where, _where, st.sampled_from(["self", "other", "root", "outside"])),
    ),
    min_size=1,
    max_size=3,
)


def write_damaged(whole: Path, damages: list[Damage]) -> Path:
    """Write a damaged copy beside a file, under a new name; the copy before it goes."""
    for old in whole.parent.glob("damaged-*.h5ad"):
        old.unlink()
    path = whole.with_name(f"damaged-{next(_NUMBERS)}.h5ad")
    path.write_bytes(whole.read_bytes())
    with h5py.File(path, "r+") as file:
        for damage in damages:
            # One damage may leave nothing for the next.
            with suppress(KeyError, OSError, ValueError, TypeError, RuntimeError):
                damage(file)
    return path
