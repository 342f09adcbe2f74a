"""Baselines against numbers that can be worked out by hand."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from state_hf import PerturbationBaseline, PerturbationVocabulary, open_screens
from state_hf.data.screens.split_definition import SplitDefinition
from state_hf.data.screens.splits import PerturbationSplit
from state_hf.training.baseline_fitting import fit_baselines
from state_hf.training.screen_means import screen_means
from state_hf.training.transfer import add_perturbations

# Two genes. Effects: P in a: (2, 0); P in b: (4, 0); Q in a: (0, 3). Context b has no Q in training.
CELLS = [
    ("ctrl", "a", [1, 1]), ("ctrl", "a", [3, 1]), ("P", "a", [4, 1]), ("Q", "a", [2, 3]), ("Q", "a", [2, 5]),
    ("ctrl", "b", [5, 0]), ("P", "b", [9, 0]), ("Q", "b", [100, 100]),
]  # fmt: skip


@pytest.fixture
def data():
    obs = pd.DataFrame([cell[:2] for cell in CELLS], columns=["perturbation", "cell_type"]).astype("category")
    obs.index = obs.index.astype(str)
    screen = anndata.AnnData(
        np.array([cell[2] for cell in CELLS], dtype=np.float32), obs=obs, var=pd.DataFrame(index=["g1", "g2"])
    )
    screens = open_screens(screen, control="ctrl")
    split = PerturbationSplit(
        screens, SplitDefinition(training=("screen",), fewshot={("screen", "b"): {"test": ["Q"]}})
    )
    vocabulary = PerturbationVocabulary(screens.perturbations, "ctrl", (), screens.cell_types, ["g1", "g2"])
    return screen_means(screens, split, slot="X"), vocabulary


@pytest.fixture
def means(data):
    return data[0]


@pytest.fixture
def vocabulary(data):
    return data[1]


@pytest.fixture
def fitted(means, vocabulary):
    return fit_baselines(means, vocabulary, cell_set_length=4)


def predicted(model, perturbation, control=((5.0, 0.0), (1.0, 2.0)), **inputs):
    ids = torch.tensor([model.vocabulary.perturbation_id(perturbation)])
    return model(control=torch.tensor([control]), perturbation_ids=ids, **inputs).predicted_cells[0].tolist()


def test_shifts(fitted):
    assert predicted(fitted["control_copy"], "Q") == [[5, 0], [1, 2]]
    # Mean of (2, 0), (4, 0) and (0, 3).
    assert predicted(fitted["context_mean"], "Q") == [[7, 1], [3, 3]]
    assert predicted(fitted["perturbation_mean"], "P") == [[8, 0], [4, 2]]
    assert predicted(fitted["perturbation_mean"], "Q") == [[5, 3], [1, 5]]


def test_the_control_has_no_effect(fitted):
    for method in ("control_copy", "context_mean", "perturbation_mean", "perturbation_ridge"):
        assert predicted(fitted[method], "ctrl") == [[5, 0], [1, 2]]


def test_profiles_are_constant_cells(fitted):
    # Mean of the controls (3, 1), or as given, plus the effect.
    assert predicted(fitted["perturbation_profile"], "P") == [[6, 1], [6, 1]]
    given = torch.tensor([[10.0, 0.0]])
    assert predicted(fitted["perturbation_profile"], "P", control_mean=given) == [[13, 0], [13, 0]]
    # Context b trained with P alone, context a with P (4, 1) and Q (2, 4).
    for cell_type, profile in ((0, [3, 2.5]), (1, [9, 0])):
        assert predicted(fitted["context_profile"], "Q", cell_type_ids=torch.tensor([cell_type])) == [profile] * 2


def test_treated_means_are_levels(fitted):
    # P: (4, 1) in a and (9, 0) in b; Q: (2, 4) in a.
    assert predicted(fitted["treated_mean"], "P") == [[6.5, 0.5]] * 2
    assert predicted(fitted["treated_mean"], "Q") == [[2, 4]] * 2
    # Without a perturbation there is the control mean, as everywhere.
    for method in ("treated_mean", "kernel_ridge", "bilinear"):
        np.testing.assert_allclose(predicted(fitted[method], "ctrl"), [[3, 1]] * 2, rtol=1e-6)


def test_the_nearest_perturbation(means, vocabulary):
    features = np.array([[0.0], [1.0], [4.0]])
    names = ["P", "Q", "ctrl"]
    order = [names.index(name) for name in vocabulary.perturbations]
    model = fit_baselines(means, vocabulary, perturbation_features=features[order])["nearest_perturbation"]
    # Itself, (0, 3), whose effect counts as it is; and of another one, of 3, that of Q.
    assert predicted(model, "Q") == [[3, 4]] * 2
    add_perturbations(model, {"far": np.array([3.0], np.float32), "near": np.array([0.1], np.float32)})
    assert predicted(model, "far") == [[3, 4]] * 2
    assert predicted(model, "near") == predicted(model, "P") == [[6, 1]] * 2
    with pytest.raises(ValueError, match="needs perturbation_features"):
        fit_baselines(means, vocabulary, methods=["nearest_perturbation"])


def test_mixed_effects_by_the_tables(fitted):
    """Rows of the two cell types and of an unknown one; given, 9 control cells of mean (2, 1)."""
    model = fitted["mixed_effects"]
    tables = model.mixed_effects
    with torch.no_grad():
        for name, row in (("level", [4, 2]), ("level_variance", [1, 3]), ("treated", [6, 2]), ("covariance", [0.5, 1])):
            getattr(tables, name).copy_(torch.tensor([row, row, [0, 0]]))
        tables.noise.fill_(9)
        tables.effects.zero_()[model.vocabulary.perturbation_id("P")] = torch.tensor([1.0, -1.0])
    inputs = {"control_mean": torch.tensor([[2.0, 1.0]]), "control_cells": torch.tensor([9])}
    # The surprise is (-2, -1), noise / cells is 1.
    known = {"cell_type_ids": torch.tensor([1]), **inputs}
    assert predicted(model, "P", **known) == [[6 - 2 * 0.5 / 2 + 1, 2 - 1 / 4 - 1]] * 2
    assert predicted(model, "Q", **known) == [[5.5, 1.75]] * 2
    assert predicted(model, "ctrl", **known) == [[4 - 2 * 1 / 2, 2 - 1 * 3 / 4]] * 2
    # Of a cell type that it does not know nothing is surprising here: nothing varies.
    assert model.cell_type_id("c") == -1
    assert predicted(model, "P", **inputs) == [[1, 0]] * 2
    # The effect that perturbations have in common counts once in a combination.
    both = torch.tensor([[model.vocabulary.perturbation_id(name) for name in ("P", "Q")]])
    combined = model(control=torch.zeros(1, 2, 2), perturbation_ids=both, **known).predicted_cells[0].tolist()
    assert combined == predicted(model, "P", **known)


def test_ridge_is_the_closed_form(fitted):
    order = fitted["perturbation_ridge"].vocabulary.perturbations
    names = ["P", "P", "Q"]
    inputs = np.array([[name == other for other in order] for name in names], dtype=float)
    outputs = np.array([[2, 0], [4, 0], [0, 3]], dtype=float)
    x, y = inputs - inputs.mean(0), outputs - outputs.mean(0)
    slopes = np.linalg.solve(x.T @ x + np.eye(3), x.T @ y)
    expected = outputs.mean(0) + (np.array([other == "Q" for other in order]) - inputs.mean(0)) @ slopes
    np.testing.assert_allclose(predicted(fitted["perturbation_ridge"], "Q")[1], np.array([1, 2]) + expected, rtol=1e-5)


def test_nothing_below_zero_and_padding_is_zero(fitted):
    mask = torch.tensor([[True, False]])
    fitted["perturbation_mean"].shifts -= 50
    assert predicted(fitted["perturbation_mean"], "P", cell_mask=mask) == [[0, 0], [0, 0]]


def test_saved_and_loaded(fitted, tmp_path):
    for method, model in fitted.items():
        model.save_pretrained(tmp_path / method)
        loaded = PerturbationBaseline.from_pretrained(tmp_path / method)
        assert loaded.vocabulary == model.vocabulary
        inputs = {"cell_type_ids": torch.tensor([0])}
        assert predicted(loaded, "P", **inputs) == predicted(model, "P", **inputs)


def test_features_are_saved_with_a_baseline_and_predict_what_is_added_later(means, vocabulary, tmp_path):
    features = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    names = ["kernel_ridge", "bilinear", "nearest_perturbation", "mixed_effects", "perturbation_ridge"]
    for method, model in fit_baselines(means, vocabulary, perturbation_features=features, methods=names).items():
        for part in (model.by_features, model.mixed_effects and model.mixed_effects.by_features):
            if part is not None:
                part.weights += 0.5
        model.save_pretrained(tmp_path / method)
        loaded = PerturbationBaseline.from_pretrained(tmp_path / method)
        for one in (model, loaded):
            add_perturbations(one, {"new": features[0] + 1})
        assert predicted(loaded, "new") == predicted(model, "new")
        assert predicted(loaded, "new") != predicted(model, "P")
        # Again nothing is new.
        add_perturbations(loaded, {"new": features[0]})
        assert predicted(loaded, "new") == predicted(model, "new")


def test_a_loss_with_targets(fitted):
    cells = torch.rand(2, 3, 2)
    output = fitted["control_copy"](control=cells, perturbation_ids=torch.tensor([0, 1]), target=cells)
    assert output.loss == pytest.approx(0, abs=1e-6)
