"""Blocks of cells are the same whatever object or file, layout and slot they are read from."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from state_hf.data import cell_blocks
from state_hf.data.cell_blocks import open_cells

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
    with open_cells(source, layer=layer) as cells:
        assert (cells.num_cells, cells.num_genes) == expected.shape
        assert list(cells.var.index) == ["A", "B", "C", "D"][: expected.shape[1]]
        assert cells.cell_names(1, 3).tolist() == ["x", "y"]
        for start, stop in RANGES:
            block = cells.read(start, stop)
            assert block.format == "csr"
            np.testing.assert_array_equal(block.toarray(), expected[start:stop])


def test_csc_matrix_is_read_in_windows(monkeypatch, tmp_path):
    monkeypatch.setattr(cell_blocks, "_CSC_WINDOW_VALUES", 50)
    monkeypatch.setattr(cell_blocks, "_CSC_READ_VALUES", 17)
    matrix = sparse.random(100, 30, 0.2, format="csc", random_state=0)
    anndata.AnnData(matrix).write_h5ad(tmp_path / "cells.h5ad")
    with open_cells(tmp_path / "cells.h5ad") as cells:
        for start in (*range(0, 100, 7), 3, 50):
            np.testing.assert_array_equal(cells.read(start, start + 7).toarray(), matrix[start : start + 7].toarray())
        assert cells._rows.values.shape[0] < 100


def test_view_is_read_without_the_other_cells(adata):
    view = adata[[3, 1], ["C", "A"]]
    for layer in (None, "csc", "dense"):
        with open_cells(view, layer=layer) as cells:
            np.testing.assert_array_equal(cells.read(0, 2).toarray(), [[4, 3], [0, 1]])
            assert cells.cell_names().tolist() == ["z", "x"]
    with open_cells(view, layer="raw") as cells:
        np.testing.assert_array_equal(cells.read(0, 2).toarray(), [[3, 0, 4, 3], [1, 0, 0, 1]])


def test_sample_takes_cells_from_all_over(tmp_path):
    values = np.repeat(np.arange(1000.0), 2).reshape(1000, 2)
    with open_cells(anndata.AnnData(values)) as cells:
        sample = cells.sample(80).toarray()[:, 0]
    assert len(sample) == 80
    assert sample[0] == 0
    assert sample[-1] == 999


def test_fingerprint_changes_with_the_data(source, adata):
    with open_cells(source) as cells:
        before = cells.fingerprint()
        assert before == cells.fingerprint()
    if source is adata:
        adata.X[1, 0] = 7
        with open_cells(adata) as cells:
            assert cells.fingerprint() != before


def test_layer_wins_over_raw_of_that_name(adata):
    adata.layers["raw"] = COUNTS * 10
    with open_cells(adata, layer="raw") as cells:
        assert cells.matrix_name == "layers/raw"
        np.testing.assert_array_equal(cells.read(0, 4).toarray(), COUNTS * 10)


def test_unknown_layer_is_refused_with_the_list(source):
    with pytest.raises(ValueError, match=r"no layer 'counts' \(it has 'raw', 'csc', 'dense'\)"):
        open_cells(source, layer="counts")


def test_missing_x_is_refused_with_the_list(adata, tmp_path):
    adata.X = None
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for source in (adata, adata[:2], tmp_path / "cells.h5ad"):
        with pytest.raises(ValueError, match="has no X; name a layer"):
            open_cells(source)
        open_cells(source, layer="csc").close()


def test_no_cells_are_refused(adata, tmp_path):
    adata[:0].copy().write_h5ad(tmp_path / "empty.h5ad")
    for source in (adata[:0].copy(), adata[:0], tmp_path / "empty.h5ad"):
        with pytest.raises(ValueError, match="has no cells"):
            open_cells(source)


def test_backed_view_is_refused_with_the_remedy(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"to_memory\(\)"):
        open_cells(backed[:2])


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing\.h5ad"):
        open_cells(tmp_path / "nothing.h5ad")
    (tmp_path / "text.h5ad").write_text("cell,gene")
    with pytest.raises(ValueError, match="it is not HDF5"):
        open_cells(tmp_path / "text.h5ad")
    with h5py.File(tmp_path / "tenx.h5", "w") as file:
        file.create_group("matrix")
    with pytest.raises(ValueError, match="obs and var is missing"):
        open_cells(tmp_path / "tenx.h5")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(ValueError, match="not a Zarr store"):
        open_cells(tmp_path / "folder.zarr")
