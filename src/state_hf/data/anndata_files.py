"""Copies of AnnData files and stores with one embedding more, made without loading them."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem

from state_hf.data.anndata_elements import write_element
from state_hf.data.cells.frames import column_names, read_frame
from state_hf.data.damaged_files import IORegistryError, open_hdf5
from state_hf.tokenization.cell_matrix import layer_names

_COPY_BYTES = 2**26
# Slots whose matrices grow with the number of cells, and are therefore copied piece by piece.
_MATRIX_SLOTS = ("layers", "obsm", "obsp")

# An h5py or a zarr group: mappings of names to arrays and groups, with attributes.
Group: TypeAlias = Any


@contextmanager
def open_store(path: Path, mode: Literal["r", "r+", "w"]) -> Iterator[Group]:
    """Open an .h5ad file or a .zarr store; a new store gets the Zarr format that anndata writes."""
    if not is_zarr(path):
        with open_hdf5(path) if mode == "r" else h5py.File(path, mode) as file:
            yield file
        return
    new = {"zarr_format": anndata.settings.zarr_write_format} if mode == "w" else {}
    store = zarr.open_group(path, mode=mode, use_consolidated=False, **new)
    yield store
    if mode != "r":
        # Readers look at the consolidated metadata alone, where new members are to be listed.
        zarr.consolidate_metadata(store.store)


def is_zarr(path: Path) -> bool:
    """Whether a path is a Zarr store, or is to become one."""
    return path.suffix == ".zarr" or path.is_dir()


def _copy_array(source: Any, target: Group, name: str) -> None:
    """Copy a numeric array row by row; the target's library chooses chunks and compression."""
    shape = tuple(source.shape)
    if isinstance(target, h5py.Group):
        copy = target.create_dataset(name, shape=shape, dtype=source.dtype, chunks=True if 0 not in shape else None)
    else:
        copy = target.create_array(name, shape=shape, dtype=source.dtype)
    row_bytes = max(source.dtype.itemsize * int(np.prod(shape[1:])), 1)
    step = max(_COPY_BYTES // row_bytes, 1)
    for start in range(0, shape[0], step):
        copy[start : start + step] = source[start : start + step]
    copy.attrs.update(dict(source.attrs))


def _copy_element(source: Group, target: Group, name: str, *, matrices: bool) -> None:
    element = source[name]
    encoding = element.attrs.get("encoding-type")
    is_sparse = encoding in ("csr_matrix", "csc_matrix")
    if is_sparse or (encoding == "array" and element.ndim > 1):
        if not matrices:
            return
        if not is_sparse:
            _copy_array(element, target, name)
            return
        copy = target.create_group(name)
        copy.attrs.update({key: np.asarray(value).tolist() for key, value in element.attrs.items()})
        for part in ("data", "indices", "indptr"):
            _copy_array(element[part], copy, part)
    else:
        write_element(target, name, read_elem(element))


def _convert(source_path: Path, target: Group, *, matrices: bool) -> None:
    """Write an .h5ad file as a .zarr store, or the reverse; big matrices go piece by piece."""
    with open_store(source_path, "r") as source:
        target.attrs.update({key: str(value) for key, value in source.attrs.items()})
        for slot in source:
            if slot in (*_MATRIX_SLOTS, "raw"):
                group = target.create_group(slot)
                group.attrs.update({key: str(value) for key, value in source[slot].attrs.items()})
                for name in source[slot]:
                    _copy_element(source[slot], group, name, matrices=matrices)
            else:
                _copy_element(source, target, slot, matrices=matrices)


def _write_object(adata: anndata.AnnData, target: Group, *, matrices: bool) -> None:
    """Write an object, whose strings and backing file stay as they are, which its own methods would change."""
    target.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    if matrices and adata.X is not None:
        write_element(target, "X", adata.X)
    for slot in ("obs", "var", "uns"):
        write_element(target, slot, getattr(adata, slot))
    write_element(target, "layers", {name: adata.layers[name] for name in layer_names(adata)} if matrices else {})
    for slot in ("obsm", "varm", "obsp", "varp"):
        write_element(target, slot, dict(getattr(adata, slot)) if matrices else {})
    if adata.raw is not None:
        raw = target.create_group("raw")
        raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        for slot, value in (("X", adata.raw.X), ("varm", dict(adata.raw.varm))) if matrices else ():
            write_element(raw, slot, value)
        write_element(raw, "var", adata.raw.var)


def _write_copy(source: Path | anndata.AnnData, store: Group, target: Path, *, matrices: bool) -> None:
    name = "the AnnData object" if isinstance(source, anndata.AnnData) else source
    try:
        if isinstance(source, anndata.AnnData):
            _write_object(source, store, matrices=matrices)
        else:
            _convert(source, store, matrices=matrices)
    except (IORegistryError, TypeError, KeyError, NotImplementedError, ValueError, AttributeError) as error:
        said = "; ".join([str(error).strip("'\""), *getattr(error, "__notes__", ())])
        raise ValueError(f"{name} has something that {target} cannot hold: {said}") from error


def _copy_folder(source: Path, target: Path) -> None:
    """Copy what is in a folder; unlike the standard library's way, the permissions are those of new files."""
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            _copy_folder(entry, target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)


def check_copy(source: Path | anndata.AnnData, target: Path) -> None:
    """Refuse, before there is work to lose, a data set with something in it that the copy's format does not hold.

    Args:
        source: What is to be copied by `copy_store`.
        target: The copy's path.

    Raises:
        ValueError: A column or another entry cannot be written; the message names it.
    """
    if not isinstance(source, anndata.AnnData) and is_zarr(source) == is_zarr(target):
        return
    if is_zarr(target):
        trial = zarr.open_group(zarr.storage.MemoryStore(), mode="w", zarr_format=anndata.settings.zarr_write_format)
        _write_copy(source, trial, target, matrices=False)
        return
    with h5py.File(target.name, "w", driver="core", backing_store=False) as trial:
        _write_copy(source, trial, target, matrices=False)


def copy_store(source: Path | anndata.AnnData, target: Path) -> None:
    """Copy a data set to a new .h5ad file or .zarr store, as it is; the permissions are those of new files.

    Args:
        source: An .h5ad file, a .zarr store, or an AnnData object (whose content in memory is what is written).
        target: The copy's path, ending in .h5ad or .zarr.

    Raises:
        ValueError: The source has something that the other format does not hold; the message names it.
    """
    if isinstance(source, anndata.AnnData) or is_zarr(source) != is_zarr(target):
        with open_store(target, "w") as store:
            _write_copy(source, store, target, matrices=True)
    elif is_zarr(source):
        _copy_folder(source, target)
    else:
        shutil.copyfile(source, target)


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


def read_column(path: str | Path, key: str) -> pd.Series:
    """A column of obs.

    Raises:
        ValueError: There is no such column (the message lists what there is).
    """
    with open_store(Path(path), "r") as store:
        obs = read_elem(store["obs"])
    if key not in obs:
        raise ValueError(f"{path} has no column {key!r} in obs; it has {', '.join(map(str, obs.columns))}")
    return obs[key]


def read_labels(path: str | Path, key: str) -> np.ndarray:
    """A column of obs as text; "" where a cell has no label.

    Raises:
        ValueError: There is no such column (the message lists what there is).
    """
    column = read_column(path, key)
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=object)
