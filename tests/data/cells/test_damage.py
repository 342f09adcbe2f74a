"""Structures that libraries follow too far: places that are no whole numbers, and links without end."""

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from state_hf.data.cells.damage import open_hdf5
from state_hf.data.cells.open_cells import open_cells


def read_blocks(path):
    return open_cells(path).expression().block(0, 4)


def read_rows(path):
    return open_cells(path).expression().rows(np.arange(4))


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


def circle(file):
    file["obs/again"] = h5py.SoftLink("/")


def hard_circle(file):
    file["a/b/c"] = file.create_group("a")


def nested(file):
    file.create_group("/".join(["deep"] * 60))


def reached_late(file):
    """60 levels, of which every group is seen first where it lies flat."""
    for level in range(60, 0, -1):
        group = file.create_group(f"{99 - level:02}")
        if level < 60:
            group["below"] = file[f"{99 - level - 1:02}"]


def doubled(file):
    """2^30 entries in 30 groups."""
    for level in range(30):
        group = file.create_group(f"{99 - level:02}")
        for name in ("one", "other"):
            group[name] = h5py.SoftLink(f"/{99 - level + 1:02}" if level else "/nothing")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (circle, "its obs/again leads back to a group that it lies in"),
        (hard_circle, "its a/b/c leads back to a group that it lies in"),
        (nested, "lies more than 50 groups deep"),
        (reached_late, "groups more than 50 deep"),
        (doubled, "its links lead to more than 1,000,000 entries"),
    ],
)
def test_links_without_end_are_refused(damage, message, tmp_path):
    path = tmp_path / "cells.h5ad"
    with h5py.File(path, "w") as file:
        file.create_group("obs")
        damage(file)
    with pytest.raises(ValueError, match=message) as caught:
        open_hdf5(path)
    assert "cells.h5ad" in str(caught.value)


def test_links_with_an_end_are_followed(tmp_path):
    path = tmp_path / "cells.h5ad"
    with h5py.File(path, "w") as file:
        file["layers/counts/data"] = np.arange(3)
        file["X"] = h5py.SoftLink("/layers/counts")
        file["raw"] = h5py.SoftLink("/not/there")
        file["other"] = h5py.ExternalLink("not-there.h5", "/")
    with open_hdf5(path) as file:
        assert file["X/data"].shape == (3,)
