"""Blocks of cells are the same whatever object or file, layout and slot they are read from."""

import gc
import pickle
import shutil
import tempfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from state_hf.data.cells import by_genes, scratch
from state_hf.data.cells.open_cells import open_cells

# anndata 0.12 announces its next default whenever it writes a store.
pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v[23]")

COUNTS = np.array([[0, 2, 0], [1, 0, 0], [0, 0, 0], [3, 0, 4]], dtype=np.float32)
RANGES = [(0, 2), (2, 4), (1, 2), (0, 4)]


@pytest.fixture
def adata() -> anndata.AnnData:
    """X is CSR, the layers are CSC and dense, and raw has a gene more."""
    wide = anndata.AnnData(sparse.csr_matrix(np.hstack([COUNTS, COUNTS[:, :1]])))
    wide.var_names = ["A", "B", "C", "D"]
    wide.obs_names = ["w", "x", "y", "z"]
    adata = wide[:, :3].copy()
    adata.raw = wide
    adata.layers["csc"] = sparse.csc_matrix(COUNTS)
    adata.layers["dense"] = COUNTS.astype(np.int64)
    return adata


@pytest.fixture(params=["object", "h5ad", "zarr", "backed"])
def source(request: pytest.FixtureRequest, adata: anndata.AnnData, tmp_path: Path):
    if request.param == "object":
        return adata
    path = tmp_path / f"cells.{'zarr' if request.param == 'zarr' else 'h5ad'}"
    adata.write_zarr(path) if request.param == "zarr" else adata.write_h5ad(path)
    return anndata.read_h5ad(path, backed="r") if request.param == "backed" else path


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(None, COUNTS), ("csc", COUNTS), ("dense", COUNTS), ("raw", np.hstack([COUNTS, COUNTS[:, :1]]))],
)
def test_every_layout_gives_the_same_cells(source, layer, expected):
    with open_cells(source).expression(layer) as cells:
        assert (cells.num_cells, cells.num_features) == expected.shape
        assert list(cells.var.index) == ["A", "B", "C", "D"][: expected.shape[1]]
        assert cells.cells.cell_names(1, 3).tolist() == ["x", "y"]
        for start, stop in RANGES:
            block = cells.block(start, stop)
            assert block.format == "csr"
            np.testing.assert_array_equal(block.toarray(), expected[start:stop])


@pytest.mark.parametrize("dtype", ["float32", ">i4", "float16"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_csc_matrix_is_stored_by_cells_first(in_memory, dtype, monkeypatch, tmp_path, caplog):
    if not in_memory:
        monkeypatch.setattr(by_genes, "_MEMORY_VALUES", 0)
    monkeypatch.setattr(by_genes, "_READ_VALUES", 17)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    matrix = sparse.random(100, 30, 0.2, format="csc", random_state=0)
    matrix.data = np.rint(matrix.data * 100 + 1)
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(matrix).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X/data"]
        file["X"].create_dataset("data", data=matrix.data.astype(dtype))
    with open_cells(path).expression() as cells:
        for start in (*range(0, 100, 7), 3, 50):
            np.testing.assert_array_equal(cells.block(start, start + 7).toarray(), matrix[start : start + 7].toarray())
        rows = np.array([99, 0, 41])
        np.testing.assert_array_equal(cells.rows(np.sort(rows)).dense(rows, 3), matrix[rows].toarray())
        assert bool(list((tmp_path / "scratch").iterdir())) != in_memory
        copy = pickle.loads(pickle.dumps(cells))
        np.testing.assert_array_equal(copy.block(5, 9).toarray(), matrix[5:9].toarray())
        del copy
        np.testing.assert_array_equal(cells.block(5, 9).toarray(), matrix[5:9].toarray())
    del cells
    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())


def test_no_room_for_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr(by_genes, "_MEMORY_VALUES", 0)
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    anndata.AnnData(sparse.random(100, 30, 0.2, format="csc", random_state=0)).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(OSError, match=r"X of .*cells\.h5ad, which is stored by genes, takes .* TMPDIR"):
        open_cells(tmp_path / "cells.h5ad").expression()


def test_view_is_read_without_the_other_cells(adata):
    view = adata[[3, 1], ["C", "A"]]
    for layer in (None, "csc", "dense"):
        with open_cells(view).expression(layer) as cells:
            np.testing.assert_array_equal(cells.block(0, 2).toarray(), [[4, 3], [0, 1]])
            assert cells.cells.cell_names().tolist() == ["z", "x"]
    with open_cells(view).expression("raw") as cells:
        np.testing.assert_array_equal(cells.block(0, 2).toarray(), [[3, 0, 4, 3], [1, 0, 0, 1]])


def test_sample_takes_cells_from_all_over(tmp_path):
    values = np.repeat(np.arange(1000.0), 2).reshape(1000, 2)
    with open_cells(anndata.AnnData(values)).expression() as cells:
        sample = cells.sample(80).toarray()[:, 0]
    assert len(sample) == 80
    assert sample[0] == 0
    assert sample[-1] == 999


def test_fingerprint_changes_with_the_data(source, adata):
    with open_cells(source).expression() as cells:
        before = cells.cells.fingerprint()
        assert before == cells.cells.fingerprint()
    if source is adata:
        adata.X[1, 0] = 7
        with open_cells(adata).expression() as cells:
            assert cells.cells.fingerprint() != before


def test_layer_wins_over_raw_of_that_name(adata):
    adata.layers["raw"] = COUNTS * 10
    with open_cells(adata).expression("raw") as cells:
        assert cells.slot == "layers/raw"
        np.testing.assert_array_equal(cells.block(0, 4).toarray(), COUNTS * 10)


def test_unknown_layer_is_refused_with_the_list(source):
    with pytest.raises(ValueError, match=r"no layer 'counts' \(it has 'raw', 'csc', 'dense'\)"):
        open_cells(source).expression("counts")


def test_missing_x_is_refused_with_the_list(adata, tmp_path):
    adata.X = None
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for source in (adata, adata[:2], tmp_path / "cells.h5ad"):
        with pytest.raises(ValueError, match="has no X; name a layer"):
            open_cells(source).expression()
        open_cells(source).expression("csc").close()


def test_no_cells_are_refused(adata, tmp_path):
    adata[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    for source in (adata[:0].copy(), adata[:0], tmp_path / "empty.h5ad"):
        with pytest.raises(ValueError, match="has no cells"):
            open_cells(source).expression()


def test_backed_view_is_refused_with_the_remedy(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"to_memory\(\)"):
        open_cells(backed[:2])


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.h5ad"):
        open_cells(tmp_path / "nothing.h5ad")
    (tmp_path / "text.h5ad").write_text("cell,gene")
    with pytest.raises(ValueError, match="is a table of text"):
        open_cells(tmp_path / "text.h5ad")
    with h5py.File(tmp_path / "tenx.h5", "w") as file:
        file.create_group("matrix")
    with pytest.raises(ValueError, match="its obs and var is missing; it holds matrix"):
        open_cells(tmp_path / "tenx.h5")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(ValueError, match="no Zarr store"):
        open_cells(tmp_path / "folder.zarr")
