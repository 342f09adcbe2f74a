"""Cells are the same whatever kind of file they are read from, and what is no file of cells is named."""

import pickle
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from scipy import io, sparse
from torch.utils.data import DataLoader

from state_hf.data.cells.cell_copies import copy_store
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.data.screens.perturbation_screens import open_screens
from tests.data.cells.file_formats import LABELLED, REFUSED, UNLABELLED

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*zarr v[23]", "ignore:Duplicate name:UserWarning", "ignore:.*without encoding:anndata.OldFormatWarning"
)

EVERY = {**LABELLED, **UNLABELLED}


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.8, (24, 9)).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(["non-targeting", "G1", "G2"] * 8),
            "cell_type": pd.Categorical(["T", "T", "T", "B", "B", "B"] * 4),
            "total": counts.sum(axis=1),
        },
        index=[f"cell{number}" for number in range(24)],
    )
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"G{n}" for n in range(9)]))


@pytest.fixture(scope="module", params=EVERY)
def source(request, cells, tmp_path_factory):
    return EVERY[request.param](cells, tmp_path_factory.mktemp("format"))


def test_blocks_rows_and_names(source, cells):
    counts, rows = cells.X.toarray(), np.array([20, 3, 4])
    with open_cells(source).expression() as matrix:
        assert matrix.name == str(source)
        assert matrix.shape == cells.shape
        assert list(matrix.var_names) == list(cells.var_names)
        assert list(matrix.obs_names) == list(cells.obs_names)
        assert matrix.cells.cell_names(2, 4).tolist() == ["cell2", "cell3"]
        for start, stop in ((0, 24), (5, 6), (20, 30)):
            np.testing.assert_array_equal(matrix.block(start, stop).toarray(), counts[start:stop])
        np.testing.assert_array_equal(
            matrix.rows(np.sort(rows)).dense(rows, 4), np.vstack([counts[rows], counts[:1] * 0])
        )
    # What was closed is opened again.
    copy = pickle.loads(pickle.dumps(matrix))
    for again in (matrix, copy):
        np.testing.assert_array_equal(again.block(0, 24).toarray(), counts)
        assert again.cells.fingerprint()
        again.close()


def test_labels(source, cells):
    with open_cells(source) as opened:
        if not opened.column_names():
            pytest.skip("no labels")
        for column in cells.obs:
            assert opened.column(column).tolist() == cells.obs[column].tolist()
            assert opened.obs[column].tolist() == cells.obs[column].tolist()
    screens = open_screens(source)
    assert screens.perturbations == ["G1", "G2", "non-targeting"]
    dataset = PerturbationDataset(screens, set_size=4)
    control = cells.X.toarray()[(cells.obs["perturbation"] == "non-targeting").to_numpy()]
    for item in (dataset[0], pickle.loads(pickle.dumps(dataset))[0]):
        drawn = item["control"].numpy()[item["cell_mask"].numpy()]
        assert all((control == row).all(axis=1).any() for row in drawn)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_copies(source, cells, suffix, tmp_path):
    path = tmp_path / f"copy.{suffix}"
    copy_store(source, path)
    with open_cells(path).expression() as matrix:
        np.testing.assert_array_equal(matrix.block(0, 24).toarray(), cells.X.toarray())
        if matrix.dtype.newbyteorder("=") not in (np.float32, np.float64) or not matrix.dtype.isnative:
            return  # which anndata itself does not read
    written = anndata.read_h5ad(path) if suffix == "h5ad" else anndata.read_zarr(path)
    assert list(written.obs_names) == list(cells.obs_names)
    with open_cells(source) as opened:
        assert list(written.obs) == opened.column_names()
        for column in written.obs:
            assert written.obs[column].tolist() == cells.obs[column].tolist()


def test_the_file_is_left_as_it_is(cells, tmp_path):
    for kind, build in EVERY.items():
        (tmp_path / str(len(kind))).mkdir(exist_ok=True)
        folder = tmp_path / f"{len(kind)}-{hash(kind)}"
        folder.mkdir()
        source = build(cells, folder)
        files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with open_cells(source).expression() as matrix:
            matrix.block(0, 3)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


SAID = {
    "`.csv`, `.tsv` or `.txt` table": r"is a table of text, .*anndata\.io\.read_csv\('cells\.csv'\)\.write_h5ad",
    "`.mtx` file alone": "a matrix without the names of its cells and genes: give the folder",
    "`.rds` or `.RData` of R": r'zellkonverter::writeH5AD\(.*readRDS\("cells\.rds"\)',
    "`.h5seurat`": r'SeuratDisk::Convert\("cells\.h5seurat", dest = "h5ad"\)',
    "`.xlsx` spreadsheet": r"is a spreadsheet; .*pandas\.read_excel\('cells\.xlsx'",
    "`molecule_info.h5` of Cell Ranger": "lists molecules .* give filtered_feature_bc_matrix.h5",
    "another HDF5 file": "is not an AnnData file.*its obs and var is missing; it holds model_weights",
    "Git LFS pointer": "is a pointer of Git LFS, .*git lfs pull",
    "web page in place of a file": "is a web page",
    "`.npy` array": "is a bare array, without the names and labels of its cells: write the cells as .h5ad",
    "empty file": r"is empty \(0 bytes\): fetch it again",
    "file that was cut off": "cannot be read|cut off|truncated",
    "`.zip` without a Zarr store": "is a .zip file without a Zarr store: unpack it",
    "`.tar` archive": "is a .tar archive: unpack it",
    "empty folder": "is an empty folder",
    "Zarr store of a newer zarr": r"something that zarr \S+ does not know .*pip install -U zarr",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_named(kind, tmp_path):
    path = REFUSED[kind](tmp_path)
    with pytest.raises((ValueError, OSError), match=SAID[kind]) as caught:
        open_cells(path).expression().block(0, 1)
    assert path.name in str(caught.value)
    assert "damaged" not in str(caught.value)


def test_a_plugin_that_is_missing_is_named(cells, tmp_path, monkeypatch):
    cells.write_h5ad(tmp_path / "cells.h5ad", compression="gzip")
    open_cells(tmp_path / "cells.h5ad").close()
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda code: False)
    with pytest.raises(ValueError, match=r"compressed with .*HDF5 filter 1, in .*read with a plugin"):
        open_cells(tmp_path / "cells.h5ad")
    monkeypatch.setattr("state_hf.data.cells.damage._FILTERS", {1: "zstd"})
    with pytest.raises(ValueError, match=r"cells\.h5ad is compressed with zstd .*: pip install hdf5plugin"):
        open_cells(tmp_path / "cells.h5ad")


def test_a_plugin_that_is_there_is_used(cells, tmp_path):
    plugin = pytest.importorskip("hdf5plugin")
    cells.write_h5ad(tmp_path / "cells.h5ad", **plugin.Zstd())
    # In a process that has not loaded it.
    code = (
        "from state_hf.data.cells.open_cells import open_cells\n"
        "print(open_cells('cells.h5ad').expression().block(0, 9).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) == cells.X[:9].sum()


@pytest.mark.parametrize("kind", ["complex64", "S3"])
def test_values_that_are_no_numbers(kind, cells, tmp_path):
    path = LABELLED["`.h5ad`, X stored by cells (CSR)"](cells, tmp_path)
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:]
        del file["X/data"]
        file["X"].create_dataset("data", data=values.astype(kind))
    with pytest.raises(ValueError, match=r"X of .*cells\.h5ad holds values of the type .*, not real numbers"):
        open_cells(path).expression()


def test_modalities_that_are_not_clear(cells, tmp_path):
    path = LABELLED["`.h5mu` (MuData)"](cells, tmp_path)
    with h5py.File(path, "r+") as file:
        file.move("mod/rna", "mod/first")
    with pytest.raises(ValueError, match=r"has the modalities 'first', 'prot', and it is not clear which"):
        open_cells(path)


def test_a_modality_is_found_by_its_usual_name(cells, tmp_path):
    path = LABELLED["`.h5mu` (MuData)"](cells, tmp_path)
    with h5py.File(path, "r+") as file:
        file.copy("mod/prot", "mod/RNA")
        del file["obs"]
    with open_cells(path).expression() as matrix:
        np.testing.assert_array_equal(matrix.block(0, 24).toarray(), cells.X.toarray())


@pytest.mark.parametrize("genes", ["gene_names", "Symbol", "accession", "GeneName"])
@pytest.mark.parametrize("names", ["cell_names", "barcode", None])
def test_loom_files_of_other_makers(genes, names, cells, tmp_path):
    path = LABELLED["`.loom`"](cells, tmp_path)
    with h5py.File(path, "r+") as file:
        file.move("row_attrs/Gene", f"row_attrs/{genes}")
        file.move("col_attrs/CellID", f"col_attrs/{names or 'ClusterID'}")
    with open_cells(path).expression() as matrix:
        assert list(matrix.var_names) == list(cells.var_names)
        assert list(matrix.obs_names) == (list(cells.obs_names) if names else [str(number) for number in range(24)])
        np.testing.assert_array_equal(matrix.block(0, 24).toarray(), cells.X.toarray())


def test_a_loom_file_that_names_no_genes(cells, tmp_path):
    path = LABELLED["`.loom`"](cells, tmp_path)
    with h5py.File(path, "r+") as file:
        file.move("row_attrs/Gene", "row_attrs/Chromosome")
    with pytest.raises(ValueError, match=r"does not name its genes: row_attrs has no Gene .*it has .*Chromosome"):
        open_cells(path)


def test_a_matrix_with_cells_in_rows(cells, tmp_path):
    folder = Path(UNLABELLED["folder with `.mtx` (Cell Ranger 2)"](cells, tmp_path))
    io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(cells.X.astype(int)))
    with open_cells(folder).expression() as matrix:
        np.testing.assert_array_equal(matrix.block(0, 24).toarray(), cells.X.toarray())


def test_tables_with_titles_are_named(cells, tmp_path):
    folder = Path(UNLABELLED["folder with `.mtx` (Cell Ranger 2)"](cells, tmp_path))
    barcodes = folder / "barcodes.tsv"
    barcodes.write_text("barcode\n" + barcodes.read_text())
    with pytest.raises(ValueError, match=r"barcodes\.tsv 25; where the first line of a table is a title, take it away"):
        open_cells(folder)


def test_folders_that_hold_cells_in_another_way_are_named(cells, tmp_path):
    folder = Path(UNLABELLED["folder with `.mtx.gz` (Cell Ranger 3 and later)"](cells, tmp_path))
    with pytest.raises(ValueError, match=rf"others in it that hold cells: name one, as {folder}"):
        open_cells(folder.parent)
    next(folder.glob("*matrix.mtx.gz")).rename(folder / "cells_x_genes.mtx.gz")
    with pytest.raises(ValueError, match=r"has cells_x_genes\.mtx\.gz, but does not name its files as Cell Ranger"):
        open_cells(folder)


def test_several_samples_in_a_folder(cells, tmp_path):
    folder = Path(UNLABELLED["folder with `.mtx` (Cell Ranger 2)"](cells, tmp_path))
    (folder / "GSM2_matrix.mtx.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"matrices of several samples \(matrix\.mtx, GSM2_matrix\.mtx\)"):
        open_cells(folder)
    (folder / "GSM2_matrix.mtx.gz").unlink()
    (folder / "barcodes.tsv").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"9 features by 24 cells, while genes\.tsv names 9 and barcodes\.tsv 2"):
        open_cells(folder)
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of barcodes\.tsv, barcodes\.tsv\.gz"):
        open_cells(folder)


def test_a_packed_file_that_was_cut_off(cells, tmp_path):
    for kind in ("`.h5ad.gz`", "`.zarr.zip`"):
        path = Path(str(LABELLED[kind](cells, tmp_path)))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match=f"{path.name} is cut off or damaged"):
            open_cells(path)


def test_backed_objects_and_their_raw(cells, tmp_path):
    cells = cells.copy()
    cells.raw = cells
    path = tmp_path / "cells.h5ad"
    cells[:, :4].copy().write_h5ad(path)
    for mode in ("r", "r+"):
        backed = anndata.read_h5ad(path, backed=mode)
        opened = open_cells(backed)
        np.testing.assert_array_equal(opened.matrix("X").block(0, 24).toarray(), cells.X[:, :4].toarray())
        np.testing.assert_array_equal(opened.expression("raw").block(0, 24).toarray(), cells.X.toarray())
        opened.close()
        backed.file.close()


def test_workers_share_a_matrix_that_was_stored_by_genes(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("state_hf.data.cells.by_genes._MEMORY_VALUES", 0)
    items = []
    for kind in ("`.h5ad`, X stored by cells (CSR)", "`.h5ad`, X stored by genes (CSC)"):
        (tmp_path / kind[-5:]).mkdir()
        dataset = PerturbationDataset(open_screens(LABELLED[kind](cells, tmp_path / kind[-5:])), set_size=4)
        items.append([item["control"] for item in DataLoader(dataset, batch_size=None, num_workers=2)])
    assert items[0]
    assert all(torch.equal(one, other) for one, other in zip(*items, strict=True))


def test_a_published_file_from_before_anndata_07():
    """The example that scanpy brings, of 2018."""
    datasets = Path(str(pytest.importorskip("scanpy").__file__)).parent / "datasets"
    with open_cells(datasets / "10x_pbmc68k_reduced.h5ad") as opened:
        assert opened.column("bulk_labels").value_counts()["Dendritic"] == 240
        assert opened.expression().block(0, 700).shape == (700, 765)
        assert opened.expression("raw").block(3, 5).nnz
        assert opened.matrix("obsm/X_pca").rows(np.arange(4)).dense(np.arange(4), 4).shape == (4, 50)


def test_a_store_from_before_anndata_07_is_named(tmp_path):
    root = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    for name in ("obs", "var", "X"):
        root.create_array(name, data=np.ones(3))
    with pytest.raises(ValueError, match=r"old\.zarr has an array in the place of obs.*anndata\.read_zarr"):
        open_cells(tmp_path / "old.zarr")
