"""Screens as users have them, and disks that fill up: a clear error or a right result, and nothing lost."""

import subprocess

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.screen_models import normalised_screen, vocabulary_of
from tests.tiny_models import state_transition_model
from tests.training.test_state_transition_trainer import curve, make_trainer

from state_hf import PerturbationDataset, PerturbationSplit, open_screens, predict
from state_hf.data.screens.split_definition import zeroshot_split
from state_hf.training.checkpoints import last_complete_checkpoint


def trained(screen, folder, **labels):
    """A model trained on two cell types and validated on the third, after two steps."""
    screens = open_screens(screen, **labels)
    names = screens.cell_types
    split = PerturbationSplit(screens, zeroshot_split(screens, val=names[1:2], test=names[2:]))
    trainer = make_trainer(folder, split, vocabulary_of(split), max_steps=2, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert np.isfinite(curve(trainer)).all()
    assert all(np.isfinite(entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry)
    return trainer.model


@pytest.fixture
def screen():
    return normalised_screen()


def test_a_perturbation_with_one_cell_trains_validates_and_is_predicted(screen, tmp_path):
    one = screen.obs["perturbation"].cat.categories[-1]
    kept = np.ones(screen.n_obs, dtype=bool)
    for cell_type in screen.obs["cell_type"].cat.categories:
        group = (screen.obs["perturbation"] == one) & (screen.obs["cell_type"] == cell_type)
        kept[np.flatnonzero(group)[1:]] = False
    screen = screen[kept].copy()
    predicted = predict(screen, trained(screen, tmp_path))
    assert (predicted.obs["perturbation"] == one).sum() == 3
    assert np.isfinite(predicted.X.data).all()


def test_a_cell_type_without_controls_is_named(screen, tmp_path, vocabulary):
    kept = (screen.obs["perturbation"] != "non-targeting") | (screen.obs["cell_type"] != "type_1")
    screen = screen[kept.to_numpy()].copy()
    message = r"no control cells \('non-targeting'\) of the cell type 'type_1'"
    with pytest.raises(ValueError, match=message):
        trained(screen, tmp_path)
    screen.write_h5ad(tmp_path / "screen.h5ad")
    with pytest.raises(
        ValueError, match=rf"screen.h5ad has {message} to predict from; there are some of 'type_2', 'type"
    ):
        predict(tmp_path / "screen.h5ad", state_transition_model(vocabulary), "all", cells=3)


def test_constant_genes_change_nothing(screen, tmp_path):
    screen.X = screen.X.toarray()
    screen.X[:, 3], screen.X[:, 4] = 0.0, 2.5
    predicted = predict(screen, trained(screen, tmp_path))
    assert np.isfinite(predicted.X.data).all()


def test_values_that_are_not_finite_are_found_with_their_place(screen, tmp_path):
    screen.obsm["X_emb"] = screen.X.toarray()
    screen.obsm["X_emb"][7, 2] = np.nan
    screen.write_h5ad(tmp_path / "screen.h5ad")
    dataset = PerturbationDataset(open_screens(tmp_path / "screen.h5ad"), features="obsm/X_emb")
    with pytest.raises(ValueError, match=r"X_emb of .*screen\.h5ad.*cell number 7 "):
        list(dataset.read(range(len(dataset))))


@pytest.mark.parametrize("kind", ["category", "int", "spaces", "object"])
def test_labels_of_any_type(screen, tmp_path, kind):
    codes = screen.obs["perturbation"].cat.codes
    labels = {"int": codes.astype(int), "spaces": "guide no " + codes.astype(str) + " (x)"}.get(kind, codes.astype(str))
    screen.obs["guide"] = labels.astype("category" if kind == "category" else labels.dtype)
    control = str(screen.obs["guide"][(screen.obs["perturbation"] == "non-targeting").to_numpy()].iloc[0])
    screen.write_h5ad(tmp_path / "screen.h5ad")
    model = trained(tmp_path / "screen.h5ad", tmp_path / "model", perturbation_key="guide", control=control)
    assert model.vocabulary.control_perturbation == control
    predicted = predict(tmp_path / "screen.h5ad", model, perturbation_key="guide", controls="real")
    expected = anndata.read_h5ad(tmp_path / "screen.h5ad").obs["guide"].astype(str).value_counts().sort_index()
    pd.testing.assert_series_equal(predicted.obs["guide"].astype(str).value_counts().sort_index(), expected)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user cannot mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_the_checkpoints_that_are_complete(small_disk, split, vocabulary):
    trainer = make_trainer(small_disk / "model", split, vocabulary, max_steps=30, save_steps=1)
    with pytest.raises(OSError, match=r"The disk is full.*go on from .*checkpoint-\d+ \(resume\)"):
        trainer.train()
    checkpoints = sorted(int(path.name.split("-")[1]) for path in (small_disk / "model").glob("checkpoint-*"))
    assert last_complete_checkpoint(small_disk / "model").endswith(f"checkpoint-{checkpoints[-1]}")
    for step in checkpoints[:-1]:
        subprocess.run(["rm", "-r", str(small_disk / "model" / f"checkpoint-{step}")], check=True)
    resumed = make_trainer(small_disk / "model", split, vocabulary, max_steps=checkpoints[-1] + 2, save_steps=100)
    resumed.train(resume_from_checkpoint=True)
    assert len(curve(resumed)) == checkpoints[-1] + 2
