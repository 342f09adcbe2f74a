"""What a file or folder is that no reader here takes, and what to do with it."""

import gzip
from pathlib import Path

import h5py

_TEXT = (".csv", ".tsv", ".txt", ".tab")
_START_BYTES = 512


def refusal(path: Path) -> str:
    """A sentence that names what lies at a path that is neither HDF5 nor Zarr, and what to do."""
    if path.is_dir():
        return _of_folder(path)
    if not path.stat().st_size:
        return f"{path} is empty (0 bytes): fetch it again"
    return f"{path} {_of_file(path)}"


def _of_folder(path: Path) -> str:
    inside = sorted(entry.name for entry in path.iterdir())
    if not inside:
        return f"{path} is an empty folder, and no Zarr store"
    shown = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    matrices = [name for name in inside if name.removesuffix(".gz").endswith(".mtx")]
    if matrices:
        return (
            f"{path} has {matrices[0]}, but does not name its files as Cell Ranger does: call them matrix.mtx, "
            "barcodes.tsv (the cells, one a line) and features.tsv (the genes, one a line)"
        )
    below = [name for name in inside if name.endswith(".zarr") or any((path / name).glob("*matrix.mtx*"))]
    if below:
        return f"{path} is a folder with others in it that hold cells: name one, as {path / below[0]}"
    return (
        f"{path} is a folder, but neither a Zarr store nor one of Cell Ranger with a matrix.mtx; it holds {shown}: "
        "name a file"
    )


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if start.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as file:
                return file.read(_START_BYTES)
        except (OSError, EOFError):
            return start
    return start


def _of_file(path: Path) -> str:
    start, stem = _start(path), path.name.partition(".")[0]
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: fetch that with `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "is a web page, not the file that was to be downloaded: fetch it again, by the link of the file itself"
    if start.startswith((b"RDX", b"RDA", b"X\n\x00")) or suffix in (".rds", ".rdata", ".rda"):
        return (
            f"is a file of R; write it as .h5ad there: zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment("
            f'readRDS("{path.name}")), "{stem}.h5ad")'
        )
    if suffix in (".xlsx", ".xls"):
        return (
            f"is a spreadsheet; write it as .h5ad: anndata.AnnData(pandas.read_excel({path.name!r}, index_col=0))"
            f".write_h5ad('{stem}.h5ad'), with .T before .write_h5ad where its rows are genes"
        )
    if text.startswith(b"%%matrixmarket") or suffix == ".mtx":
        return (
            "is a matrix without the names of its cells and genes: give the folder that it is in, with barcodes.tsv "
            "and features.tsv"
        )
    if start.startswith(b"PK"):
        return "is a .zip file without a Zarr store: unpack it, and name what was in it"
    if start[257:262] == b"ustar":
        return "is a .tar archive: unpack it, and name what was in it"
    if start.startswith(b"\x93NUMPY"):
        return "is a bare array, without the names and labels of its cells: write the cells as .h5ad"
    if start.startswith(b"PAR1"):
        return "is a Parquet table, which only `state-hf pretrain` reads, and only those of `state-hf tokenize`"
    if suffix in _TEXT or (b"\x00" not in start and any(mark in start for mark in (b",", b"\t"))):
        reader = "read_csv" if suffix == ".csv" or start.count(b",") > start.count(b"\t") else "read_text"
        return (
            f"is a table of text, which does not say whether its rows are cells or genes; write it as .h5ad: "
            f"anndata.io.{reader}({path.name!r}).write_h5ad('{stem}.h5ad'), with .T before .write_h5ad where its rows "
            "are genes"
        )
    if suffix in (".h5ad", ".h5", ".hdf5", ".loom", ".h5mu"):
        return f"is not {'an' if suffix == '.h5ad' else 'a'} {suffix} file (it is not HDF5): fetch it again"
    return "is of no kind that is read here (.h5ad, .zarr, .h5mu, .loom, and .h5 or a folder of Cell Ranger)"


def refused_hdf5(path: Path, file: h5py.File) -> str:
    """The same of an HDF5 file that is neither AnnData nor another kind that is read."""
    names = sorted(file)
    if "assays" in file or path.suffix.lower() == ".h5seurat":
        return f'{path} is a file of Seurat; write it as .h5ad in R: SeuratDisk::Convert("{path.name}", dest = "h5ad")'
    if "molecule_info" in file or {"barcode_idx", "umi"} <= set(file):
        return (
            f"{path} lists molecules (molecule_info.h5 of Cell Ranger), not cells: give filtered_feature_bc_matrix.h5 "
            "of the same run"
        )
    if path.suffix == ".h5" and {"obs", "var"} - set(file) and "X" in file:
        return f"{path} holds an X, but no obs and var that name its cells and genes: it is no AnnData file"
    shown = ", ".join(names[:8]) or "nothing"
    missing = " and ".join(name for name in ("obs", "var") if name not in names) or "obs and var"
    return f"{path} is not an AnnData file: its {missing} is missing; it holds {shown}"


__all__ = ["refusal", "refused_hdf5"]
