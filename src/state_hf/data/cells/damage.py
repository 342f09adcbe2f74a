"""Names why a file cannot be read: what it needs that is not there, or what is damaged in it.

Damage is found before compiled loops follow it out of their arrays.
"""

import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

# The types of its own errors, which anndata makes public under no other name.
from anndata._io.specs.registry import IORegistryError
from anndata._io.utils import AnnDataReadError

from state_hf.data.whole_files import error_number

# What h5py, zarr, anndata and numpy raise over a structure that is not as anndata writes it.
_SYMPTOMS = (
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
    OverflowError,
    IORegistryError,
    AnnDataReadError,
)

# The best that compression makes of real numbers is a thousandth; what is smaller was never written.
_MOST_COMPRESSED = 10_000
_LARGE_BYTES = 2**27

# Far more than real files have. Readers follow links one below the other: where that reaches Python's limit of
# recursion inside h5py, its lock stays taken, and the next thread that reads any file waits for ever.
_MOST_LEVELS = 50
_MOST_ENTRIES = 1_000_000

# HDF5's numbers of the filters that the package hdf5plugin brings.
_FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32018: "fcidecomp",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}
_ENCODINGS = re.compile(
    r"encoding_type='(array|csr_matrix|csc_matrix|dataframe|dict|categorical|string|string-array|anndata|raw|null"
    r"|numeric-scalar|rec-array|nullable-(integer|boolean|string-array)|awkward-array)?'"
)
# What zarr and numcodecs say of a store that a newer version, or one with more codecs, has written.
_UNKNOWN_TO_ZARR = re.compile(
    r"No Zarr data type found|Unknown codec|codec not available|Unknown chunk grid|Invalid value for 'zarr_format'"
    r"|disallowed extra fields|ArrayBytesCodec|An implementation for codec"
)


@contextmanager
def damage_named(place: str) -> Iterator[None]:
    """Turns the errors of the libraries that read a file into one that names it, and the cause.

    Raises:
        ValueError: The file is damaged, or was written by something newer than what reads it.
    """
    try:
        yield
    except (*_SYMPTOMS, ValueError, OSError) as error:
        # A full or failing disk is no damage, and a message that names the file needs no second one.
        failed = isinstance(error, OSError | RuntimeError) and error_number(error) is not None
        if failed or (isinstance(error, ValueError | OSError) and place.rpartition(" of ")[2] in str(error)):
            raise
        # A KeyError's text is in quotes.
        reason = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__
        raise ValueError(f"{place} {_cause(error, reason)}") from error


def _cause(error: BaseException, reason: str) -> str:
    if isinstance(error, MemoryError):
        return f"asks for more memory than there is: {reason}"
    if isinstance(error, ValueError) and _UNKNOWN_TO_ZARR.search(reason):
        return (
            f"was written with something that zarr {zarr.__version__} does not know ({reason.rstrip('.')}): try a "
            "newer one, pip install -U zarr numcodecs"
        )
    if isinstance(error, IORegistryError) and "encoding_type=" in reason and not _ENCODINGS.search(reason):
        ours = importlib.metadata.version("anndata")
        return f"was written by a newer anndata than {ours} ({reason}): pip install -U anndata"
    return f"is damaged, or not as anndata writes it: {reason}"


def open_hdf5(path: Path, **options: Any) -> h5py.File:
    """Open an HDF5 file to read it.

    Args:
        path: The file.
        **options: Further arguments of `h5py.File`.

    Raises:
        OSError: It cannot be opened, or is cut off.
        ValueError: It claims arrays that it does not hold, which would fill the memory with zeros, its links lead in
            circles or without end, or it is compressed with what no plugin here reads.
    """
    try:
        file = h5py.File(path, "r", **options)
    except OSError as error:
        if str(path) in str(error):
            raise
        raise OSError(f"{path} cannot be read, and may be cut off: {error}") from error
    try:
        with damage_named(str(path)):
            file.visititems(_check_claim)
            _check_links(file)
            _check_filters(path, file)
    except ValueError:
        file.close()
        raise
    return file


def _check_links(file: h5py.File) -> None:
    """Refuse links that whoever follows them does not come to the end of."""
    above: list[tuple[int, int]] = []
    known: dict[tuple[int, int], tuple[int, int]] = {}

    def size_of(group: h5py.Group, path: str) -> tuple[int, int]:
        """(entries, levels) below a group, counted along every link to them."""
        info = h5py.h5o.get_info(group.id)
        address = (info.fileno, info.addr)
        if address in above:
            raise ValueError(f"its {path} leads back to a group that it lies in")
        if len(above) > _MOST_LEVELS:
            raise ValueError(f"its {path} lies more than {_MOST_LEVELS} groups deep")
        if address not in known:
            above.append(address)
            inner = [size_of(group[name], f"{path}/{name}".lstrip("/")) for name in group if _is_group(group, name)]
            above.pop()
            entries = len(group) + sum(number for number, _ in inner)
            if entries > _MOST_ENTRIES:
                raise ValueError(f"its links lead to more than {_MOST_ENTRIES:,} entries")
            known[address] = (entries, 1 + max((levels for _, levels in inner), default=0))
        entries, levels = known[address]
        if len(above) + levels > _MOST_LEVELS:
            raise ValueError(f"its {path} holds groups more than {_MOST_LEVELS} deep")
        return entries, levels

    size_of(file, "")


def _is_group(group: h5py.Group, name: str) -> bool:
    try:
        return group.get(name, getclass=True) is h5py.Group
    except (KeyError, OSError, RuntimeError):
        # A link to nothing, or to no HDF5 file: an error where it is read.
        return False


def _check_claim(name: str, node: Any) -> None:
    if not isinstance(node, h5py.Dataset) or node.is_virtual or not node.shape or node.nbytes < _LARGE_BYTES:
        return
    stored = node.id.get_storage_size()
    if stored * _MOST_COMPRESSED < node.nbytes:
        raise ValueError(f"its {name} claims {node.nbytes:,} bytes, of which {stored:,} are there")


def _check_filters(path: Path, file: h5py.File) -> None:
    missing: dict[int, tuple[str, str]] = {}

    def look(name: str, node: Any) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        created = node.id.get_create_plist()
        for place in range(created.get_nfilters()):
            code, _, _, said = created.get_filter(place)
            if not h5py.h5z.filter_avail(code):
                missing.setdefault(code, (name, said.decode(errors="replace").partition(";")[0]))

    file.visititems(look)
    if missing:
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401  (it tells HDF5 of its filters)
    for code, (name, said) in missing.items():
        if not h5py.h5z.filter_avail(code):
            known = _FILTERS.get(code)
            remedy = (
                "pip install hdf5plugin" if known else "install the plugin, and name its folder in HDF5_PLUGIN_PATH"
            )
            raise ValueError(
                f"{path} is compressed with {known or said or 'a filter'} (HDF5 filter {code}, in {name}), which is "
                f"read with a plugin: {remedy}"
            )


def names_in(group: Any) -> list[str]:
    """The names of what is in a group of an HDF5 file or Zarr store; none of what is missing or no group."""
    # To go through an array would be to go through its numbers.
    return list(group) if isinstance(group, h5py.Group | zarr.Group) else []


def check_starts(place: str, starts: np.ndarray, num_values: int) -> None:
    """Check where the rows of a sparse matrix begin (`indptr`).

    Raises:
        ValueError: They are no whole numbers, do not ascend, or lie outside of the stored values.
    """
    _check_whole(place, "indptr", starts)
    if not len(starts) or starts[0] < 0 or starts[-1] > num_values or (starts[1:] < starts[:-1]).any():
        raise ValueError(
            f"{place} is damaged: its indptr does not ascend from 0 to the {num_values:,} values that are stored"
        )


def check_indices(place: str, indices: np.ndarray, length: int) -> None:
    """Check the indices of stored values.

    Raises:
        ValueError: They are no whole numbers, or one is outside of the matrix.
    """
    _check_whole(place, "indices", indices)
    if indices.size and (indices.min() < 0 or indices.max() >= length):
        bad = indices[(indices < 0) | (indices >= length)][0]
        raise ValueError(f"{place} is damaged: a value has the index {bad}, and the matrix ends at {length - 1:,}")


def _check_whole(place: str, name: str, numbers: np.ndarray) -> None:
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"{place} is damaged: its {name} are of the type {numbers.dtype}, not whole numbers")


__all__ = ["IORegistryError", "check_indices", "check_starts", "damage_named", "names_in", "open_hdf5"]
