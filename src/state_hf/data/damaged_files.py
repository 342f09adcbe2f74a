"""Names what is damaged in a file, before compiled loops follow it out of their arrays."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from anndata._io.specs.registry import IORegistryError
from anndata._io.utils import AnnDataReadError

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


@contextmanager
def damage_named(place: str) -> Iterator[None]:
    """Turns the errors of the libraries that read a damaged file into one that names it.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        yield
    except _SYMPTOMS as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise ValueError(f"{place} is damaged, or not as anndata writes it: {reason}") from error


def check_starts(place: str, starts: np.ndarray, num_values: int) -> None:
    """Check where the rows of a sparse matrix begin (`indptr`).

    Raises:
        ValueError: They do not ascend, or lie outside of the stored values.
    """
    if not len(starts) or starts[0] < 0 or starts[-1] > num_values or (starts[1:] < starts[:-1]).any():
        raise ValueError(
            f"{place} is damaged: its indptr does not ascend from 0 to the {num_values:,} values that are stored"
        )


def check_indices(place: str, indices: np.ndarray, length: int) -> None:
    """Check the indices of stored values.

    Raises:
        ValueError: One is outside of the matrix.
    """
    if indices.size and (indices.min() < 0 or indices.max() >= length):
        bad = indices[(indices < 0) | (indices >= length)][0]
        raise ValueError(f"{place} is damaged: a value has the index {bad}, and the matrix ends at {length - 1:,}")


__all__ = ["check_indices", "check_starts", "damage_named"]
