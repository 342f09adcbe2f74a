"""Antibodies, guides and peaks beside the genes: read as if they were not there."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from transformers.utils import logging as transformers_logging

from state_hf.data.cells.open_cells import open_cells

pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")

# Guides between the genes, antibodies of a gene's name after them.
TYPES = ["Gene Expression", "CRISPR Guide Capture"] + ["Gene Expression"] * 4 + ["Antibody Capture"] * 2
NAMES = ["A", "sgA", "B", "C", "D", "E", "A", "CD14"]
GENES = np.array([kind == "Gene Expression" for kind in TYPES])
LAYOUTS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "dense": np.asarray,
    "float16": lambda values: values.astype(np.float16),
}


def mixed(layout: str = "csr") -> anndata.AnnData:
    values = np.random.default_rng(0).poisson(2.0, (40, len(NAMES))).astype(np.float32)
    values[:, ~GENES] *= 100
    adata = anndata.AnnData(
        LAYOUTS[layout](values),
        obs=pd.DataFrame(index=[f"c{cell}" for cell in range(40)]),
        var=pd.DataFrame({"feature_types": pd.Categorical(TYPES)}, index=NAMES),
    )
    adata.layers["same"] = adata.X.copy()
    adata.obsm["X_state"] = values[:, :3]
    adata.raw = adata
    return adata


@pytest.fixture(params=["memory", "file", "backed", "view"])
def place(request, tmp_path):
    """What makes a data set of an AnnData."""

    def put(adata):
        path = tmp_path / "mixed.h5ad"
        if request.param == "memory":
            return adata
        if request.param == "view":
            return adata[:40]
        adata.write_h5ad(path)
        return path if request.param == "file" else anndata.read_h5ad(path, backed="r")

    return put


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_blocks_of_cells(place, layout):
    adata = mixed(layout)
    expected = np.asarray(sparse.csr_matrix(adata.X).todense())[:, GENES]
    with open_cells(place(adata)).expression() as cells:
        assert cells.num_features == 5
        assert list(cells.var.index) == ["A", "B", "C", "D", "E"]
        np.testing.assert_array_equal(cells.block(3, 9).toarray(), expected[3:9])
        np.testing.assert_array_equal(cells.sample(100).toarray(), expected)


@pytest.mark.parametrize("layout", ["csr", "dense", "float16"])
@pytest.mark.parametrize("slot", ["X", "layers/same", "raw/X"])
@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_of_cells(layout, slot, on_disk, tmp_path):
    adata = mixed(layout)
    expected = np.asarray(sparse.csr_matrix(np.asarray(mixed("dense").X))[:, GENES].todense())
    source = adata
    if on_disk:
        source = tmp_path / "mixed.h5ad"
        adata.write_h5ad(source)
    rows = open_cells(source).matrix(slot)
    assert rows.shape == (40, 5)
    assert rows.feature_names == ["A", "B", "C", "D", "E"]
    np.testing.assert_array_equal(rows.rows(np.array([2, 5, 30])).dense(np.array([30, 2]), 2), expected[[30, 2]])
    assert open_cells(source).matrix("obsm/X_state").shape == (40, 3)


def test_it_is_said_once_a_file(tmp_path, caplog):
    path = tmp_path / "mixed.h5ad"
    mixed().write_h5ad(path)
    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                open_cells(path).expression().close()
    finally:
        transformers_logging.disable_propagation()
    said = [record.message for record in caplog.records if "gene expression" in record.message]
    assert said == [
        f"X of {path}: 3 of 8 features are not gene expression (CRISPR Guide Capture 1, Antibody Capture 2) "
        "and are left out"
    ]


@pytest.mark.parametrize(
    "opened", [lambda path: open_cells(path).expression(), lambda path: open_cells(path).matrix("X")]
)
def test_a_file_without_genes_is_refused(opened, tmp_path):
    path = tmp_path / "peaks.h5ad"
    adata = mixed()[:, ~GENES].copy()
    adata.raw = None
    adata.write_h5ad(path)
    with pytest.raises(ValueError, match=r"X of .*peaks.h5ad has no feature of the type gene expression.*Antibody"):
        opened(path)
