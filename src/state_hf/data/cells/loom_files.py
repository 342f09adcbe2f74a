"""Loom files (https://linnarssonlab.org/loompy/format): a dense matrix stored by genes, read in blocks."""

from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from state_hf.data.cells.damage import damage_named
from state_hf.data.cells.layouts import TransposedDenseLayout
from state_hf.data.cells.stored_cells import StoreHandle
from state_hf.data.cells.table_cells import TableCells, read_texts

# Where the names are, in the order of preference: the format's own name, scanpy's, others in use.
_CELL_NAMES = ("CellID", "obs_names", "cell_id", "Barcode")
_GENE_NAMES = ("Gene", "var_names", "gene_name", "Accession")


def is_loom(file: h5py.File) -> bool:
    """Whether an HDF5 file is a loom file."""
    return isinstance(file.get("matrix"), h5py.Dataset) and {"row_attrs", "col_attrs"} <= set(file)


def open_loom(path: Path, handle: StoreHandle) -> TableCells:
    """Open a loom file: cells are its columns, with `col_attrs` as obs, and genes its rows, with `row_attrs` as var.

    Attributes of two dimensions or more and graphs are not read.

    Raises:
        ValueError: It names no cells or genes, or as many as the matrix does not have.
    """
    root = handle.root
    with damage_named(str(path)):
        obs, var = _frame(path, root["col_attrs"], _CELL_NAMES), _frame(path, root["row_attrs"], _GENE_NAMES)
        shape = root["matrix"].shape
        if shape != (len(var), len(obs)):
            raise ValueError(
                f"{path} is damaged: its matrix is {shape}, and it names {len(var)} genes, {len(obs)} cells"
            )
        layers = [f"layers/{name}" for name in root.get("layers", {}) if name]
    return TableCells(path, handle, obs, var, {slot: partial(_open_layout, slot) for slot in ("X", *layers)})


def _open_layout(slot: str, place: str, root: Any) -> TransposedDenseLayout:
    return TransposedDenseLayout(place, root["matrix" if slot == "X" else slot])


def _frame(path: Path, group: h5py.Group, names: tuple[str, ...]) -> pd.DataFrame:
    columns = {key: read_texts(group[key]) for key in group if group[key].ndim == 1}
    index = next((name for name in names if name in columns), None)
    if index is None:
        kind, known = "cells" if names is _CELL_NAMES else "genes", ", ".join(columns) or "none"
        raise ValueError(
            f"{path} does not name its {kind}: {group.name.strip('/')} has no {' or '.join(names)} (it has {known})"
        )
    frame = pd.DataFrame(columns).set_index(index)
    frame.index = frame.index.astype(str)
    frame.index.name = None
    return frame


__all__ = ["is_loom", "open_loom"]
