"""Writes elements of AnnData files so that whatever was read can be written, and be read by everybody."""

from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata.io import write_elem


def write_element(group: Any, name: str, value: Any) -> None:
    """Write an element as anndata does, whatever kind of text pandas holds it in.

    Text is written plain, which every anndata from 0.7 on reads and writes again; as a nullable string array only where
    some of it is missing. Pandas 3 makes all text nullable, and what anndata writes of it depends on its settings.

    Args:
        group: An h5py or zarr group.
        name: Name of the element in it.
        value: What `anndata.io.write_elem` writes.
    """
    with anndata.settings.override(allow_write_nullable_strings=True):
        write_elem(group, name, _with_plain_text(value))


def _with_plain_text(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        frame = value.copy(deep=False)
        for place in range(frame.shape[1]):
            frame.isetitem(place, pd.Series(**_plain_column(frame.iloc[:, place]), index=frame.index))
        frame.index = pd.Index(**_plain_column(frame.index), name=frame.index.name)
        return frame
    if isinstance(value, pd.Categorical):
        categories = pd.Index(**_plain_column(value.categories))
        return pd.Categorical.from_codes(value.codes, dtype=pd.CategoricalDtype(categories, ordered=value.ordered))
    if isinstance(value, dict):
        return {name: _with_plain_text(entry) for name, entry in value.items()}
    if isinstance(value, pd.api.extensions.ExtensionArray) and isinstance(value.dtype, pd.StringDtype):
        return value.astype("string") if value.isna().any() else np.asarray(value, dtype=object)
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        is_text = pd.isna(value).any() and pd.api.types.infer_dtype(value, skipna=True) == "string"
        return pd.array(value, dtype="string") if is_text else value
    return value


def _plain_column(column: pd.Series | pd.Index) -> dict[str, Any]:
    """The values with their dtype, without which pandas 3 makes them nullable again."""
    is_numpy = isinstance(column.array, pd.arrays.NumpyExtensionArray)
    values = _with_plain_text(column.to_numpy() if is_numpy else column.array)
    return {"data": values, "dtype": values.dtype}


__all__ = ["write_element"]
