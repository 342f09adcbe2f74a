"""What Cell Ranger writes: `.h5` files (versions 2 and 3 on) in blocks, and folders of `.mtx` in memory."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import h5py
import pandas as pd
from scipy import io, sparse

from state_hf.data.cells.damage import damage_named
from state_hf.data.cells.layouts import CsrLayout
from state_hf.data.cells.object_cells import LoadedCells
from state_hf.data.cells.stored_cells import StoreHandle
from state_hf.data.cells.table_cells import TableCells, read_texts

_MATRIX = re.compile(r"(?P<prefix>.*)matrix\.mtx(\.gz)?")
_NAMES = ("barcodes", "data", "indices", "indptr", "shape")


def tenx_groups(file: h5py.File) -> list[str]:
    """Groups of an HDF5 file that are matrices of Cell Ranger: "matrix" from version 3 on, one a genome before."""
    groups = [name for name in file if isinstance(file.get(name), h5py.Group)]
    return [name for name in groups if all(part in file[name] for part in _NAMES)]


def open_tenx_h5(path: Path, handle: StoreHandle, groups: list[str]) -> TableCells:
    """Open a `.h5` file of Cell Ranger. The matrix is stored by cells, so it is read in blocks.

    Genes are named by `var_names`, which may occur twice, and by their ids in `var["gene_ids"]`, as scanpy reads them.

    Raises:
        ValueError: The file has the matrices of several genomes.
    """
    if len(groups) > 1:
        raise ValueError(
            f"{path} has the matrices of several genomes ({', '.join(groups)}), of Cell Ranger 2; choose one: "
            f'scanpy.read_10x_h5("{path.name}", genome="{groups[0]}").write_h5ad("{groups[0]}.h5ad")'
        )
    group = handle.root[groups[0]]
    with damage_named(f"{groups[0]} of {path}"):
        features = group.get("features")
        if features is None:
            var = pd.DataFrame({"gene_ids": read_texts(group["genes"])}, index=read_texts(group["gene_names"]))
        else:
            columns = {"gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
            values = {name: read_texts(features[key]) for name, key in columns.items() if key in features}
            var = pd.DataFrame(values, index=read_texts(features["name"]))
        obs = pd.DataFrame(index=read_texts(group["barcodes"]))
        genes, cells = (int(length) for length in group["shape"][:])
        if (cells, genes) != (len(obs), len(var)):
            raise ValueError(
                f"{groups[0]} of {path} is damaged: its shape is {genes:,} x {cells:,}, and it names {len(var):,} "
                f"features and {len(obs):,} barcodes"
            )
    return TableCells(path, handle, obs, var, {"X": partial(_open_layout, groups[0], (cells, genes))})


def _open_layout(name: str, shape: tuple[int, int], place: str, root: Any) -> CsrLayout:
    group = root[name]
    return CsrLayout(place, group["data"], group["indices"], group["indptr"], shape)


def mtx_prefix(folder: Path) -> str | None:
    """What the names of the files of a folder of Cell Ranger begin with (such as "GSM1_"); `None` if it is none.

    Raises:
        ValueError: It has several matrices.
    """
    found = sorted({match["prefix"] for entry in folder.iterdir() if (match := _MATRIX.fullmatch(entry.name))})
    if len(found) > 1:
        raise ValueError(
            f"{folder} has the matrices of several samples ({', '.join(f'{prefix}matrix.mtx' for prefix in found)}): "
            "give each a folder of its own"
        )
    return found[0] if found else None


def open_mtx_folder(folder: Path) -> LoadedCells:
    """Open a folder with `matrix.mtx`, `barcodes.tsv` and `features.tsv` or `genes.tsv`, each gzip-compressed or not.

    A text cannot be read in blocks: the matrix is held in memory, 8 bytes a value that is not 0.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files do not fit each other.
    """
    return LoadedCells(folder, _read_mtx_folder)


def _read_mtx_folder(folder: Path) -> anndata.AnnData:
    prefix = mtx_prefix(folder) or ""
    matrix_path = _one_of(folder, prefix, "matrix.mtx")
    barcodes_path = _one_of(folder, prefix, "barcodes.tsv")
    features_path = _one_of(folder, prefix, "features.tsv", "genes.tsv")
    for path in (matrix_path, barcodes_path, features_path):
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty (0 bytes): fetch it again")
    with damage_named(str(matrix_path)):
        stored = io.mmread(matrix_path, spmatrix=False)
    barcodes, features = _read_table(barcodes_path), _read_table(features_path)
    cells, genes = len(barcodes), len(features)
    if stored.shape not in ((genes, cells), (cells, genes)):
        rows, columns = stored.shape
        titled = (rows, columns) in ((genes - 1, cells - 1), (genes - 1, cells), (genes, cells - 1))
        raise ValueError(
            f"{matrix_path} does not fit the names beside it: it is {rows:,} features by {columns:,} cells, while "
            f"{features_path.name} names {genes:,} and {barcodes_path.name} {cells:,}"
            f"{'; where the first line of a table is a title, take it away' if titled else ''}"
        )
    # Others than Cell Ranger write cells in rows.
    matrix = sparse.csr_matrix(stored.T if stored.shape == (genes, cells) else stored)
    names = features[1] if features.shape[1] > 1 else features[0]
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=pd.Index(names.to_numpy()))
    if features.shape[1] > 2:
        var["feature_types"] = features[2].to_numpy()
    return anndata.AnnData(matrix, obs=pd.DataFrame(index=pd.Index(barcodes[0].to_numpy())), var=var)


def _one_of(folder: Path, prefix: str, *stems: str) -> Path:
    names = [f"{prefix}{stem}{suffix}" for stem in stems for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has a matrix.mtx, but none of {', '.join(names)}")


def _read_table(path: Path) -> pd.DataFrame:
    with damage_named(str(path)):
        return pd.read_csv(path, sep="\t", header=None, dtype=str, keep_default_na=False)


__all__ = ["mtx_prefix", "open_mtx_folder", "open_tenx_h5", "tenx_groups"]
