"""Opens cells, whatever they are in: the one way in which every command reads them."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import h5py
import zarr

from state_hf.configuration.file_permissions import check_readable
from state_hf.data.cells.cells import Cells
from state_hf.data.cells.damage import damage_named, open_hdf5
from state_hf.data.cells.locations import is_url
from state_hf.data.cells.loom_files import is_loom, open_loom
from state_hf.data.cells.mudata_files import is_mudata, open_mudata
from state_hf.data.cells.object_cells import LoadedCells, ObjectCells
from state_hf.data.cells.packed_files import UnpackedHandle, open_zipped_store, zipped_store
from state_hf.data.cells.refused_inputs import refusal, refused_hdf5
from state_hf.data.cells.remote import open_url
from state_hf.data.cells.stored_cells import StoredCells, StoreHandle
from state_hf.data.cells.tenx_files import mtx_prefix, open_mtx_folder, open_tenx_h5, tenx_groups

# A chunk of one column group of a compressed matrix is needed by many rows in turn.
_CHUNK_CACHE_BYTES = 2**25
_ZARR_MARKERS = (".zgroup", "zarr.json")


def open_cells(data: Any) -> Cells:
    """Open the cells of an object or a file. No matrix is read until one is asked for, and then in blocks.

    Files are told apart by what is in them: AnnData (.h5ad of any version, .h5ad.gz, .zarr, .zarr.zip), the modality of
    gene expression of MuData (.h5mu), loom, and the .h5 files and .mtx folders of Cell Ranger. Read into memory as a
    whole are .mtx folders, and .h5ad files of before anndata 0.7 (2020); a .h5ad.gz is unpacked to a temporary file.

    Args:
        data: An AnnData object (in memory, a view of one, or backed), a path, or the URL of an .h5ad file or .zarr
            store on a file system that `fsspec` knows (s3://, gs://, hf://, https://).

    Returns:
        The cells; use them in a `with` statement, so that a file is closed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of a kind that is not read (the message says what to do), or damaged.
    """
    if isinstance(data, Cells):
        return data
    if isinstance(data, anndata.AnnData):
        return ObjectCells(data)
    if not isinstance(data, str | Path):
        raise ValueError(f"cells are an AnnData object, a path or a URL, not {type(data).__name__}")
    with damage_named(str(data)):
        return _open_url(str(data)) if is_url(data) else _open_path(Path(data))


def _open_url(url: str) -> Cells:
    handle = StoreHandle(partial(open_url, url))
    if isinstance(handle.root.get("obs"), h5py.Dataset):
        raise ValueError(f"{url} was written before anndata 0.7, and is read as a whole: download it first")
    return StoredCells(url, url, handle)


def _open_path(path: Path) -> Cells:
    check_readable(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        if any((path / marker).exists() for marker in _ZARR_MARKERS):
            return StoredCells(str(path), path, StoreHandle(partial(zarr.open_group, path, mode="r")))
        if mtx_prefix(path) is not None:
            return open_mtx_folder(path)
        raise ValueError(refusal(path))
    if h5py.is_hdf5(path):
        return _open_hdf5(path, StoreHandle(partial(open_hdf5, path, rdcc_nbytes=_CHUNK_CACHE_BYTES)))
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"\x1f\x8b") and path.name.endswith((".h5ad.gz", ".h5.gz", ".h5mu.gz", ".loom.gz")):
        return _open_hdf5(path, UnpackedHandle(path))
    if start.startswith(b"PK") and path.suffix != ".xlsx":
        folder = zipped_store(path)
        if folder is not None:
            return StoredCells(str(path), path, StoreHandle(partial(open_zipped_store, path, folder)), is_plain=False)
    raise ValueError(refusal(path))


def _open_hdf5(path: Path, handle: StoreHandle) -> Cells:
    root = handle.root
    try:
        if isinstance(root.get("obs"), h5py.Dataset) and root["obs"].dtype.names is not None:
            return LoadedCells(path, partial(_read_old, handle))
        if is_mudata(root):
            return open_mudata(path, handle)
        if is_loom(root):
            return open_loom(path, handle)
        groups = tenx_groups(root)
        if groups:
            return open_tenx_h5(path, handle, groups)
        if not any(name in root for name in ("obs", "var")):
            raise ValueError(refused_hdf5(path, root))
        return StoredCells(str(path), path, handle, is_plain=not isinstance(handle, UnpackedHandle))
    except BaseException:
        handle.close()
        raise


def _read_old(handle: StoreHandle, path: Path) -> anndata.AnnData:
    """Read a file of before anndata 0.7, whose frames are tables."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the file is old, once for each of its parts
        with damage_named(str(path)):
            return anndata.read_h5ad(handle.root.filename)


def holds_cells(folder: Path) -> bool:
    """Whether a folder is one data set: a Zarr store, or one of Cell Ranger."""
    return any((folder / marker).exists() for marker in _ZARR_MARKERS) or mtx_prefix(folder) is not None


__all__ = ["holds_cells", "open_cells"]
