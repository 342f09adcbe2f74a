"""Columns of obs and var are what they were, whichever version of anndata wrote them."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from state_hf.data.cells.frames import column_names, num_rows, read_column, read_frame, row_names
from state_hf.data.screens.perturbation_screens import open_screens
from tests.data.cells.old_layouts import write_as_07


@pytest.fixture
def cells() -> anndata.AnnData:
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical(
                ["control", "B", "A", "B", "control", "A"], categories=["A", "B", "control"]
            ),
            "dose": pd.Categorical([2, 1, 2, 1, 1, 2], categories=[1, 2], ordered=True),
            "cell_type": ["T", "T", "T", "T", "T", "T"],
            "total": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        },
        index=[f"cell{number}" for number in range(6)],
    )
    return anndata.AnnData(np.ones((6, 2), dtype=np.float32), obs=obs, var=pd.DataFrame(index=["G1", "G2"]))


def test_labels_of_anndata_07_are_names_not_codes(cells, tmp_path):
    path = write_as_07(cells, tmp_path / "old.h5ad")
    with h5py.File(path) as file:
        obs = file["obs"]
        assert column_names(obs) == list(cells.obs)
        assert num_rows(obs) == 6
        assert row_names(obs, 1, 3).tolist() == ["cell1", "cell2"]
        assert read_column(obs, "perturbation").tolist() == cells.obs["perturbation"].tolist()
        assert read_column(obs, "dose").cat.ordered
        assert read_column(obs, "dose").astype(int).tolist() == [2, 1, 2, 1, 1, 2]
        assert read_column(obs, "cell_type").tolist() == ["T"] * 6
        assert read_column(obs, "total").tolist() == [1, 2, 3, 4, 5, 6]
        pd.testing.assert_frame_equal(read_frame(obs), cells.obs)
    screens = open_screens(path, control="control")
    assert screens.perturbations == ["A", "B", "control"]
    with pytest.raises(ValueError, match="no cell labelled '2', the control"):
        open_screens(path, control="2")


def test_missing_categories_are_missing_labels(cells, tmp_path):
    cells.obs["perturbation"] = cells.obs["perturbation"].where(np.arange(6) != 3)
    with pytest.raises(ValueError, match=r"no label for 1 of 6 cells \(the first is cell 3\)"):
        open_screens(write_as_07(cells, tmp_path / "old.h5ad"), control="control")


def test_the_index_is_what_the_frame_says(tmp_path):
    """Not the column that is called so."""
    frame = pd.DataFrame({"index": ["a", "b"], "name": ["c", "d"]}, index=pd.Index(["G1", "G2"], name="gene"))
    adata = anndata.AnnData(np.ones((1, 2), dtype=np.float32), var=frame)
    for path in (write_as_07(adata, tmp_path / "old.h5ad"), tmp_path / "new.h5ad"):
        if not path.exists():
            adata.write_h5ad(path)
        with h5py.File(path) as file:
            assert row_names(file["var"]).tolist() == ["G1", "G2"]
            pd.testing.assert_frame_equal(read_frame(file["var"]), frame)
            assert read_frame(file["obs"]).shape == (1, 0)


@pytest.mark.parametrize("kind", ["fixed", "numbers", "categories", "nullable"])
def test_index_of_any_kind(kind, cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    if kind == "categories":
        write_as_07(cells, path)
    elif kind == "nullable":
        cells.obs.index = cells.obs.index.astype("string")
        with anndata.settings.override(allow_write_nullable_strings=True):
            cells.write_h5ad(path)
    else:
        cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        obs, expected = file["obs"], cells.obs_names.tolist()
        if kind == "categories":
            codes, names = np.array([0, 1, 0, 1, 0, 1], dtype="i1"), np.array([b"x", b"y"])
            del obs["_index"]
            obs["__categories/_index"], obs["_index"] = names, codes
            obs["_index"].attrs["categories"] = obs["__categories/_index"].ref
            expected = ["x", "y"] * 3
        elif kind != "nullable":
            values = np.array(expected, dtype="S") if kind == "fixed" else np.arange(6)
            attributes = {} if kind == "numbers" else {"encoding-type": "string-array", "encoding-version": "0.2.0"}
            del obs["_index"]
            obs["_index"] = values
            obs["_index"].attrs.update(attributes)
            expected = expected if kind == "fixed" else [str(number) for number in range(6)]
        assert num_rows(obs) == 6
        assert row_names(obs, 1, 4).tolist() == expected[1:4]
