"""Cells in memory: of an AnnData object, or of a file that a library reads as a whole."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from state_hf.data.cells.cells import Cells
from state_hf.data.cells.damage import open_hdf5
from state_hf.data.cells.layouts import Layout
from state_hf.data.cells.matrix_layout import ViewLayout, layout_of
from state_hf.data.cells.stored_cells import StoreHandle
from state_hf.tokenization.cell_matrix import layer_names

# Matrices that a backed object leaves in its file.
_IN_FILE = ("X", "raw/X")


class ObjectCells(Cells):
    """The cells of an AnnData object: in memory, a view, or backed by a file.

    Args:
        adata: The object.
    """

    def __init__(self, adata: anndata.AnnData) -> None:
        if adata.isbacked and adata.is_view:  # anndata cannot slice it again
            raise ValueError(
                f"a view of a backed AnnData ({adata.filename}) cannot be read in blocks: "
                "take it into memory with adata.to_memory(), or write the subset to a file of its own"
            )
        self.name, self.num_cells = "the AnnData object", adata.n_obs
        self._adata: anndata.AnnData | None = adata
        # Backed objects share one handle, which a forked worker must not use, and which their owner may close.
        self._file = StoreHandle(partial(open_hdf5, Path(str(adata.filename)))) if adata.isbacked else None

    @property
    def adata(self) -> anndata.AnnData:
        """The object."""
        if self._adata is None:
            raise ValueError(f"{self.name} is closed")
        return self._adata

    @property
    def in_memory(self) -> bool:
        return self._file is None

    def open_layout(self, slot: str) -> Layout:
        adata, place = self.adata, f"{slot} of {self.name}"
        group, _, name = slot.partition("/")
        if self._file is not None and slot in _IN_FILE:
            root = self._file.root
            return layout_of(place, root[slot if slot in root else slot.replace("/", ".")])
        if slot == "raw/X":
            return layout_of(place, adata.raw.X)
        if group == "obsm":
            matrix = adata.obsm[name]
            return layout_of(place, matrix.to_numpy() if isinstance(matrix, pd.DataFrame) else matrix)
        if adata.is_view:
            return ViewLayout(place, adata, name or None)
        return layout_of(place, adata.layers[name] if name else adata.X)

    def slots(self) -> list[str]:
        adata = self.adata
        first = adata[:1] if adata.is_view else adata
        has_x = "X" in self._file.root if self._file is not None else first.X is not None
        named = [*(f"layers/{name}" for name in layer_names(adata)), *(f"obsm/{name}" for name in adata.obsm)]
        return [*(["X"] if has_x else []), *(["raw/X"] if adata.raw is not None else []), *named]

    def frame(self, name: str) -> pd.DataFrame:
        return self.adata.raw.var if name == "raw/var" else getattr(self.adata, name)

    def column_names(self) -> list[str]:
        return [str(name) for name in self.adata.obs]

    def column(self, name: str) -> pd.Series:
        return self.adata.obs[name]

    def cell_names(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return np.asarray(self.adata.obs_names[start:stop], dtype=str)

    @property
    def uns(self) -> Mapping[str, Any]:
        return self.adata.uns

    def names_in(self, slot: str) -> list[str]:
        return layer_names(self.adata) if slot == "layers" else [str(name) for name in getattr(self.adata, slot)]

    def element(self, slot: str, name: str) -> Any:
        return getattr(self.adata, slot)[name]

    def embedding_names(self, name: str) -> Sequence[str] | None:
        recorded, matrix = super().embedding_names(name), self.adata.obsm.get(name)
        return matrix.columns.tolist() if recorded is None and isinstance(matrix, pd.DataFrame) else recorded

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class LoadedCells(ObjectCells):
    """The cells of a file that is read into memory as a whole, and again after it was closed.

    Args:
        path: The file.
        load: What reads it.
    """

    def __init__(self, path: Path, load: Callable[[Path], anndata.AnnData]) -> None:
        self._load = load
        super().__init__(load(path))
        self.name, self.path = str(path), path

    @property
    def adata(self) -> anndata.AnnData:
        """The content of the file."""
        if self._adata is None:
            self._adata = self._load(Path(str(self.path)))
        return self._adata

    def close(self) -> None:
        self._adata = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_adata": None}


__all__ = ["LoadedCells", "ObjectCells"]
