"""A sparse matrix whose places are no whole numbers is refused by every reader, which would cut them off."""

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from state_hf.data.cell_blocks import open_cells
from state_hf.data.cell_rows import CellRows


def read_blocks(path):
    return open_cells(path).read(0, 4)


def read_rows(path):
    return CellRows(path, "X").read(np.arange(4))


@pytest.mark.parametrize("read", [read_blocks, read_rows])
@pytest.mark.parametrize("part", ["indices", "indptr"])
@pytest.mark.parametrize("kind", ["float32", "S4"])
def test_places_that_are_no_whole_numbers_are_refused(read, part, kind, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells = anndata.AnnData(sparse.random(4, 5, density=0.5, format="csr", random_state=0))
    cells.write_h5ad(path)
    read(path)
    with h5py.File(path, "r+") as file:
        places = file["X"][part][:].astype(kind)
        del file["X"][part]
        file["X"][part] = places
    with pytest.raises(ValueError, match=rf"its {part} are of the type .*, not whole numbers") as caught:
        read(path)
    assert "cells.h5ad" in str(caught.value)


def test_csc_columns_are_checked_too(tmp_path):
    path = tmp_path / "cells.h5ad"
    anndata.AnnData(sparse.random(4, 5, density=0.5, format="csc", random_state=0)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        places = file["X"]["indptr"][:] + 0.5
        del file["X"]["indptr"]
        file["X"]["indptr"] = places
    with pytest.raises(ValueError, match="its indptr are of the type float64, not whole numbers"):
        read_blocks(path)
