"""The frames of an AnnData file (`obs`, `var`), column by column, as every anndata since 0.7 has written them."""

from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem


def column_names(frame: Any) -> list[str]:
    """Names of the columns, in order.

    Args:
        frame: The group of an HDF5 file or Zarr store.
    """
    return [str(name) for name in frame.attrs["column-order"]]


def read_column(frame: Any, name: str) -> pd.Series:
    """One column, without the others.

    anndata 0.7 (2019 to 2022) wrote the codes of a categorical column, and an attribute that says where their names
    are. Read as an element of its own, such a column is its codes.
    """
    element = frame[name]
    if isinstance(element, h5py.Group | zarr.Group) or "encoding-type" in element.attrs:
        return pd.Series(read_elem(element))
    if "categories" not in element.attrs:
        return pd.Series(_plain(element))
    names: Any = frame[element.attrs["categories"]]  # a reference, or in Zarr a path from the frame
    ordered = bool(names.attrs.get("ordered", False))
    return pd.Series(pd.Categorical.from_codes(_plain(element), pd.Index(_plain(names)), ordered=ordered))


def _plain(element: Any) -> np.ndarray:
    """An array that says nothing about itself, as anndata 0.7 wrote them: numbers, or texts."""
    if isinstance(element, h5py.Dataset) and h5py.check_string_dtype(element.dtype):
        return element.asstr()[...]
    values = element[...]
    return values.astype(str).astype(object) if values.dtype.kind == "S" else values


def read_frame(frame: Any) -> pd.DataFrame:
    """All columns; the index is text."""
    names = column_names(frame)
    index = pd.Index(row_names(frame).astype(object), name=None if index_name(frame) == "_index" else index_name(frame))
    table = pd.DataFrame({name: read_column(frame, name).array for name in names}, index=index)
    return table


def index_name(frame: Any) -> str:
    """Name of the member that is the index, which another may be called `index` or `_index` beside."""
    return str(frame.attrs["_index"])


def num_rows(frame: Any) -> int:
    """Number of rows."""
    names: Any = frame[index_name(frame)]
    if isinstance(names, h5py.Group | zarr.Group):  # strings of which some may be missing
        names = names["values"]
    return int(names.shape[0])


def row_names(frame: Any, start: int = 0, stop: int | None = None) -> np.ndarray:
    """The index of the rows `start` to `stop`, as a string array."""
    name = index_name(frame)
    names = frame[name]
    if isinstance(names, h5py.Dataset) and h5py.check_string_dtype(names.dtype) and "categories" not in names.attrs:
        return np.array([str(text) for text in names.asstr()[start:stop]])
    return np.array([str(text) for text in read_column(frame, name)[start:stop]])


__all__ = ["column_names", "index_name", "num_rows", "read_column", "read_frame", "row_names"]
