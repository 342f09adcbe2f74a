"""Files as older versions of anndata wrote them, written with h5py."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from state_hf.tokenization.cell_matrix import layer_names

TEXT = h5py.string_dtype()


def _texts(values) -> np.ndarray:
    return np.array([str(value) for value in values], dtype=object)


def write_as_07(adata: AnnData, path: Path) -> Path:
    """The layout of anndata 0.7 (2019 to 2022): a categorical column is its codes and a reference to `__categories`."""
    with h5py.File(path, "w") as file:
        for name, frame in (("obs", adata.obs), ("var", adata.var)):
            group = file.create_group(name)
            index = frame.index.name or "_index"
            group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": index})
            group.attrs.create("column-order", _texts(frame.columns), shape=(frame.shape[1],), dtype=TEXT)
            group.create_dataset(index, data=_texts(frame.index), dtype=TEXT)
            for column, values in frame.items():
                if isinstance(values.dtype, pd.CategoricalDtype):
                    names = values.cat.categories
                    numeric = pd.api.types.is_numeric_dtype(names.dtype)
                    names = group.create_dataset(
                        f"__categories/{column}",
                        data=names.to_numpy() if numeric else _texts(names),
                        dtype=None if numeric else TEXT,
                    )
                    names.attrs["ordered"] = bool(values.cat.ordered)
                    group.create_dataset(column, data=values.cat.codes.to_numpy())
                    group[column].attrs["categories"] = names.ref
                elif pd.api.types.is_numeric_dtype(values.dtype):
                    group.create_dataset(column, data=values.to_numpy())
                else:
                    group.create_dataset(column, data=_texts(values), dtype=TEXT)
        _write_matrix_as_07(file, "X", adata.X)
        for slot in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            file.create_group(slot)
        for name in layer_names(adata):
            _write_matrix_as_07(file["layers"], name, adata.layers[name])
        for name, matrix in adata.obsm.items():
            file["obsm"].create_dataset(name, data=matrix)
    return path


def _write_matrix_as_07(parent: h5py.Group, name: str, matrix) -> None:
    if not sparse.issparse(matrix):
        parent.create_dataset(name, data=matrix)
        return
    group = parent.create_group(name)
    group.attrs.update(
        {"encoding-type": f"{matrix.format}_matrix", "encoding-version": "0.1.0", "shape": np.array(matrix.shape)}
    )
    for part in ("data", "indices", "indptr"):
        group.create_dataset(part, data=getattr(matrix, part))


def write_as_06(adata: AnnData, path: Path) -> Path:
    """The layout before anndata 0.7: frames and `obsm` are tables, categories lie in `uns`, `raw` in the root."""
    with h5py.File(path, "w") as file:
        uns = file.create_group("uns")
        for name, frame in (("obs", adata.obs), ("var", adata.var)):
            _write_table(file, name, frame, uns)
        _write_matrix_as_06(file, "X", adata.X)
        if adata.raw is not None:
            _write_table(file, "raw.var", adata.raw.var, uns)
            _write_matrix_as_06(file, "raw.X", adata.raw.X)
        if adata.obsm:
            fields = [(name, matrix.dtype, matrix.shape[1:]) for name, matrix in adata.obsm.items()]
            table = np.zeros(adata.n_obs, dtype=fields)
            for name, matrix in adata.obsm.items():
                table[name] = matrix
            file["obsm"] = table
    return path


def _write_table(file: h5py.File, name: str, frame: pd.DataFrame, uns: h5py.Group) -> None:
    columns = {"index": _texts(frame.index)}
    for column, values in frame.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            columns[column] = values.cat.codes.to_numpy()
            uns.create_dataset(f"{column}_categories", data=_texts(values.cat.categories), dtype=TEXT)
        else:
            numeric = pd.api.types.is_numeric_dtype(values.dtype)
            columns[column] = values.to_numpy() if numeric else _texts(values)
    table = np.zeros(
        len(frame),
        dtype=[(column, TEXT if values.dtype == object else values.dtype) for column, values in columns.items()],
    )
    for column, values in columns.items():
        table[column] = values
    file.create_dataset(name, data=table)


def _write_matrix_as_06(file: h5py.File, name: str, matrix) -> None:
    if not sparse.issparse(matrix):
        file[name] = matrix
        return
    group = file.create_group(name)
    group.attrs.update({"h5sparse_format": matrix.format, "h5sparse_shape": np.array(matrix.shape)})
    for part in ("data", "indices", "indptr"):
        group.create_dataset(part, data=getattr(matrix, part), maxshape=(None,))
