"""Control cells tilted to a mean: what they keep, what they reach, and what is predicted of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from state_hf import PerturbationBaseline, PerturbationBaselineConfig, predict
from state_hf.inference.control_marginals import ControlMarginals
from tests.screen_models import normalised_screen
from tests.tiny_models import state_transition_model


def draw(values, means, *, carriers=None, seed=0):
    """Cells of one gene, with the controls themselves as carriers."""
    cells = np.array(values, dtype=np.float32)[:, None]
    carriers = cells if carriers is None else np.array(carriers, dtype=np.float32)[:, None]
    return ControlMarginals(cells).draw(carriers, np.array([means]), np.random.default_rng(seed))[:, 0]


def test_one_gene():
    np.testing.assert_allclose(draw([0, 2, 0, 0], 0.5), [0, 2, 0, 0])  # the mean that it has: nothing changes
    np.testing.assert_allclose(draw([0, 2, 0, 0], 0.0), 0)
    # Half of the cells have to express it: the one that does, and one other.
    raised = draw([0, 2, 0, 0], 1.0)
    assert raised[1] == pytest.approx(2)
    np.testing.assert_allclose(np.sort(raised), [0, 0, 2, 2])
    # No control cell expresses the second gene: a cell that does has what is usual among expressed values.
    cells = np.array([[0, 0], [2, 0], [2, 0], [2, 0]], dtype=np.float32)
    drawn = ControlMarginals(cells).draw(cells, np.array([1.5, 0.5]), np.random.default_rng(0))
    np.testing.assert_allclose(np.sort(drawn, axis=0), [[0, 0], [2, 0], [2, 0], [2, 2]])


def test_a_mean_beyond_the_largest_value_is_reached():
    np.testing.assert_allclose(draw([1, 2, 3], 4.0), [4, 4, 4], rtol=1e-5)


values = st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5]), min_size=2, max_size=30)


@given(values, values, st.floats(0.001, 2.4), st.integers(0, 5))
@settings(deadline=None)
def test_the_mean_is_exact_and_the_order_is_the_carriers(controls, carriers, mean, seed):
    drawn = draw(controls, mean, carriers=carriers, seed=seed)
    assert drawn.mean() == pytest.approx(mean, rel=1e-4)
    assert drawn.min() >= 0
    order = np.argsort(carriers, kind="stable")
    for one, other in pairwise(order):
        assert carriers[one] == carriers[other] or drawn[one] <= drawn[other]


@pytest.mark.parametrize("scale", [1.0, 1e-6, 4.0])
def test_carriers_equal_up_to_the_last_bits_are_equal(scale):
    """Cells go where another processor's log1p of the same counts sends them; small values that differ keep order."""
    rng = np.random.default_rng(0)
    carriers = (scale * (1 + rng.integers(0, 4, 60) / 100)).astype(np.float32)
    bits = carriers.view(np.int32) + rng.integers(-3, 4, 60, dtype=np.int32)
    controls = np.arange(1, 61)
    expected = draw(controls, 40.0, carriers=carriers)
    np.testing.assert_array_equal(draw(controls, 40.0, carriers=bits.view(np.float32)), expected)
    for lower, higher in pairwise(np.unique(carriers)):
        assert expected[carriers == lower].max() <= expected[carriers == higher].min()


@pytest.mark.parametrize(("zeros", "mean"), [(0.6, 1.3), (0.6, 0.2), (0.05, 1.0), (0.0, 1.0)])
def test_the_distribution_is_the_tilted_one(zeros, mean):
    rng = np.random.default_rng(0)
    controls = np.where(np.arange(400) < zeros * 400, 0, rng.gamma(4, 0.5, 400)).astype(np.float32)
    drawn = draw(controls, mean)
    expressed = controls[controls > 0].astype(float)
    # The slow way: try factors of the counts, then exponents, until the mean is right.
    share = zeros or 0.5 / 400
    factors = np.exp(np.linspace(-6, 6, 100_001))
    left = 1 - (share**factors - (0 if zeros else share)).clip(0)
    moved = np.log(factors * (1 - zeros) / left) * (1 - np.exp(-expressed)).mean()
    expressing = left[np.argmin(np.abs(left * (expressed.mean() + moved) - mean))]
    exponents = np.linspace(-6, 6, 60_001)[:, None]
    weights = np.exp(exponents * expressed)
    weights /= weights.sum(axis=1, keepdims=True)
    best = weights[np.argmin(np.abs(weights @ expressed - mean / expressing))]
    assert (drawn > 0).mean() == pytest.approx(expressing, abs=0.005)
    for level in (0.5, 1.5, 3.0):
        found = ((drawn > 0) & (drawn <= level * 1.005)).mean()
        assert found == pytest.approx(expressing * best[expressed <= level].sum(), abs=0.01)


@pytest.mark.parametrize("rate", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("factor", [0.4, 0.8, 1.5])
def test_a_change_of_counts_is_found_as_it_would_be_in_real_cells(rate, factor):
    """The cells that a known mean gives are as far from the controls as cells whose counts really changed."""
    rng = np.random.default_rng(0)
    depths = rng.lognormal(0, 0.3, 4000)
    controls, other, real = (np.log1p(rng.poisson(depths * mean) / depths) for mean in (rate, rate, rate * factor))
    drawn = draw(controls, real.mean())
    expected, found, noise = (stats.mannwhitneyu(cells, controls).statistic / 4000**2 for cells in (real, drawn, other))
    # The mean rank of 4,000 cells, in parts of their number, has a standard error of at most 1 / sqrt(12 * 4000).
    assert found == pytest.approx(expected, abs=3 / np.sqrt(12 * 4000))
    assert abs(expected - 0.5) > 2 * abs(noise - 0.5)


@pytest.fixture(scope="module")
def screen():
    return normalised_screen()


@pytest.fixture(scope="module")
def model(vocabulary):
    torch.manual_seed(0)
    return state_transition_model(vocabulary, nonnegative_output=True)


def of(cells, perturbation, cell_type):
    chosen = (cells.obs["perturbation"] == perturbation) & (cells.obs["cell_type"] == cell_type)
    return np.asarray(cells[chosen.to_numpy()].X.todense())


def test_no_effect_gives_the_control_cells_back(screen, vocabulary):
    config = PerturbationBaselineConfig(
        method="control_copy", input_dim=20, num_perturbations=5, feature_key="X", cell_set_length=8
    )
    baseline = PerturbationBaseline(config)
    baseline.vocabulary = vocabulary
    name = vocabulary.perturbations[1]
    predicted = predict(screen, baseline, [name], cells=24, cell_types=["type_1"], emit="tilted")
    controls = of(predicted, vocabulary.control_perturbation, "type_1")
    np.testing.assert_allclose(
        np.sort(of(predicted, name, "type_1"), axis=0), np.sort(controls, axis=0), rtol=1e-4, atol=1e-5
    )


def test_a_group_depends_on_the_seed_alone(screen, model, vocabulary):
    name = vocabulary.perturbations[1]
    whole = predict(screen, model, "all", cells=30, emit="tilted", batch_size=3)
    alone = predict(
        screen, model, [name], cells=30, cell_types=["type_2"], batch_size=1, controls="none", emit="tilted"
    )
    np.testing.assert_allclose(of(alone, name, "type_2"), of(whole, name, "type_2"), atol=1e-3)
    other = predict(screen, model, [name], cells=30, cell_types=["type_2"], controls="none", emit="tilted", seed=1)
    assert not np.allclose(of(other, name, "type_2"), of(alone, name, "type_2"))
    assert whole.uns["prediction"]["emit"] == "tilted"


def test_effects_are_the_differences_from_the_simulated_control(screen, model, vocabulary):
    control, name = vocabulary.control_perturbation, vocabulary.perturbations[1]
    predicted = predict(screen, model, [name], cells=40, controls="simulated", emit="tilted", cell_types=["type_1"])
    tilted = of(predicted, name, "type_1").mean(axis=0) - of(predicted, control, "type_1").mean(axis=0)
    rows = (screen.obs["perturbation"] == control) & (screen.obs["cell_type"] == "type_1")
    cells = torch.from_numpy(np.asarray(screen[rows.to_numpy()].X.todense())).reshape(3, 8, -1)
    with torch.no_grad():
        own, without = (
            model.eval()(control=cells, perturbation_ids=torch.full((3,), vocabulary.perturbation_id(label)))
            .predicted_cells.mean(dim=(0, 1)).numpy() for label in (name, control)
        )  # fmt: skip
    # The model's sets were others, of the same cells; a mean cannot fall below 0.
    base = of(predicted, control, "type_1").mean(axis=0)
    np.testing.assert_allclose(tilted, np.maximum(own - without, -base), atol=0.02)


def test_an_embedding_has_no_tilted_cells(screen, vocabulary):
    with pytest.raises(ValueError, match="emit='model'"):
        predict(screen, state_transition_model(vocabulary, feature_scale="embedding"), "all", cells=3, emit="tilted")
