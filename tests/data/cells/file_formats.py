"""The same cells in every kind of file that people have, in the exact layout of what writes it."""

import gzip
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import io, sparse

from tests.data.cells.old_layouts import write_as_06, write_as_07

TEXT = h5py.string_dtype()
Builder = Callable[[AnnData, Path], str | Path]


def _h5ad(adata: AnnData, path: Path, **options) -> Path:
    adata.write_h5ad(path, **options)
    return path


def _with_values(dtype: str) -> Builder:
    """An .h5ad whose values are of a type that SciPy has no sparse matrices of."""

    def build(adata: AnnData, folder: Path) -> Path:
        path = _h5ad(adata, folder / "cells.h5ad")
        with h5py.File(path, "r+") as file:
            values = file["X/data"][:]
            attributes = dict(file["X/data"].attrs)
            del file["X/data"]
            file["X"].create_dataset("data", data=values.astype(dtype))
            file["X/data"].attrs.update(attributes)
            for part in ("indices", "indptr") if dtype.startswith(">") else ():
                places = file["X"][part][:]
                del file["X"][part]
                file["X"].create_dataset(part, data=places.astype(">i4"))
        return path

    return build


def _with_x(change: Callable) -> Builder:
    def build(adata: AnnData, folder: Path) -> Path:
        other = adata.copy()
        other.X = change(adata.X)
        return _h5ad(other, folder / "cells.h5ad")

    return build


def _nullable(adata: AnnData, folder: Path) -> Path:
    other = adata.copy()
    for frame in (other.obs, other.var):
        frame.index = frame.index.astype("string")
    other.obs["perturbation"] = other.obs["perturbation"].astype(str).astype("string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        return _h5ad(other, folder / "cells.h5ad")


def _zarr(version: int) -> Builder:
    def build(adata: AnnData, folder: Path) -> Path:
        with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=version):
            warnings.simplefilter("ignore")
            adata.write_zarr(folder / "cells.zarr")
        return folder / "cells.zarr"

    return build


def _zarr_zip(adata: AnnData, folder: Path) -> Path:
    store = _zarr(2)(adata, folder)
    path = Path(shutil.make_archive(str(store), "zip", folder, store.name))
    shutil.rmtree(store)
    return path


def _gz(adata: AnnData, folder: Path) -> Path:
    path = _h5ad(adata, folder / "cells.h5ad")
    packed = path.with_name("cells.h5ad.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def _h5mu(adata: AnnData, folder: Path) -> Path:
    """A modality of RNA and one of antibodies; the labels are the whole file's, as MuData lifts them."""
    rna = adata.copy()
    rna.obs = adata.obs[["total"]]
    whole = adata.obs.drop(columns="total")
    whole["rna:total"] = adata.obs["total"]
    protein = AnnData(
        np.ones((adata.n_obs, 2), dtype=np.float32), obs=whole[[]], var=pd.DataFrame(index=["CD3", "CD4"])
    )
    path = folder / "cells.h5mu"
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": 0})
        for name, part in (("rna", rna), ("prot", protein)):
            part.write_h5ad(folder / f"{name}.h5ad")
            with h5py.File(folder / f"{name}.h5ad") as source:
                file.copy(source, f"mod/{name}")
            (folder / f"{name}.h5ad").unlink()
            numbers = np.arange(1, adata.n_obs + 1, dtype=np.uint32)
            file[f"obsmap/{name}"] = numbers
        anndata.io.write_elem(file, "obs", whole)
        anndata.io.write_elem(file, "var", pd.DataFrame(index=[*adata.var_names, "CD3", "CD4"]))
    return path


def _loom(adata: AnnData, folder: Path) -> Path:
    path = folder / "cells.loom"
    with h5py.File(path, "w") as file:
        file.create_group("attrs")["LOOM_SPEC_VERSION"] = "3.0.0"
        file.create_dataset("matrix", data=adata.X.toarray().T, chunks=(8, 8), compression="gzip")
        for group in ("layers", "row_graphs", "col_graphs"):
            file.create_group(group)
        cells, genes = file.create_group("col_attrs"), file.create_group("row_attrs")
        cells.create_dataset("CellID", data=adata.obs_names.to_numpy(dtype=object), dtype=TEXT)
        for name, values in adata.obs.items():
            numeric = pd.api.types.is_numeric_dtype(values.dtype)
            data = values.to_numpy() if numeric else values.astype(str).to_numpy(dtype=object)
            cells.create_dataset(str(name), data=data, dtype=None if numeric else TEXT)
        genes.create_dataset("Gene", data=adata.var_names.to_numpy(dtype=object), dtype=TEXT)
    return path


def _tenx_h5(adata: AnnData, folder: Path) -> Path:
    """Cell Ranger 3 and later, with a feature that is an antibody."""
    matrix = sparse.hstack([adata.X, sparse.csr_matrix(np.ones((adata.n_obs, 1)))], format="csr")
    path = folder / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(matrix, part)
        group["shape"] = np.array([matrix.shape[1], adata.n_obs])
        group["barcodes"] = adata.obs_names.to_numpy(dtype="S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{number:011}" for number in range(matrix.shape[1])], dtype="S")
        features["name"] = np.array([*adata.var_names, "CD3"], dtype="S")
        features["feature_type"] = np.array([*["Gene Expression"] * adata.n_vars, "Antibody Capture"], dtype="S")
        features["genome"] = np.array(["GRCh38"] * matrix.shape[1], dtype="S")
    return path


def _tenx_h5_v2(adata: AnnData, folder: Path) -> Path:
    path = folder / "filtered_gene_bc_matrices_h5.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("hg19")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(adata.X, part)
        group["shape"] = np.array([adata.n_vars, adata.n_obs])
        group["barcodes"] = adata.obs_names.to_numpy(dtype="S")
        group["genes"] = np.array([f"ENSG{number:011}" for number in range(adata.n_vars)], dtype="S")
        group["gene_names"] = adata.var_names.to_numpy(dtype="S")
    return path


def _mtx(*, version: int) -> Builder:
    def build(adata: AnnData, folder: Path) -> Path:
        place = folder / "filtered_feature_bc_matrix"
        place.mkdir()
        io.mmwrite(place / "matrix.mtx", sparse.coo_matrix(adata.X.T))
        (place / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
        kind = "\tGene Expression" if version == 3 else ""
        lines = [f"ENSG{number:011}\t{name}{kind}\n" for number, name in enumerate(adata.var_names)]
        (place / ("features.tsv" if version == 3 else "genes.tsv")).write_text("".join(lines))
        for path in list(place.iterdir()) if version == 3 else ():
            path.with_name(f"GSM1_{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        return place

    return build


def _url(adata: AnnData, folder: Path) -> str:
    return f"file://{_h5ad(adata, folder / 'cells.h5ad')}"


def _old(write: Callable[[AnnData, Path], Path]) -> Builder:
    return lambda adata, folder: write(adata, folder / "cells.h5ad")


LABELLED: dict[str, Builder] = {
    "`.h5ad`, X stored by cells (CSR)": lambda adata, folder: _h5ad(adata, folder / "cells.h5ad"),
    "`.h5ad`, X stored by genes (CSC)": _with_x(lambda matrix: matrix.tocsc()),
    "`.h5ad`, dense X": _with_x(lambda matrix: matrix.toarray()),
    "`.h5ad`, compressed (gzip, lzf)": lambda adata, folder: _h5ad(adata, folder / "cells.h5ad", compression="gzip"),
    "`.h5ad`, half precision": _with_values("float16"),
    "`.h5ad`, big-endian": _with_values(">f4"),
    "`.h5ad`, nullable strings (pandas 3)": _nullable,
    "`.h5ad` of anndata 0.7 (2019 to 2022)": _old(write_as_07),
    "`.h5ad` from before anndata 0.7": _old(write_as_06),
    "`.h5ad.gz`": _gz,
    "`.zarr`, format 2": _zarr(2),
    "`.zarr`, format 3": _zarr(3),
    "`.zarr.zip`": _zarr_zip,
    "`.h5mu` (MuData)": _h5mu,
    "`.loom`": _loom,
    "URL of an `.h5ad` or `.zarr`": _url,
}
"""Kinds of files that hold labels of cells."""

UNLABELLED: dict[str, Builder] = {
    "`.h5` of Cell Ranger 3 and later": _tenx_h5,
    "`.h5` of Cell Ranger 2": _tenx_h5_v2,
    "folder with `.mtx.gz` (Cell Ranger 3 and later)": _mtx(version=3),
    "folder with `.mtx` (Cell Ranger 2)": _mtx(version=2),
}
"""Kinds of files that have no room for labels of cells."""


def _text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return build


def _hdf5(name: str, *groups: str, **attributes: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        with h5py.File(folder / name, "w") as file:
            for group in groups:
                file.create_group(group)
            file.attrs.update(attributes)
        return folder / name

    return build


def _folder(name: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    return build


def _zip(folder: Path) -> Path:
    (folder / "inside").mkdir()
    (folder / "inside" / "cells.h5ad").write_bytes(b"\x89HDF")
    return Path(shutil.make_archive(str(folder / "cells"), "zip", folder / "inside"))


def _tar(folder: Path) -> Path:
    (folder / "inside").mkdir()
    return Path(shutil.make_archive(str(folder / "cells"), "tar", folder / "inside"))


def _unknown_codec(folder: Path) -> Path:
    cells = AnnData(sparse.random(6, 4, 0.5, format="csr", dtype=np.float32, random_state=0))
    store = _zarr(3)(cells, folder)
    for path in store.rglob("zarr.json"):
        path.write_text(path.read_text().replace('"zstd"', '"future"'))
    return store


REFUSED: dict[str, Callable[[Path], Path]] = {
    "`.csv`, `.tsv` or `.txt` table": _text("cells.csv", ",GENE1,GENE2\ncell1,1,2\n"),
    "`.mtx` file alone": _text("matrix.mtx", "%%MatrixMarket matrix coordinate integer general\n1 1 1\n1 1 1\n"),
    "`.rds` or `.RData` of R": _text("cells.rds", gzip.compress(b"X\n\x00\x00\x00\x03")),
    "`.h5seurat`": _hdf5("cells.h5seurat", "assays", "cell.names"),
    "`.xlsx` spreadsheet": _text("cells.xlsx", b"PK\x03\x04[Content_Types].xml"),
    "`molecule_info.h5` of Cell Ranger": _hdf5("molecule_info.h5", "barcode_idx", "umi", "barcodes"),
    "another HDF5 file": _hdf5("weights.h5", "model_weights"),
    "Git LFS pointer": _text("cells.h5ad", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n"),
    "web page in place of a file": _text("cells.h5ad", "<!DOCTYPE html>\n<html><head><title>Sign in</title>"),
    "`.npy` array": _text("cells.npy", b"\x93NUMPY\x01\x00"),
    "empty file": _text("cells.h5ad", ""),
    "file that was cut off": _text("cells.h5ad", b"\x89HDF\r\n\x1a\n" + bytes(40)),
    "`.zip` without a Zarr store": _zip,
    "`.tar` archive": _tar,
    "empty folder": _folder("cells"),
    "Zarr store of a newer zarr": _unknown_codec,
}
"""Kinds of inputs that are refused, whatever the command."""


__all__ = ["LABELLED", "REFUSED", "UNLABELLED"]
