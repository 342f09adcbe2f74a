"""Files within a compressed file: `.h5ad.gz`, and Zarr stores in a `.zip`."""

import gzip
import shutil
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import zarr

from state_hf.data.cells.damage import open_hdf5
from state_hf.data.cells.scratch import ScratchFolder
from state_hf.data.cells.stored_cells import StoreHandle

_ZARR_MARKERS = (".zgroup", "zarr.json")
# gzip's best is a thousandth; HDF5 that was compressed before gains next to nothing.
_GUESSED_RATIO = 8


class UnpackedHandle(StoreHandle):
    """The content of a gzip-compressed HDF5 file, in a temporary file (TMPDIR) that goes with the handle.

    Raises:
        ValueError: The file is cut off or damaged.
        OSError: There is no room for its content.
    """

    def __init__(self, path: Path) -> None:
        self._folder = ScratchFolder(_GUESSED_RATIO * path.stat().st_size, f"unpacking {path}")
        unpacked = self._folder.path / path.name.removesuffix(".gz")
        try:
            with gzip.open(path) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target, 2**24)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is cut off or damaged: {error}") from error
        super().__init__(partial(open_hdf5, unpacked))


def zipped_store(path: Path) -> str | None:
    """Where in a .zip file a Zarr store is: its folder, "" for the root; `None` if there is none.

    Raises:
        ValueError: The file is cut off or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is cut off or damaged: {error}") from error
    folders = [name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in _ZARR_MARKERS]
    return min(folders, key=lambda folder: (folder.count("/") + bool(folder), folder)) if folders else None


def open_zipped_store(path: Path, folder: str) -> Any:
    """The root group of a Zarr store in a .zip file; nothing is unpacked."""
    return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), path=folder, mode="r")


__all__ = ["UnpackedHandle", "open_zipped_store", "zipped_store"]
