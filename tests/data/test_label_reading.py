"""Labels and groups of cells from a file, for annotation and classifiers."""

import anndata
import numpy as np
import pandas as pd
import pytest

from state_hf.data.cells.anndata_files import read_groups, read_labels
from state_hf.data.cells.group_split import split_labelled_cells


@pytest.fixture
def write(tmp_path):
    def write(values):
        obs = pd.DataFrame({"x": values}, index=[f"cell_{number}" for number in range(len(values))])
        anndata.AnnData(np.zeros((len(values), 1), np.float32), obs=obs).write_h5ad(tmp_path / "x.h5ad")
        return tmp_path / "x.h5ad"

    return write


def test_labels_are_texts_and_what_stands_for_none_is_none(write):
    assert read_labels(write([1.0, 2.0, np.nan]), "x").tolist() == ["1", "2", ""]
    assert read_labels(write(pd.Categorical(["T cell", None, "nan", "None"])), "x").tolist() == ["T cell", "", "", ""]
    assert read_groups(write([1.0, 2.0, 1.0]), "x").tolist() == ["1", "2", "1"]


def test_groups_that_would_leak_are_refused(write):
    assert read_groups(write(["donor", "nan"]), "x").tolist() == ["donor", ""]
    with pytest.raises(ValueError, match="1 of 3 labelled cells have no group; give them one, or remove them"):
        split_labelled_cells(
            np.array(["a", "b", "a", ""]), groups=np.array(["1", "2", "", ""], dtype=object), val_share=0.0,
            test_share=0.5, seed=0, by_class=True,
        )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"'donor1' and 'Donor1', which differ in upper .* tell them apart by more than"
    ):
        read_groups(write(["donor1", "Donor1"]), "x")
