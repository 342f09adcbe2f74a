"""An embedding reads back as it was written, beside everything that the input had."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from state_hf.data.cells.embedding_files import output_format, read_embedding_record, write_embedding
from state_hf.data.cells.open_cells import open_cells

# anndata 0.12 announces its next default whenever it writes a store.
pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v[23]")

ROWS = np.arange(20, dtype=np.float32).reshape(5, 4)
RECORD = {"model": "tiny", "seed": 0, "genes": {"matched": 3, "missing": ["X1", "X2"]}}


def blocks():
    yield 0, ROWS[:2]
    yield 2, ROWS[2:]


@pytest.fixture
def adata() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(sparse.random(5, 3, 0.5, format="csr", random_state=0))
    adata.obs_names = [f"cell {number}" for number in range(5)]
    adata.obs["type"] = pd.Categorical(["a", "b", "a", "b", "b"])
    adata.layers["csc"] = adata.X.tocsc()
    adata.layers["dense"] = adata.X.toarray()
    adata.obsm["X_pca"] = rng.normal(size=(5, 2))
    adata.obsp["distances"] = sparse.csr_matrix(rng.normal(size=(5, 5)))
    adata.varm["loadings"] = rng.normal(size=(3, 2))
    adata.uns["title"] = "five cells"
    adata.raw = adata
    return adata


@pytest.fixture(params=["object", "h5ad", "zarr"])
def source(request, adata, tmp_path):
    if request.param == "object":
        return adata
    path = tmp_path / f"cells.{request.param}"
    adata.write_h5ad(path) if request.param == "h5ad" else adata.write_zarr(path)
    return path


def write(source, path: Path, blocks=blocks) -> None:
    with open_cells(source) as cells:
        write_embedding(path, blocks(), shape=ROWS.shape, key="X_state", record=RECORD, cells=cells)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_anndata_copy_has_all_that_the_input_has(source, adata, tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    write(source, output)
    written = anndata.read_h5ad(output) if suffix == "h5ad" else anndata.read_zarr(output)
    np.testing.assert_array_equal(written.obsm.pop("X_state"), ROWS)
    assert written.uns.pop("X_state")["genes"]["missing"].tolist() == ["X1", "X2"]
    assert written.uns["title"] == "five cells"
    pd.testing.assert_frame_equal(written.obs, adata.obs, check_categorical=False)
    for mine, theirs in (
        (written.X, adata.X),
        (written.raw.X, adata.raw.X),
        (written.layers["csc"], adata.layers["csc"]),
        (written.obsp["distances"], adata.obsp["distances"]),
    ):
        assert mine.format == theirs.format
        assert (mine != theirs).nnz == 0
    np.testing.assert_array_equal(written.layers["dense"], adata.layers["dense"])
    np.testing.assert_array_equal(written.obsm["X_pca"], adata.obsm["X_pca"])
    np.testing.assert_array_equal(written.varm["loadings"], adata.varm["loadings"])
    assert read_embedding_record(output, "X_state")["seed"] == 0


def test_input_file_is_left_as_it_is(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    write(tmp_path / "cells.h5ad", tmp_path / "out.h5ad")
    assert (tmp_path / "cells.h5ad").read_bytes() == before


def test_npy_has_its_record_beside_it(source, tmp_path):
    write(source, tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), ROWS)
    assert json.loads((tmp_path / "out.npy.json").read_text()) == RECORD
    assert read_embedding_record(tmp_path / "out.npy", "X_state") == RECORD


def test_parquet_names_its_cells(source, tmp_path):
    write(source, tmp_path / "out.parquet")
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert frame.index.tolist() == [f"cell {number}" for number in range(5)]
    assert frame.columns.tolist() == ["X_state_0", "X_state_1", "X_state_2", "X_state_3"]
    np.testing.assert_array_equal(frame.to_numpy(), ROWS)
    assert read_embedding_record(tmp_path / "out.parquet", "X_state") == RECORD


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "npy", "parquet"])
def test_error_leaves_nothing_behind_and_the_old_output_alone(adata, tmp_path, suffix):
    def broken():
        yield 0, ROWS[:2]
        raise OSError(28, "No space left on device")

    source = tmp_path / "cells.h5ad"
    adata.write_h5ad(source)
    with pytest.raises(OSError, match="The disk is full"):
        write(source, tmp_path / f"new.{suffix}", broken)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]
    old = tmp_path / f"old.{suffix}"
    write(source, old)
    with pytest.raises(OSError, match="The disk is full"):
        write(source, old, broken)
    assert read_embedding_record(old, "X_state")["seed"] == 0


def test_existing_slot_is_replaced_in_the_copy(adata, tmp_path):
    adata.obsm["X_state"] = np.zeros((5, 9))
    adata.uns["X_state"] = {"old": 1}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    write(tmp_path / "cells.h5ad", tmp_path / "out.h5ad")
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(written.obsm["X_state"], ROWS)
    assert "old" not in written.uns["X_state"]


def test_unknown_suffix_is_refused():
    with pytest.raises(ValueError, match=r"out\.csv: its name must end in \.h5ad, \.zarr, \.npy, \.parquet"):
        output_format(Path("out.csv"))
