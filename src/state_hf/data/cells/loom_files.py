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

# Where the names are, in the order of preference: the format's own name, scanpy's, loomR's, others in use; in any case.
_CELL_NAMES = ("CellID", "obs_names", "cell_names", "cell_id", "cell_name", "Cell", "Barcode", "Barcodes")
_GENE_NAMES = (
    "Gene", "var_names", "gene_names", "gene_name", "GeneName", "gene_symbol", "gene_symbols", "Symbol", "Name",
    "Accession", "gene_id", "gene_ids", "GeneID", "ensembl_id",
)  # fmt: skip


def is_loom(file: h5py.File) -> bool:
    """Whether an HDF5 file is a loom file."""
    return isinstance(file.get("matrix"), h5py.Dataset) and {"row_attrs", "col_attrs"} <= set(file)


def open_loom(path: Path, handle: StoreHandle) -> TableCells:
    """Open a loom file: cells are its columns, with `col_attrs` as obs, and genes its rows, with `row_attrs` as var.

    Attributes of two dimensions or more and graphs are not read. Cells without names have their numbers for names.

    Raises:
        ValueError: It names no genes, or as many cells or genes as the matrix does not have.
    """
    root = handle.root
    with damage_named(str(path)):
        shape = root["matrix"].shape
        obs, var = _frame(root["col_attrs"], _CELL_NAMES), _frame(root["row_attrs"], _GENE_NAMES)
        if var is None:
            known = ", ".join(root["row_attrs"]) or "none"
            raise ValueError(
                f"{path} does not name its genes: row_attrs has no {' or '.join(_GENE_NAMES)} (it has {known})"
            )
        if obs is None:
            obs = pd.DataFrame(_columns(root["col_attrs"]), index=[str(number) for number in range(shape[1])])
        if shape != (len(var), len(obs)):
            raise ValueError(
                f"{path} is damaged: its matrix is {shape}, and it names {len(var)} genes, {len(obs)} cells"
            )
        layers = [f"layers/{name}" for name in root.get("layers", {}) if name]
    return TableCells(path, handle, obs, var, {slot: partial(_open_layout, slot) for slot in ("X", *layers)})


def _open_layout(slot: str, place: str, root: Any) -> TransposedDenseLayout:
    return TransposedDenseLayout(place, root["matrix" if slot == "X" else slot])


def _columns(group: h5py.Group) -> dict[str, Any]:
    return {key: read_texts(group[key]) for key in group if group[key].ndim == 1}


def _frame(group: h5py.Group, names: tuple[str, ...]) -> pd.DataFrame | None:
    """The attributes with one value each, by their names; None where nothing names them."""
    columns = _columns(group)
    called = {key.casefold(): key for key in columns}
    index = next((called[name.casefold()] for name in names if name.casefold() in called), None)
    if index is None:
        return None
    frame = pd.DataFrame(columns).set_index(index)
    frame.index = frame.index.astype(str)
    frame.index.name = None
    return frame


__all__ = ["is_loom", "open_loom"]
