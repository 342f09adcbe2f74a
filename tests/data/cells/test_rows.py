import pickle

import anndata
import numpy as np
import pytest
from scipy import sparse

from state_hf.data.cells.open_cells import open_cells

SLOTS = (
    "X",
    "layers/columns",
    "layers/dense",
    "layers/doubles",
    "layers/halves",
    "layers/swapped",
    "obsm/X_pca",
    "raw/X",
)


@pytest.fixture(scope="module")
def adata(screen):
    adata = anndata.AnnData(screen.X, obs=screen.obs, var=screen.var, obsm={"X_pca": screen.obsm["X_pca"]})
    adata.raw = adata
    adata.layers["dense"] = adata.X.toarray()
    adata.layers["doubles"] = adata.X.astype(np.float64)
    halves, swapped = adata.X.copy(), adata.X.copy()
    halves.data, swapped.data = halves.data.astype(np.float16), swapped.data.astype(">f4")
    adata.layers["halves"], adata.layers["swapped"] = halves, swapped
    adata.layers["columns"] = adata.X.tocsc()
    adata.uns["X_pca"] = {"var_names": [f"axis_{number}" for number in range(7)]}
    return adata


@pytest.fixture(scope="module", params=["memory", "plain", "gzip"])
def source(adata, request, tmp_path_factory):
    if request.param == "memory":
        return adata
    path = tmp_path_factory.mktemp("rows") / "cells.h5ad"
    adata.write_h5ad(path, compression=None if request.param == "plain" else "gzip")
    return path


def whole(adata, slot):
    group, _, name = slot.partition("/")
    matrix = {"X": adata.X, "raw": adata.raw.X}.get(group)
    matrix = getattr(adata, group)[name] if matrix is None else matrix
    return matrix.astype(np.float32).toarray() if sparse.issparse(matrix) else matrix


@pytest.mark.parametrize("slot", SLOTS)
def test_rows_in_any_order(adata, source, slot):
    rows = np.random.default_rng(0).permutation(adata.n_obs)[:50]
    block = open_cells(source).matrix(slot).rows(np.sort(rows))
    dense = block.dense(rows[:20], 25)
    assert dense.dtype == np.float32
    np.testing.assert_array_equal(dense[:20], whole(adata, slot)[rows[:20]])
    assert (dense[20:] == 0).all()


def test_names_and_shape(adata, source):
    assert open_cells(source).matrix("X").feature_names == adata.var_names.tolist()
    assert open_cells(source).matrix("raw/X").feature_names == adata.var_names.tolist()
    assert open_cells(source).matrix("obsm/X_pca").feature_names == [f"axis_{number}" for number in range(7)]
    assert open_cells(source).matrix("obsm/X_pca").shape == (adata.n_obs, 7)


def test_a_copy_in_another_process_opens_the_file_itself(adata, source):
    rows = pickle.loads(pickle.dumps(open_cells(source).matrix("X")))
    np.testing.assert_array_equal(rows.rows(np.arange(3)).dense(np.arange(3), 3), adata.X[:3].toarray())


def test_slots_that_cannot_be_read(source):
    with pytest.raises(ValueError, match=r"there is no obsm/X_umap of .*; it has X, .*obsm/X_pca"):
        open_cells(source).matrix("obsm/X_umap")
    with pytest.raises(ValueError, match=r"it has X, .*; did you mean obsm/X_pca\?"):
        open_cells(source).matrix("obsm/X_pac")


def test_x_may_be_named_like_a_layer(source):
    assert open_cells(source).expression("X").slot == "X"


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_cells(tmp_path / "none.h5ad").matrix("X")


def test_values_that_are_not_finite(screen, tmp_path):
    adata = anndata.AnnData(screen.X, obsm={"X_pca": screen.obsm["X_pca"].copy()})
    adata.obsm["X_pca"][17, 2] = np.nan
    adata.write_h5ad(tmp_path / "nan.h5ad")
    block = open_cells(tmp_path / "nan.h5ad").matrix("obsm/X_pca").rows(np.arange(30))
    assert np.isfinite(block.dense(np.arange(10), 10)).all()
    with pytest.raises(ValueError, match=r"obsm/X_pca of .*nan\.h5ad has values that are not finite.*cell number 17 "):
        block.dense(np.arange(30), 30)
