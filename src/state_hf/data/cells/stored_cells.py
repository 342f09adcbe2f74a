"""Cells in the groups of an HDF5 file or a Zarr store, as anndata writes them."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from state_hf.data.cells.cells import Cells
from state_hf.data.cells.damage import damage_named, names_in
from state_hf.data.cells.frames import column_names, num_rows, read_column, read_frame, row_names
from state_hf.data.cells.layouts import Layout
from state_hf.data.cells.matrix_layout import layout_of

_NAMED_SLOTS = ("layers", "obsm")


def read_quietly(element: Any) -> Any:
    """Read an element of a file; that it is from before 2022 is of no use to whoever reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.OldFormatWarning)
        return read_elem(element)


class StoreHandle:
    """The root group of a file or store: opened when it is needed, and by every process for itself.

    Args:
        opener: What opens it; a copy in another process needs it, too.
    """

    def __init__(self, opener: Callable[[], Any]) -> None:
        self._opener, self._root, self._pid = opener, None, -1

    @property
    def root(self) -> Any:
        """The h5py or zarr group."""
        if self._root is None or self._pid != os.getpid():  # HDF5 handles must not be shared with a forked worker
            self._root, self._pid = self._opener(), os.getpid()
        return self._root

    def close(self) -> None:
        """Close it, if this process opened it."""
        if self._pid == os.getpid() and isinstance(self._root, h5py.File):
            self._root.close()
        elif self._pid == os.getpid() and self._root is not None:
            self._root.store.close()
        self._root = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_root": None, "_pid": -1}


class _Entries(Mapping[str, Any]):
    def __init__(self, cells: "StoredCells") -> None:
        self._cells = cells

    def __getitem__(self, key: str) -> Any:
        if key not in self._cells.names_in("uns"):
            raise KeyError(key)
        with damage_named(f"uns[{key!r}] of {self._cells.name}"):
            return read_quietly(self._cells.element("uns", key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells.names_in("uns"))

    def __len__(self) -> int:
        return len(self._cells.names_in("uns"))


class StoredCells(Cells):
    """The cells of a group with `obs` and `var`.

    Args:
        name: What messages call the data.
        path: The file, store or URL.
        handle: The file or store.
        group: Path of the group in it; "" for its root.
        is_plain: Whether what is at the path is the HDF5 file or Zarr store itself.

    Raises:
        ValueError: The group is no AnnData.
    """

    def __init__(
        self, name: str, path: Path | str, handle: StoreHandle, group: str = "", *, is_plain: bool = True
    ) -> None:
        self.name, self.path, self._handle, self._inner = name, path, handle, group
        self._is_plain = is_plain and not group
        root = self.group
        for slot in ("obs", "var"):
            if slot not in root:
                raise ValueError(f"{name} is not an AnnData file: its {slot} is missing")
            if not isinstance(root[slot], h5py.Group | zarr.Group):
                raise ValueError(
                    f"{name} has an array in the place of {slot}: it is no AnnData file, or a store of before anndata "
                    "0.7 (anndata.read_zarr(...).write_zarr(...) writes that again)"
                )
        with damage_named(f"obs of {name}"):
            self.num_cells = num_rows(root["obs"])

    @property
    def group(self) -> Any:
        """The h5py or zarr group of the AnnData."""
        root = self._handle.root
        return root[self._inner] if self._inner else root

    @property
    def file(self) -> Path | None:
        """The file or store that is these cells and nothing else, so that a copy of it is a copy of them."""
        return self.path if self._is_plain and isinstance(self.path, Path) else None

    def open_layout(self, slot: str) -> Layout:
        return layout_of(f"{slot} of {self.name}", self.group[slot])

    def slots(self) -> list[str]:
        group = self.group
        with damage_named(self.name):
            named = [f"{slot}/{name}" for slot in _NAMED_SLOTS for name in names_in(group.get(slot))]
            has_x = "X" in group and group["X"].attrs.get("encoding-type") != "null"
            has_raw = "X" in names_in(group.get("raw"))
        return [*(["X"] if has_x else []), *(["raw/X"] if has_raw else []), *named]

    def frame(self, name: str) -> pd.DataFrame:
        with damage_named(f"{name} of {self.name}"):
            return read_frame(self.group[name])

    def column_names(self) -> list[str]:
        with damage_named(f"obs of {self.name}"):
            return column_names(self.group["obs"])

    def column(self, name: str) -> pd.Series:
        with damage_named(f"obs[{name!r}] of {self.name}"):
            values = read_column(self.group["obs"], name)
        if len(values) != self.num_cells:
            raise ValueError(
                f"obs of {self.name} is damaged: it names {self.num_cells:,} cells, and has {len(values):,} values of "
                f"{name!r}"
            )
        return values

    def cell_names(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        with damage_named(f"obs of {self.name}"):
            return row_names(self.group["obs"], start, stop)

    @property
    def uns(self) -> "_Entries":
        return _Entries(self)

    def names_in(self, slot: str) -> list[str]:
        with damage_named(self.name):
            return names_in(self.group.get(slot))

    def element(self, slot: str, name: str) -> Any:
        return self.group[slot][name]

    def close(self) -> None:
        self._handle.close()


__all__ = ["StoreHandle", "StoredCells", "read_quietly"]
