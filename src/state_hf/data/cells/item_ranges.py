"""Ranges of items of stored arrays: what random access to a file of cells costs is decided here.

Values that HDF5 stores unfiltered are read from their place in the file, without the library's cost per call; filtered
ones are decoded chunk by chunk through h5py.
"""

import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

# Reading this much for nothing is cheaper than a second call.
_GAP_BYTES = 2**13
# A disk fetches about so much in the time that one more piece elsewhere takes it.
_SEEK_BYTES = 2**17
_SWEEP_BYTES = 2**20


def join_ranges(starts: np.ndarray, stops: np.ndarray, gap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join ascending ranges that lie close to each other.

    Args:
        starts: (ranges,) first item of every range.
        stops: (ranges,) its end.
        gap: Most items between two ranges that are joined.

    Returns:
        Starts and stops of the joined ranges, and where every range begins once the joined ones lie end to end.
    """
    begins = np.ones(len(starts), dtype=bool)
    begins[1:] = starts[1:] - stops[:-1] > gap
    first = np.flatnonzero(begins)
    run_starts, run_stops = starts[first], stops[np.append(first[1:], len(starts)) - 1] if len(first) else stops
    offsets = np.cumsum(run_stops - run_starts) - (run_stops - run_starts)
    run = np.cumsum(begins) - 1
    return run_starts, run_stops, offsets[run] + starts - run_starts[run]


def _free_memory() -> int:
    """Bytes that the system can give without swapping, page cache included; 0 where it does not tell."""
    table = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", table.read_text()) if table.exists() else None
    return int(found[1]) * 1024 if found else 0


class HDF5Items:
    """Items along the first axis of an HDF5 dataset: values of a vector, or rows of a matrix.

    Args:
        dataset: Numbers, of one dimension or more.

    Attributes:
        gap: Most items between two ranges that are better read in one go.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._shape, self._dtype = dataset.shape, dataset.dtype
        self._item_bytes = self._dtype.itemsize * int(np.prod(self._shape[1:]))
        self._addresses, self._chunk_items = self._find_chunks()
        self.gap = max(1, _GAP_BYTES // max(1, self._item_bytes))
        if self._addresses is None and dataset.chunks:
            self.gap = dataset.chunks[0]  # chunks are decoded as a whole
        self._pieces_read, self._swept = 0, False
        self._descriptor = dataset.file.id.get_vfd_handle() if self._addresses is not None else -1

    def _find_chunks(self) -> tuple[np.ndarray | None, int]:
        """Where every chunk lies in the file, and its number of items; `None` where bytes cannot be read directly."""
        dataset, created = self._dataset, self._dataset.id.get_create_plist()
        plain = created.get_nfilters() == 0 and dataset.file.userblock_size == 0 and dataset.external is None
        readable = dataset.dtype.kind in "iuf" and dataset.file.driver == "sec2" and hasattr(os, "preadv")
        if not plain or dataset.is_virtual or not readable:
            return None, 0
        if dataset.chunks is None:
            address = dataset.id.get_offset()
            return (np.array([address]), max(1, self._shape[0])) if address is not None else (None, 0)
        if dataset.chunks[1:] != self._shape[1:]:
            return None, 0
        addresses = np.full(-(-self._shape[0] // dataset.chunks[0]), -1, dtype=np.int64)

        def note(chunk: Any) -> None:
            addresses[chunk.chunk_offset[0] // dataset.chunks[0]] = chunk.byte_offset

        dataset.id.chunk_iter(note)
        return (addresses, dataset.chunks[0]) if (addresses >= 0).all() else (None, 0)

    def read(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Items of ascending ranges, one after the other.

        Raises:
            OSError: The file cannot be read, or ends too early.
        """
        starts, stops = starts[stops > starts], stops[stops > starts]
        items = np.empty((int((stops - starts).sum()), *self._shape[1:]), dtype=self._dtype)
        if self._addresses is not None:
            self._read_bytes(self._addresses, starts, stops, items)
            return items
        done = 0
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            self._dataset.read_direct(items, np.s_[start:stop], np.s_[done : done + stop - start])
            done += stop - start
        return items

    def _pieces(self, addresses: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> tuple[list[int], list[int]]:
        """Place in the file and bytes of what lies in one chunk each."""
        first = starts // self._chunk_items
        counts = (stops - 1) // self._chunk_items - first + 1
        # The number of a piece within its range.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        chunk = np.repeat(first, counts) + within
        piece_starts = np.maximum(np.repeat(starts, counts), chunk * self._chunk_items)
        piece_stops = np.minimum(np.repeat(stops, counts), (chunk + 1) * self._chunk_items)
        places = addresses[chunk] + (piece_starts - chunk * self._chunk_items) * self._item_bytes
        return places.tolist(), ((piece_stops - piece_starts) * self._item_bytes).tolist()

    def _announce(self, addresses: np.ndarray, places: list[int], sizes: list[int]) -> None:
        """Has the kernel fetch the next pieces, all at once, in the order that suits the disk.

        Once so many pieces have been read that a slow disk could have swept the whole dataset in the time, it is swept,
        if half of the free memory holds it: from then on everything comes from the kernel's cache.
        """
        for place, size in zip(places, sizes, strict=True):
            os.posix_fadvise(self._descriptor, place, size, os.POSIX_FADV_WILLNEED)
        self._pieces_read += len(places)
        total = self._shape[0] * self._item_bytes
        if self._swept or self._pieces_read * _SEEK_BYTES < total:
            return
        self._swept = True
        if total < _free_memory() / 2:
            chunk_bytes = min(self._chunk_items * self._item_bytes, total)
            for address in addresses.tolist():
                for offset in range(0, chunk_bytes, _SWEEP_BYTES):
                    size = min(_SWEEP_BYTES, chunk_bytes - offset)
                    os.posix_fadvise(self._descriptor, address + offset, size, os.POSIX_FADV_WILLNEED)

    def _read_bytes(self, addresses: np.ndarray, starts: np.ndarray, stops: np.ndarray, items: np.ndarray) -> None:
        places, sizes = self._pieces(addresses, starts, stops)
        if hasattr(os, "posix_fadvise"):
            self._announce(addresses, places, sizes)
        view, done = items.reshape(-1).view(np.uint8).data, 0
        for place, size in zip(places, sizes, strict=True):
            if os.preadv(self._descriptor, [view[done : done + size]], place) != size:
                name = self._dataset.file.filename
                raise OSError(f"{name} ends before {self._dataset.name} does: the file is cut off")
            done += size


class SlicedItems:
    """The same of any array that is sliced, such as one of a Zarr store.

    Args:
        array: Numbers, of one dimension or more.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        # A chunk, or a shard of chunks, is fetched as a whole.
        self.gap = int((getattr(array, "shards", None) or array.chunks)[0])

    def read(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Items of ascending ranges, one after the other."""
        pieces = [self._array[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        return np.concatenate(pieces) if pieces else np.empty((0, *self._array.shape[1:]), dtype=self._array.dtype)


def items_of(array: Any) -> HDF5Items | SlicedItems:
    """What reads ranges of items of an HDF5 dataset or a Zarr array."""
    return HDF5Items(array) if isinstance(array, h5py.Dataset) else SlicedItems(array)
