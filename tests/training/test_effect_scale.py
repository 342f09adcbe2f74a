"""How far predictions go from the mixed model to the network, against numbers that can be worked out by hand."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny_models import state_transition_model

from state_hf import (
    PerturbationDataset,
    PerturbationSplit,
    PerturbationVocabulary,
    StateTransitionForPerturbation,
    open_screens,
    predict,
)
from state_hf.data.screens.split_definition import SplitDefinition
from state_hf.inference.control_cells import ControlCells
from state_hf.training import effect_scale
from state_hf.training.effect_scale import attach_mixed_effects, fit_effect_scale
from state_hf.training.predicted_profiles import MeanCell, average_effects, predicted_profiles
from state_hf.training.screen_means import screen_means
from state_hf.training.transfer import replace_perturbations

MEANS = {"P": (3, 1), "Q": (1, 1.5), "R": (2, 0)}


@pytest.fixture
def cells():
    """Two genes. Control cells of (0, 0), and eight cells of every perturbation, +-0.5 around its mean."""
    around = np.tile([[0.5], [-0.5]], (4, 2))
    values = [np.zeros((4, 2)), *(around + np.array(mean) for mean in MEANS.values())]
    labels = ["ctrl"] * 4 + [name for name in MEANS for _ in range(8)]
    obs = pd.DataFrame({"perturbation": labels, "cell_type": "a"}).astype("category")
    obs.index = obs.index.astype(str)
    return anndata.AnnData(np.concatenate(values).astype(np.float32), obs=obs, var=pd.DataFrame(index=["g1", "g2"]))


@pytest.fixture
def dataset(cells):
    screens = open_screens(cells, control="ctrl")
    return PerturbationDataset(
        screens, split=PerturbationSplit(screens, SplitDefinition(training=("screen",))), set_size=8
    )


@pytest.fixture
def means(dataset):
    return screen_means(dataset.screens, None, slot="X")


@pytest.fixture
def model(dataset, means):
    """Its mixed model expects (1, 1) of every perturbation and (0, 0) of controls; its network is told by offsets."""
    screens = dataset.screens
    names = PerturbationVocabulary(screens.perturbations, "ctrl", screens.batches, screens.cell_types, ["g1", "g2"])
    model = state_transition_model(names, use_perturbation_offsets=True).eval()
    for weights in model.state_transition.output_projection.parameters():
        torch.nn.init.zeros_(weights)
    attach_mixed_effects(model, means)
    with torch.no_grad():
        for table in model.mixed_effects.parameters():
            table.zero_()
        model.mixed_effects.noise.fill_(1)
        model.mixed_effects.treated.fill_(1)
    return model


def say(model, **effects):
    """Let the network predict these effects."""
    for name, effect in effects.items():
        offsets = model.state_transition.perturbation_offsets
        offsets.data[model.vocabulary.perturbation_id(name)] = torch.tensor(effect)


def test_the_scale_is_the_slope_less_its_error(model, dataset, means):
    # Beyond (1, 1) the cells show (2, 0), (0, 0.5) and (1, -1), and the network says (3, 0), (0, 1) and (0, -2).
    say(model, P=(4.0, 1.0), Q=(1.0, 2.0), R=(1.0, -1.0))
    model.config.nonnegative_output = False
    products, squares = np.array([6, 0.5, 2]), np.array([9, 1, 4])
    slope = products.sum() / squares.sum()
    without = np.array([2.5 / 5, 8 / 13, 6.5 / 10])
    error = np.sqrt(2 / 3 * np.square(without - without.mean()).sum())
    found = fit_effect_scale(model, dataset, means)
    assert (found.effect.value, found.effect.standard_error) == (pytest.approx(slope), pytest.approx(error))
    assert (found.groups, found.networks, found.interaction) == (3, 1, None)
    assert found.effect.scale == model.config.effect_scale == pytest.approx(slope - error, abs=1e-6)
    assert f"show {slope:.2f} ± {error:.2f}: predictions go {slope - error:.2f} of the way" in str(found)


def test_a_network_that_says_the_opposite_is_left_out(model, dataset, means, cells):
    say(model, P=(0.0, 1.0), Q=(1.0, 0.0), R=(0.0, 2.0))
    found = fit_effect_scale(model, dataset, means)
    assert found.effect.value < 0
    assert found.effect.scale == 0
    assert "it adds nothing that can be seen, and predictions are the mixed model's" in str(found)
    profile = predict(cells, model, ["P"], controls="none", cells=4).X.toarray().mean(axis=0)
    np.testing.assert_allclose(profile, [1, 1], rtol=1e-6)


def test_a_network_that_shows_too_little_goes_no_further_than_to_itself(model, dataset, means):
    say(model, P=(1.5, 1.0), Q=(1.0, 1.125), R=(1.25, 0.75))
    assert fit_effect_scale(model, dataset, means).effect.value == pytest.approx(4)
    assert model.config.effect_scale == 1


def test_predictions_go_the_whole_way_or_a_part_of_it(model, cells, tmp_path):
    say(model, P=(4.0, 0.5))
    for scale, expected in ((0.0, [1, 1]), (0.5, [2.5, 0.75]), (1.0, [4, 0.5])):
        model.config.effect_scale = scale
        model.save_pretrained(tmp_path)
        loaded = StateTransitionForPerturbation.from_pretrained(tmp_path)
        for predictor in (model, loaded):
            predicted = predict(cells, predictor, ["P"], controls="simulated", cells=4)
            assert predicted.uns["prediction"]["emit"] == "tilted"
            is_control = (predicted.obs["perturbation"] == "ctrl").to_numpy()
            np.testing.assert_allclose(predicted.X[~is_control].toarray().mean(axis=0), expected, rtol=1e-5)
            np.testing.assert_allclose(predicted.X[is_control].toarray().mean(axis=0), [0, 0], atol=1e-7)


def test_control_cells_are_averaged_once(model, cells, monkeypatch):
    averaged, blocks = [], ControlCells.blocks
    monkeypatch.setattr(ControlCells, "blocks", lambda *arguments: averaged.append(1) or blocks(*arguments))
    model.config.effect_scale = 0.5
    predict(cells, model, list(MEANS), controls="none", cells=4)
    assert len(averaged) == 1


@pytest.fixture
def contexts(cells):
    """The screen in two contexts, of which the second's values are doubled, with a split that trains both."""
    other = cells.copy()
    other.X *= 2
    other.obs["cell_type"] = "b"
    both = anndata.concat([cells, other], index_unique="-")
    both.obs["cell_type"] = both.obs["cell_type"].astype("category")
    screens = open_screens(both, control="ctrl")
    split = PerturbationSplit(screens, SplitDefinition(training=("screen",)))
    return PerturbationDataset(screens, split=split, set_size=8), screen_means(screens, None, slot="X")


def test_networks_are_averaged_over_contexts_and_seeds(model, contexts, cells, tmp_path):
    dataset, means = contexts
    names = dataset.screens.perturbations
    model.vocabulary = PerturbationVocabulary(names, "ctrl", ["screen"], dataset.screens.cell_types, ["g1", "g2"])
    said = []
    for factor in (1.0, 3.0):
        say(model, P=(4.0 * factor, 1.0), Q=(1.0, factor), R=(0.0, 0.0))
        model.config.nonnegative_output = False
        said.append(average_effects(model, dataset))
    attach_mixed_effects(model, means, said)
    assert (model.config.num_networks, model.config.interaction_scale) == (2, 0.0)
    tables, row = model.network_effects, model.vocabulary.perturbation_id
    np.testing.assert_allclose(tables.effects[row("P")], [8, 1], rtol=1e-6)
    np.testing.assert_allclose(tables.spread[row("P")], [np.sqrt(32), 0], rtol=1e-6)
    np.testing.assert_allclose(tables.effects[row("Q")], [1, 2], rtol=1e-6)
    # The network in hand says 12; all of the way to the mean of both, and half of what it says beyond that, is 10.
    expected = predicted_profiles(model, dataset, means)
    model.config.effect_scale, model.config.interaction_scale = 1.0, 0.5
    profiles = predicted_profiles(model, dataset, means)
    group = (("screen", 0), row("P"))
    np.testing.assert_allclose(profiles[group].mean, profiles[group].level + np.array([10, 1]), rtol=1e-5)
    np.testing.assert_allclose(profiles[group].variance, expected[group].variance + np.array([32, 0]), rtol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = StateTransitionForPerturbation.from_pretrained(tmp_path)
    predicted = predict(cells, loaded, ["P"], controls="none", cells=4, profiles=tmp_path / "profiles.parquet")
    np.testing.assert_allclose(predicted.X.toarray().mean(axis=0), profiles[group].mean, rtol=1e-5)
    table = pd.read_parquet(tmp_path / "profiles.parquet")
    assert table[["cell_type", "perturbation", "gene"]].astype(str).values.tolist() == [
        ["a", "P", "g1"],
        ["a", "P", "g2"],
    ]
    np.testing.assert_allclose(table["mean"], profiles[group].mean, rtol=1e-5)
    np.testing.assert_allclose(table["control"], profiles[group].level, rtol=1e-5, atol=1e-6)
    error = np.sqrt(profiles[group].variance)
    np.testing.assert_allclose(table["standard_error"], error, rtol=1e-4)
    np.testing.assert_allclose(table["upper"] - table["mean"], 1.96 * error, rtol=1e-3)
    assert (table["lower"] >= 0).all()


def test_the_context_has_a_slope_of_its_own(model, contexts, monkeypatch):
    """Networks say twice as much in the second context, and the cells show it: all of the interaction is used."""
    dataset, means = contexts
    model.vocabulary = PerturbationVocabulary(
        dataset.screens.perturbations, "ctrl", ["screen"], dataset.screens.cell_types, ["g1", "g2"]
    )
    average = {row: means.perturbed[("screen", 0), row] * 1.5 for row in range(len(MEANS))}
    attach_mixed_effects(model, means, [average])
    with torch.no_grad():
        for table in model.mixed_effects.parameters():
            table.zero_()
        model.mixed_effects.noise.fill_(1)
    live = {(context, row): mean for (context, row), mean in means.perturbed.items()}
    monkeypatch.setattr("state_hf.training.predicted_profiles.network_effects", lambda *_, **__: live)
    found = fit_effect_scale(model, dataset, means)
    assert (found.effect.value, found.interaction.value) == (pytest.approx(1), pytest.approx(1))
    assert (found.effect.scale, found.interaction.scale) == (pytest.approx(1), pytest.approx(1))
    assert "of what it says of a context alone 1.00" in str(found)
    # A context's part that is the other way round is left out, and the rest stays.
    wrong = {group: 2 * average[group[1]] - mean for group, mean in live.items()}
    monkeypatch.setattr("state_hf.training.predicted_profiles.network_effects", lambda *_, **__: wrong)
    found = fit_effect_scale(model, dataset, means)
    assert found.interaction.value == pytest.approx(-1)
    assert (model.config.effect_scale, model.config.interaction_scale) == (pytest.approx(1), 0)


def test_one_training_context_says_nothing_of_interactions(model, dataset, means):
    attach_mixed_effects(model, means, [average_effects(model, dataset)])
    assert model.config.interaction_scale is None
    assert fit_effect_scale(model, dataset, means).interaction is None


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_stated_errors_are_scaled_to_what_is_seen(factor, model, means):
    """Many features, whose true means are `factor` stated errors away from the predicted ones."""
    rng = np.random.default_rng(0)
    model.mixed_effects.noise.data = torch.full((2, 4000), 0.04)
    predicted, seen = {}, {}
    for row in range(len(MEANS)):
        variance = rng.gamma(2, 0.05, 4000)
        predicted[("screen", 0), row] = MeanCell(np.zeros(4000), np.full(4000, 5.0), variance)
        sampled = np.sqrt(factor**2 * variance + 0.04 / 8)
        seen[("screen", 0), row] = 5 + sampled * rng.normal(size=4000)
    found, coverage = effect_scale._calibrate(predicted, model, replace(means, perturbed=seen))
    # 12,000 squares, each with a relative standard deviation of sqrt(2), and twice that for the sampling noise.
    assert found == pytest.approx(factor, rel=0.1)
    assert coverage == pytest.approx(0.95, abs=0.01)


def test_models_without_errors_are_named(cells, tmp_path, dataset):
    names = dataset.screens.perturbations
    vocabulary = PerturbationVocabulary(names, "ctrl", ["screen"], ["a"], ["g1", "g2"])
    with pytest.raises(ValueError, match="does not say how far its mean cells may be off"):
        predict(cells, state_transition_model(vocabulary), ["P"], cells=4, profiles=tmp_path / "profiles.parquet")
    with pytest.raises(ValueError, match=r"must end in \.parquet"):
        predict(cells, state_transition_model(vocabulary), ["P"], cells=4, profiles=tmp_path / "profiles.csv")
    assert not list(tmp_path.iterdir())


def test_two_groups_say_nothing(model, dataset, means):
    held_out = SplitDefinition(training=("screen",), fewshot={("screen", "a"): {"test": ["R"]}})
    split = PerturbationSplit(dataset.screens, held_out)
    say(model, P=(3.0, 1.0), Q=(1.0, 1.5))
    found = fit_effect_scale(model, PerturbationDataset(dataset.screens, split=split, set_size=8), means)
    assert (found.effect.value, found.groups, found.effect.scale) == (pytest.approx(1), 2, 0)
    assert np.isnan(found.effect.standard_error)


def test_another_screen_has_another_mixed_model(model, dataset, means):
    names = model.vocabulary
    replace_perturbations(model, type(names)(["ctrl", "P", "S"], "ctrl", names.batches, names.cell_types, names.genes))
    assert model.mixed_effects is None
    assert (model.config.mixed_effects_cell_types, model.config.effect_scale) == (None, 1.0)
    with pytest.raises(ValueError, match="fit one first"):
        predicted_profiles(model, dataset, means)


def test_a_context_of_two_files_is_one(model, dataset, means, cells, tmp_path):
    """The network's effect is the mean over the cells of both, of which the second has twice as many."""
    for weights in model.state_transition.output_projection.parameters():
        torch.nn.init.normal_(weights)
    model.config.effect_scale, model.config.nonnegative_output = 1.0, False
    model.mixed_effects.level.data.fill_(100)  # nothing falls below 0
    is_first = np.arange(cells.n_obs) % 3 == 0
    cells.X = np.random.default_rng(0).normal(size=cells.shape).astype(np.float32)
    files = [tmp_path / "first.h5ad", tmp_path / "second.h5ad"]
    for part, path in zip((is_first, ~is_first), files, strict=True):
        cells[part].write_h5ad(path)

    def profiles(places):
        screens = open_screens({"screen": places}, control="ctrl")
        assert screens.perturbations == dataset.screens.perturbations
        split = PerturbationSplit(screens, SplitDefinition(training=("screen",)))
        found = predicted_profiles(model, PerturbationDataset(screens, split=split, set_size=8), means)
        return {group: profile.mean for group, profile in found.items()}

    first, second, both = profiles(files[:1]), profiles(files[1:]), profiles(files)
    labels = cells.obs["perturbation"].to_numpy()
    for (context, perturbation), profile in both.items():
        counts = [(labels[part] == dataset.screens.perturbations[perturbation]).sum() for part in (is_first, ~is_first)]
        key = (context, perturbation)
        assert not np.allclose(first[key], second[key])
        np.testing.assert_allclose(profile, np.average([first[key], second[key]], axis=0, weights=counts), rtol=1e-5)
