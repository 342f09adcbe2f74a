"""AnnData files on the file systems that fsspec reaches: object stores, the Hugging Face hub, web servers."""

from typing import Any

import fsspec
import h5py
import zarr


def open_url(url: str) -> Any:
    """Open the root group of an .h5ad file or a .zarr store for reading; only what is asked for is fetched.

    Raises:
        FileNotFoundError: There is none.
        ImportError: The file system's package is not installed; the message names it.
    """
    filesystem, path = fsspec.core.url_to_fs(url)
    if not filesystem.exists(path):
        raise FileNotFoundError(f"there is no file {url}")
    if path.rstrip("/").endswith(".zarr"):
        return zarr.open_group(url, mode="r")
    return h5py.File(filesystem.open(path, "rb"), "r")


def url_fingerprint(url: str) -> str:
    """A short text that changes when the file does, as far as its server tells: size, time, or entity tag."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if path.rstrip("/").endswith(".zarr"):
        return str(sorted((name, entry["size"]) for name, entry in filesystem.find(path, detail=True).items()))
    return str(filesystem.ukey(path))


__all__ = ["open_url", "url_fingerprint"]
