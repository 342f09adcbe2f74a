"""Cells in an HDF5 file that is laid out in another way than AnnData: frames in memory, matrices where they lie."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from state_hf.data.cells.cells import Cells
from state_hf.data.cells.layouts import Layout
from state_hf.data.cells.stored_cells import StoreHandle

# Opens a matrix, given what messages call it and the file.
LayoutOpener = Callable[[str, Any], Layout]


class TableCells(Cells):
    """Cells whose frames were read, and whose matrices are opened from a file.

    Args:
        path: The file.
        handle: The same, to be opened.
        obs: One row a cell.
        var: One row a gene.
        layouts: What opens the matrix of every slot.
    """

    def __init__(
        self,
        path: Path,
        handle: StoreHandle,
        obs: pd.DataFrame,
        var: pd.DataFrame,
        layouts: Mapping[str, LayoutOpener],
    ) -> None:
        self.name, self.path, self.num_cells = str(path), path, len(obs)
        self._handle, self._frames, self._layouts = handle, {"obs": obs, "var": var}, dict(layouts)

    def open_layout(self, slot: str) -> Layout:
        return self._layouts[slot](f"{slot} of {self.name}", self._handle.root)

    def slots(self) -> list[str]:
        return list(self._layouts)

    def frame(self, name: str) -> pd.DataFrame:
        return self._frames[name]

    def column_names(self) -> list[str]:
        return [str(name) for name in self._frames["obs"]]

    def column(self, name: str) -> pd.Series:
        return self._frames["obs"][name]

    def cell_names(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return np.asarray(self._frames["obs"].index[start:stop], dtype=str)

    @property
    def uns(self) -> Mapping[str, Any]:
        return {}

    def names_in(self, slot: str) -> list[str]:
        return [name.partition("/")[2] for name in self._layouts if name.startswith(f"{slot}/")]

    def element(self, slot: str, name: str) -> Any:
        raise ValueError(f"{self.name} has no {slot}[{name!r}]")

    def close(self) -> None:
        self._handle.close()


def read_texts(dataset: h5py.Dataset) -> np.ndarray:
    """(items,) texts of an HDF5 dataset, or its numbers as they are."""
    return dataset.asstr()[...] if h5py.check_string_dtype(dataset.dtype) else dataset[...]


__all__ = ["LayoutOpener", "TableCells", "read_texts"]
