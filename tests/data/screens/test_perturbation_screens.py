import anndata
import numpy as np
import pandas as pd
import pytest

from state_hf.data.screens.perturbation_screens import open_screens


def adata_of(**columns):
    obs = pd.DataFrame(columns)
    obs.index = [f"cell_{number}" for number in range(len(obs))]
    return anndata.AnnData(np.ones((len(obs), 2), np.float32), obs=obs)


@pytest.fixture
def small():
    return adata_of(perturbation=["B", "non-targeting", "A"], cell_type=["t", "t", "u"], batch=[2, 1, 2])


def test_ids_by_hand(small):
    screens = open_screens(small, batch_key="batch")
    assert screens.perturbations == ["A", "B", "non-targeting"]
    assert screens.cell_types == ["t", "u"]
    assert screens.batches == ["1", "2"]
    assert screens.control_id == 2
    (screen,) = screens.screens
    assert screen.perturbations.tolist() == [1, 2, 0]
    assert screen.cell_types.tolist() == [0, 0, 1]
    assert screen.batches.tolist() == [1, 0, 1]
    assert screen.is_control.tolist() == [False, True, False]


def test_a_file_reads_as_the_object_does(screen, screen_file):
    for source in (screen, screen_file, str(screen_file)):
        screens = open_screens({"name": source}, batch_key="batch")
        assert screens.datasets == ["name"]
        assert screens.num_cells == screen.n_obs
        labels = np.array(screens.perturbations)[screens.screens[0].perturbations]
        assert labels.tolist() == screen.obs["perturbation"].tolist()
        assert screens.screens[0].cells.cell_names().tolist() == screen.obs_names.tolist()


NUMBERS, TEXTS = [7, 0, 7, 3], ["7", "0", "7", "3"]


@pytest.mark.parametrize("labels", [NUMBERS, pd.Categorical(NUMBERS), TEXTS, pd.array(TEXTS, "string")])
def test_labels_of_any_type_are_texts(labels, tmp_path):
    with anndata.settings.override(allow_write_nullable_strings=True):
        adata_of(perturbation=labels, cell_type=["a b"] * 4).write_h5ad(tmp_path / "labels.h5ad")
    screens = open_screens(tmp_path / "labels.h5ad", control="0")
    assert screens.perturbations == ["0", "3", "7"]
    assert screens.screens[0].perturbations.tolist() == [2, 0, 2, 1]
    assert screens.cell_types == ["a b"]


def test_without_cell_type_and_batch(small):
    screens = open_screens(small, cell_type_key=None)
    assert screens.cell_types == screens.batches == ["all"]


def test_several_files_share_vocabularies(small):
    other = adata_of(perturbation=["C", "non-targeting"], cell_type=["v", "t"], batch=["x", "y"])
    screens = open_screens({"one": small, "two": other}, batch_key="batch")
    assert screens.perturbations == ["A", "B", "C", "non-targeting"]
    assert screens.batches == ["1", "2", "x", "y"]
    assert screens.screens[1].perturbations.tolist() == [2, 3]
    assert screens.num_cells == 5


def test_a_models_vocabulary_gives_the_ids(small):
    screens = open_screens(small, perturbations=["non-targeting", "Z", "B", "A"])
    assert screens.screens[0].perturbations.tolist() == [2, 0, 3]
    with pytest.raises(ValueError, match=r"has the perturbation 'B', which the vocabulary lacks; did you mean 'BB'\?"):
        open_screens(small, perturbations=["non-targeting", "BB", "A"])


def test_a_category_without_cells_may_be_unknown(small):
    small.obs["perturbation"] = small.obs["perturbation"].astype("category").cat.add_categories("gone")
    assert "gone" not in open_screens(small).perturbations
    assert open_screens(small, perturbations=["non-targeting", "B", "A"]).screens[0].perturbations.tolist() == [1, 0, 2]


def test_missing_control(small, tmp_path):
    small.write_h5ad(tmp_path / "screen.h5ad")
    with pytest.raises(ValueError, match=r"screen\.h5ad has no cell labelled 'Non-targeting', the control; did"):
        open_screens(tmp_path / "screen.h5ad", control="Non-targeting")


def test_missing_column(small):
    with pytest.raises(ValueError, match=r"has no column 'perturbatoin' .*; did you mean 'perturbation'\?"):
        open_screens(small, perturbation_key="perturbatoin")


def test_missing_labels():
    adata = adata_of(perturbation=["A", None, "non-targeting", None], cell_type=["t"] * 4)
    with pytest.raises(ValueError, match=r"no label for 2 of 4 cells \(the first is cell 1\)"):
        open_screens(adata)


def test_labels_that_differ_in_spaces_only():
    adata = adata_of(perturbation=["A", "A ", "non-targeting"], cell_type=["t"] * 3)
    with pytest.raises(ValueError, match="'A' and 'A ', which differ in spaces only"):
        open_screens(adata)


def test_one_file_in_two_datasets(screen_file):
    with pytest.raises(ValueError, match=r"listed twice, in the datasets 'one' and 'two'"):
        open_screens({"one": screen_file, "two": str(screen_file)})


def test_a_backed_object(screen_file):
    backed = anndata.read_h5ad(screen_file, backed="r")
    assert open_screens(backed).perturbations == open_screens(screen_file).perturbations
    backed.file.close()


def test_files_that_are_not_there_or_not_anndata(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_screens(tmp_path / "none.h5ad")
    (tmp_path / "text.h5ad").write_text("no")
    with pytest.raises(ValueError, match=r"not an \.h5ad file"):
        open_screens(tmp_path / "text.h5ad")
    with pytest.raises(ValueError, match="'empty' has no files"):
        open_screens({"empty": []})
