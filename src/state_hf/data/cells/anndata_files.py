"""AnnData files and stores that get one embedding more, or columns, without being loaded."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr

from state_hf.configuration.labels import FoundLabels, refuse_look_alikes
from state_hf.data.cells.anndata_elements import write_element
from state_hf.data.cells.damage import open_hdf5
from state_hf.data.cells.frames import column_names, read_frame
from state_hf.data.cells.open_cells import open_cells
from state_hf.metrics.label_columns import read_label_column

# An h5py or a zarr group: mappings of names to arrays and groups, with attributes.
Group: TypeAlias = Any


@contextmanager
def open_store(path: Path, mode: Literal["r", "r+", "w"]) -> Iterator[Group]:
    """Open an .h5ad file or a .zarr store; a new store gets the Zarr format that anndata writes."""
    if not is_zarr(path):
        with open_hdf5(path) if mode == "r" else h5py.File(path, mode) as file:
            yield file
        return
    zarr_format = new_zarr_format() if mode == "w" else None
    store = zarr.open_group(path, mode=mode, use_consolidated=False, zarr_format=zarr_format)
    yield store
    if mode != "r":
        with warnings.catch_warnings():
            # Of Zarr 3, whose specification lacks them; anndata writes and reads them all the same.
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
            # Readers look at the consolidated metadata alone, where new members are to be listed.
            zarr.consolidate_metadata(store.store)


def new_zarr_format() -> Literal[2, 3]:
    """The Zarr format that anndata writes."""
    with warnings.catch_warnings():
        # 0.13 warns whoever reads the setting that 0.14 will have none, and write format 3.
        warnings.filterwarnings("ignore", message="This setting will be removed", category=DeprecationWarning)
        return getattr(anndata.settings, "zarr_write_format", 3)


def is_zarr(path: Path) -> bool:
    """Whether a path is a Zarr store, or is to become one."""
    return path.suffix == ".zarr" or path.is_dir()


def add_embedding(
    path: Path, key: str, shape: tuple[int, int], blocks: Iterable[tuple[int, np.ndarray]], record: dict[str, Any]
) -> None:
    """Write an embedding to `obsm[key]` of a file or store, and how it was made to `uns[key]`.

    Args:
        path: An .h5ad file or .zarr store, changed in place.
        key: Name of the slot; what had this name is replaced.
        shape: (cells, dimensions).
        blocks: First cell and rows (cells, dimensions) of every block.
        record: Nested dictionaries of strings, numbers and arrays.
    """
    with open_store(path, "r+") as store:
        for slot in ("obsm", "uns"):
            if slot not in store:
                write_element(store, slot, {})
            if key in store[slot]:
                del store[slot][key]
        chunks = (max(1, min(shape[0], 2**20 // (4 * shape[1]))), shape[1])
        create = store["obsm"].create_array if is_zarr(path) else store["obsm"].create_dataset
        embedding = create(key, shape=shape, dtype=np.float32, chunks=chunks)
        embedding.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for start, rows in blocks:
            embedding[start : start + len(rows)] = rows
        write_element(store["uns"], key, record)


def add_columns(path: Path, table: pd.DataFrame, key: str, record: dict[str, Any]) -> None:
    """Write columns to `obs` of a file or store, in the order of its cells, and how they were made to `uns[key]`.

    Args:
        path: An .h5ad file or .zarr store, changed in place; columns of these names are replaced.
        table: One row a cell.
        key: Name of the record.
        record: Nested dictionaries of strings, numbers and arrays.
    """
    with open_store(path, "r+") as store:
        obs = store["obs"]
        if obs.attrs["encoding-version"] == "0.1.0":
            # anndata 0.7 kept the categories of its columns apart from them, so they are written anew.
            frame = read_frame(obs)
            del store["obs"]
            write_element(store, "obs", frame)
            obs = store["obs"]
        for column in table:
            if column in obs:
                del obs[column]
            write_element(obs, str(column), table[column].to_numpy())
        obs.attrs["column-order"] = list(dict.fromkeys([*column_names(obs), *map(str, table)]))
        if "uns" not in store:
            write_element(store, "uns", {})
        if key in store["uns"]:
            del store["uns"][key]
        write_element(store["uns"], key, record)


def read_obs_column(path: str | Path, key: str) -> pd.Series:
    """A column of obs.

    Raises:
        ValueError: There is no such column (the message lists what there is).
    """
    with open_cells(path) as cells:
        if key not in cells.column_names():
            raise ValueError(f"{path} has no column {key!r} in obs; it has {', '.join(cells.column_names())}")
        return cells.column(key)


def read_labels(path: str | Path, key: str) -> np.ndarray:
    """(cells,) object: a column of obs as texts, see `label_text`; "" where a cell has no label.

    Raises:
        ValueError: There is no such column (the message lists what there is).
    """
    read = read_label_column(read_obs_column(path, key))
    return np.array([*read.labels, ""], dtype=object)[read.codes]


def read_groups(path: str | Path, key: str) -> np.ndarray:
    """`read_labels` of a column by which cells are held out together.

    Raises:
        ValueError: There is no such column, or labels look alike (see `refuse_look_alikes`), of which one would train
            while the other is held out.
    """
    groups = read_labels(path, key)
    found = FoundLabels(f"obs[{key!r}] of {path}", [name for name in dict.fromkeys(groups.tolist()) if name], key)
    refuse_look_alikes([found], case_hint=", or, if they are different things, tell them apart by more than case")
    return groups
