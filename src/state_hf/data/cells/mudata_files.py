"""MuData files (`.h5mu`): the modality of gene expression is an AnnData group, and is read as one."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from state_hf.data.cells.damage import damage_named
from state_hf.data.cells.frames import column_names, read_column, row_names
from state_hf.data.cells.stored_cells import StoredCells, StoreHandle
from state_hf.tokenization.feature_types import feature_types

_RNA = ("rna", "gex", "gene_expression", "gene expression")


def is_mudata(file: h5py.File) -> bool:
    """Whether an HDF5 file is of MuData."""
    return isinstance(file.get("mod"), h5py.Group)


def open_mudata(path: Path, handle: StoreHandle) -> "MuDataCells":
    """Open the modality with gene expression: "rna" if there is one, else the only one that holds some.

    Raises:
        ValueError: It is not clear which modality that is; the message lists them.
    """
    root = handle.root
    with damage_named(str(path)):
        names = list(root["mod"])
        chosen = [name for name in names if name in _RNA] or [name for name in names if name.casefold() in _RNA]
        if not chosen:
            chosen = [name for name in names if _has_expression(root["mod"][name])]
    if len(chosen) != 1:
        listed = ", ".join(map(repr, names)) or "none"
        raise ValueError(
            f"{path} has the modalities {listed}, and it is not clear which of them is gene expression; write that as "
            f"a file: mudata.read_h5ad({path.name!r}, mod=NAME).write_h5ad('rna.h5ad')"
        )
    return MuDataCells(path, handle, chosen[0])


def _has_expression(group: Any) -> bool:
    if "feature_types" not in group["var"]:
        return False
    found = feature_types(pd.DataFrame({"feature_types": read_column(group["var"], "feature_types").array}))
    return bool(found.is_expression.all())


class MuDataCells(StoredCells):
    """The cells of one modality. Columns of obs that only the file as a whole has are theirs, too."""

    def __init__(self, path: Path, handle: StoreHandle, modality: str) -> None:
        self._modality = modality
        super().__init__(str(path), path, handle, f"mod/{modality}")
        with damage_named(f"obs of {path}"):
            own = column_names(self.group["obs"])
            shared = column_names(handle.root["obs"]) if "obs" in handle.root else []
            # The file repeats the columns of its modalities under names with a prefix.
            prefixes = tuple(f"{name}:" for name in handle.root["mod"])
            self._shared = [name for name in shared if name not in own and not name.startswith(prefixes)]

    def column_names(self) -> list[str]:
        return [*super().column_names(), *self._shared]

    def column(self, name: str) -> pd.Series:
        if name not in self._shared:
            return super().column(name)
        root = self._handle.root
        with damage_named(f"obs[{name!r}] of {self.name}"):
            values = read_column(root["obs"], name)
            names = pd.Index(row_names(root["obs"]))
            rows = names.get_indexer(self.cell_names()) if names.is_unique else np.array([-1])
            if (rows < 0).any():
                raise ValueError("the obs of the whole file does not name every cell of the modality once")
        return values.iloc[rows].reset_index(drop=True)

    def frame(self, name: str) -> pd.DataFrame:
        frame = super().frame(name)
        if name == "obs":
            for column in self._shared:
                frame[column] = self.column(column).array
        return frame


__all__ = ["MuDataCells", "is_mudata", "open_mudata"]
