"""Small generated screens for the tests of this room."""

import anndata
import pytest

from state_hf.data.screens.synthetic_screen import generate_screen


@pytest.fixture(scope="session")
def screen() -> anndata.AnnData:
    """Counts of 3 cell types x (5 perturbations of 14 cells + 40 controls), 60 genes; do not change it."""
    adata = generate_screen(num_perturbations=5, num_genes=60, cells_per_perturbation=14, controls=40, depth=300.0)
    adata.obsm["X_pca"] = adata.X[:, :7].toarray()
    adata.layers["counts"] = adata.X.tocsc()
    return adata


@pytest.fixture(scope="session")
def screen_file(screen, tmp_path_factory):
    """The same as an .h5ad file."""
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    screen.write_h5ad(path)
    return path
