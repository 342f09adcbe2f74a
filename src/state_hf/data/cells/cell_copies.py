"""Copies of data sets as .h5ad files or .zarr stores, whatever they are in; big matrices are copied piece by piece."""

import shutil
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import zarr
from scipy.sparse import csr_matrix

from state_hf.data.cells.anndata_elements import write_element
from state_hf.data.cells.anndata_files import Group, is_zarr, new_zarr_format, open_store
from state_hf.data.cells.cells import Cells
from state_hf.data.cells.damage import IORegistryError
from state_hf.data.cells.layouts import Layout
from state_hf.data.cells.object_cells import ObjectCells
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_cells import StoredCells, read_quietly
from state_hf.tokenization.cell_matrix import layer_names

_COPY_BYTES = 2**26
_GROWING_VALUES = 2**16
# Slots whose matrices grow with the number of cells, and are therefore copied piece by piece.
_MATRIX_SLOTS = ("layers", "obsm", "obsp")
_ANNDATA = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
_ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}


def _copy_array(source: Any, target: Group, name: str) -> Any:
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
    return copy


def _copy_element(source: Group, target: Group, name: str, *, matrices: bool) -> None:
    element = source[name]
    encoding = element.attrs.get("encoding-type")
    is_sparse = encoding in ("csr_matrix", "csc_matrix")
    # anndata 0.7 said nothing of its arrays.
    is_array = encoding in ("array", None) and len(getattr(element, "shape", ())) > 1
    if not is_sparse and not is_array:
        write_element(target, name, read_quietly(element))
    elif matrices and is_array:
        _copy_array(element, target, name).attrs.update(_ARRAY)
    elif matrices:
        copy = target.create_group(name)
        copy.attrs.update({key: np.asarray(value).tolist() for key, value in element.attrs.items()})
        for part in ("data", "indices", "indptr"):
            _copy_array(element[part], copy, part)


def _write_stored(cells: StoredCells, target: Group, *, matrices: bool) -> None:
    source = cells.group
    for slot in source:
        if source[slot].attrs.get("encoding-type") == "null":
            continue  # which HDF5 has no element for, as Zarr has
        if slot in ("obs", "var"):
            write_element(target, slot, cells.frame(slot))
        elif slot in (*_MATRIX_SLOTS, "raw"):
            group = target.create_group(slot)
            said = {key: str(value) for key, value in source[slot].attrs.items()}
            group.attrs.update(
                {"encoding-type": "raw" if slot == "raw" else "dict", "encoding-version": "0.1.0", **said}
            )
            for name in source[slot]:
                _copy_element(source[slot], group, name, matrices=matrices)
        else:
            _copy_element(source, target, slot, matrices=matrices)


def _write_object(adata: anndata.AnnData, target: Group, *, matrices: bool) -> None:
    """Write an object, whose strings and backing file stay as they are, which its own methods would change."""
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


def _write_others(cells: Cells, target: Group, *, matrices: bool) -> None:
    """Write cells of another format: frames, and matrices as CSR."""
    for slot in ("obs", "var"):
        write_element(target, slot, cells.frame(slot))
    for slot in ("layers", "obsm", "uns"):
        write_element(target, slot, {})
    for slot in cells.slots() if matrices else ():
        parent, _, name = slot.rpartition("/")
        _write_csr(cells.open_layout(slot), target[parent] if parent else target, name)


def _write_csr(layout: Layout, target: Group, name: str) -> None:
    group = target.create_group(name)
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(layout.shape)})
    dtype = layout.block(0, 0).dtype
    if isinstance(target, h5py.Group):
        options: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (_GROWING_VALUES,)}
        data = group.create_dataset("data", dtype=dtype, **options)
        indices = group.create_dataset("indices", dtype=np.int32, **options)
    else:
        data = group.create_array("data", shape=(0,), dtype=dtype, chunks=(_GROWING_VALUES,))
        indices = group.create_array("indices", shape=(0,), dtype=np.int32, chunks=(_GROWING_VALUES,))
    lengths = np.zeros(layout.shape[0], dtype=np.int64)
    done, step = 0, max(1, int(_COPY_BYTES // max(layout.bytes_per_cell, 1)))
    for start in range(0, layout.shape[0], step):
        block = csr_matrix(layout.block(start, min(start + step, layout.shape[0])))
        lengths[start : start + block.shape[0]] = np.diff(block.indptr)
        for array, values in ((data, block.data), (indices, block.indices)):
            array.resize((done + block.nnz,))
            array[done:] = values
        done += block.nnz
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    if isinstance(target, h5py.Group):
        group.create_dataset("indptr", data=indptr)
    else:
        group.create_array("indptr", data=indptr)


def _write_copy(cells: Cells, store: Group, target: Path, *, matrices: bool) -> None:
    store.attrs.update(_ANNDATA)
    try:
        if isinstance(cells, ObjectCells):
            _write_object(cells.adata, store, matrices=matrices)
        elif isinstance(cells, StoredCells):
            _write_stored(cells, store, matrices=matrices)
        else:
            _write_others(cells, store, matrices=matrices)
    except (IORegistryError, TypeError, KeyError, NotImplementedError, ValueError, AttributeError) as error:
        said = "; ".join([str(error).strip("'\""), *getattr(error, "__notes__", ())])
        raise ValueError(f"{cells.name} has something that {target} cannot hold: {said}") from error


def _copy_folder(source: Path, target: Path) -> None:
    """Copy what is in a folder; unlike the standard library's way, the permissions are those of new files."""
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            _copy_folder(entry, target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)


def _same_format(cells: Cells, target: Path) -> Path | None:
    """The file or store that is to be copied as it is; `None` where its content is to be written anew."""
    file = cells.file if isinstance(cells, StoredCells) else None
    return file if file is not None and is_zarr(file) == is_zarr(target) else None


def check_copy(data: Any, target: Path) -> None:
    """Refuse, before there is work to lose, a data set with something in it that the copy's format does not hold.

    Args:
        data: What is to be copied by `copy_store`.
        target: The copy's path.

    Raises:
        ValueError: A column or another entry cannot be written; the message names it.
    """
    with open_cells(data) as cells:
        if _same_format(cells, target) is not None:
            return
        if is_zarr(target):
            store = zarr.storage.MemoryStore()
            trial = zarr.open_group(store, mode="w", zarr_format=new_zarr_format())
            _write_copy(cells, trial, target, matrices=False)
            return
        with h5py.File(target.name, "w", driver="core", backing_store=False) as trial:
            _write_copy(cells, trial, target, matrices=False)


def copy_store(data: Any, target: Path) -> None:
    """Copy a data set to a new .h5ad file or .zarr store, as it is; the permissions are those of new files.

    Args:
        data: What `open_cells` takes; of an AnnData object, the content in memory is what is written.
        target: The copy's path, ending in .h5ad or .zarr.

    Raises:
        ValueError: The data have something that the other format does not hold; the message names it.
    """
    with open_cells(data) as cells:
        file = _same_format(cells, target)
        if file is None:
            with open_store(target, "w") as store:
                _write_copy(cells, store, target, matrices=True)
        elif is_zarr(file):
            _copy_folder(file, target)
        else:
            shutil.copyfile(file, target)


__all__ = ["check_copy", "copy_store"]
