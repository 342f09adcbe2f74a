"""The mixed model against the best prediction that knows the truth, and what it has to do by itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hf import PerturbationVocabulary
from state_hf.training.mixed_effects import fit_mixed_effects, mixed_effects_tables
from state_hf.training.screen_means import ScreenMeans

FEATURES, CELLS = 400, 50


def means_of(levels, effects, *, noise, rng, cells=CELLS, left_out=()):
    """A screen of contexts x (control, perturbations), and its true means; `left_out` pairs have no cells."""
    contexts, perturbations = effects.shape[:2]
    controls, perturbed, counts = {}, {}, {}
    for context in range(contexts):
        name = ("screen", context)
        spread = np.sqrt(noise / cells)
        controls[name] = levels[context] + spread * rng.normal(size=levels.shape[1])
        for perturbation in range(perturbations):
            if (context, perturbation) in left_out:
                continue
            truth = levels[context] + effects[context, perturbation]
            perturbed[name, perturbation + 1] = truth + spread * rng.normal(size=levels.shape[1])
            counts[name, perturbation + 1] = cells
    variances = {("screen", context): np.asarray(noise) for context in range(contexts)}
    return ScreenMeans(controls, perturbed, variances, dict.fromkeys(controls, cells), counts)


def expected(fitted, means, context, perturbation):
    """Mean cell, and control level, of a context of the screen; see `MixedEffects`."""
    name = ("screen", context)
    row = fitted.contexts.index(name)
    surprise = means.controls[name] - fitted.level[row]
    total = fitted.level_variance[row] + fitted.noise[row] / means.control_cells[name]
    level = fitted.level[row] + fitted.level_variance[row] / total * surprise
    treated = fitted.treated[row] + fitted.covariance[row] / total * surprise
    return treated + fitted.effects[perturbation + 1], level


def dense_prediction(means, context, perturbation, *, apart, common, own):
    """The best linear prediction where the variances are known, feature by feature, from one covariance matrix."""
    groups = [*((name, 0) for name in means.controls), *means.perturbed]
    observed = np.stack([means.controls[name] if p == 0 else means.perturbed[name, p] for name, p in groups])
    target = (("screen", context), perturbation + 1)

    def covariance(one, other):
        same_context, same_perturbation = one[0] == other[0], one[1] == other[1]
        perturbed = one[1] > 0 and other[1] > 0
        flat = 1e4  # nothing is known of the common level
        return flat + apart * same_context + perturbed * (common + own * same_perturbation)

    noise = next(iter(means.variances.values()))[0]
    inner = np.array([[covariance(one, other) for other in groups] for one in groups])
    inner += np.diag([noise / CELLS] * len(groups))
    outer = np.array([covariance(target, other) for other in groups])
    return outer @ np.linalg.solve(inner, observed)


@pytest.mark.parametrize(("apart", "own"), [(0.002, 0.05), (1.0, 0.05), (0.002, 0.002)])
def test_as_good_as_the_prediction_that_knows_the_variances(apart, own):
    """Replicates and distant contexts, strong and weak effects: the fitted variances cost a few per cent."""
    rng = np.random.default_rng(7)
    common = 0.01
    levels = rng.normal(2, 1, FEATURES) + np.sqrt(apart) * rng.normal(size=(3, FEATURES))
    shared = np.sqrt(common) * rng.normal(size=FEATURES)
    effects = np.tile(shared + np.sqrt(own) * rng.normal(size=(12, FEATURES)), (3, 1, 1))
    left_out = {(2, perturbation) for perturbation in range(12)}
    means = means_of(levels, effects, noise=np.ones(FEATURES), rng=rng, left_out=left_out)
    fitted = fit_mixed_effects(means, 13)
    errors = {"fitted": [], "known": [], "difference": []}
    for perturbation in range(12):
        truth = levels[2] + effects[2, perturbation]
        shifts = [means.perturbed[name, perturbation + 1] - means.controls[name] for name in fitted.contexts[:2]]
        candidates = {
            "fitted": expected(fitted, means, 2, perturbation)[0],
            "known": dense_prediction(means, 2, perturbation, apart=apart, common=common, own=own),
            "difference": means.controls["screen", 2] + np.mean(shifts, axis=0),
        }
        for name, candidate in candidates.items():
            errors[name].append(np.square(candidate - truth).mean())
    known, found, plain = (np.mean(errors[name]) for name in ("known", "fitted", "difference"))
    assert known <= found < 1.15 * known
    assert found < 0.9 * plain


def test_a_strong_gene_of_a_weak_perturbation_is_hardly_moved():
    rng = np.random.default_rng(3)
    levels = np.tile(rng.normal(2, 1, FEATURES), (3, 1))
    effects = np.zeros((3, 10, FEATURES))
    effects[:, 4, 17] = -1.5
    left_out = {(2, perturbation) for perturbation in range(10)}
    means = means_of(levels, effects, noise=np.ones(FEATURES), rng=rng, left_out=left_out)
    effects_found = fit_mixed_effects(means, 11).effects
    standard_error = np.sqrt(1 / (2 * CELLS))
    assert abs(effects_found[5, 17] + 1.5) < 3 * standard_error
    rest = np.delete(effects_found[1:].ravel(), 4 * FEATURES + 17)
    # Noise alone would have a standard deviation of one standard error.
    assert rest.std() < 0.3 * standard_error


@pytest.mark.parametrize(
    ("apart", "own", "interaction", "trained"),
    [(0.002, 0.05, 0.0, False), (1.0, 0.05, 0.01, False), (0.5, 0.002, 0.002, False), (0.5, 0.05, 0.01, True)],
)
def test_stated_variances_are_those_of_the_errors(apart, own, interaction, trained):
    """Of perturbations of a context that trained without them, of a new context, and of a perturbation never seen."""
    rng = np.random.default_rng(11)
    contexts, perturbations, held_out = 6, 14, 5 if trained else 6
    levels = rng.normal(2, 1, FEATURES) + np.sqrt(apart) * rng.normal(size=(contexts, FEATURES))
    effects = np.tile(0.1 * rng.normal(size=FEATURES), (contexts, perturbations, 1))
    effects += np.sqrt(own) * rng.normal(size=(perturbations, FEATURES))
    effects += np.sqrt(interaction) * rng.normal(size=effects.shape)
    unseen = perturbations - 1
    left_out = {(5, perturbation) for perturbation in range(perturbations)} | {(c, unseen) for c in range(contexts)}
    means = means_of(levels, effects, noise=np.ones(FEATURES), rng=rng, left_out=left_out)
    if held_out == 6:
        del means.controls["screen", 5], means.control_cells["screen", 5]
    control = levels[5] + np.sqrt(1 / CELLS) * rng.normal(size=FEATURES)
    names = [str(number) for number in range(perturbations + 1)]
    tables = mixed_effects_tables(
        means, PerturbationVocabulary(names, "0", ["b"], [str(c) for c in range(6)], ()), variances=True
    )
    row = 5 if trained else -1
    control = means.controls["screen", 5] if trained else control
    ids = torch.arange(1, perturbations + 1)[:, None]
    found = tables.profiles(ids, row, control, CELLS)
    stated = tables.profile_variances(ids, row, CELLS)
    squares = np.square(found - levels[5] - effects[5])
    for chosen in (slice(0, unseen), slice(unseen, None)):
        # Effects of a perturbation vary by chance as much as 400 features do, and more where few numbers are fitted.
        assert squares[chosen].mean() == pytest.approx(stated[chosen].mean(), rel=0.35)
    level = tables.profiles(torch.tensor([[-1]]), row, control, CELLS)[0]
    stated = tables.profile_variances(torch.tensor([[-1]]), row, CELLS)[0]
    assert np.square(level - levels[5]).mean() == pytest.approx(stated.mean(), rel=0.35)


def test_effects_that_contexts_do_not_share_are_not_predicted():
    rng = np.random.default_rng(5)
    levels = rng.normal(2, 1, (3, FEATURES))
    effects = 0.3 * rng.normal(size=(3, 10, FEATURES))
    left_out = {(2, perturbation) for perturbation in range(10)}
    means = means_of(levels, effects, noise=np.full(FEATURES, 0.5), rng=rng, left_out=left_out)
    fitted = fit_mixed_effects(means, 11)
    shifts = np.stack([means.perturbed[("screen", 0), p] - means.controls["screen", 0] for p in range(1, 11)])
    assert fitted.effects[1:].std() < 0.3 * shifts.std()


@pytest.mark.parametrize("contexts", [1, 2, 4])
def test_predictions_follow_the_units(contexts):
    rng = np.random.default_rng(contexts)
    effects = np.tile(0.3 * rng.normal(size=(6, 30)), (contexts, 1, 1))
    means = means_of(rng.normal(2, 1, (contexts, 30)), effects, noise=np.ones(30), rng=rng)
    scaled = ScreenMeans(
        {name: 10 * mean for name, mean in means.controls.items()},
        {name: 10 * mean for name, mean in means.perturbed.items()},
        {name: 100 * variance for name, variance in means.variances.items()},
        means.control_cells,
        means.cells,
    )
    one, ten = fit_mixed_effects(means, 7), fit_mixed_effects(scaled, 7)
    for perturbation in range(6):
        for part, larger in zip(
            expected(one, means, 0, perturbation), expected(ten, scaled, 0, perturbation), strict=True
        ):
            np.testing.assert_allclose(10 * part, larger, rtol=1e-6)


def test_an_untrained_perturbation_has_the_common_effect():
    rng = np.random.default_rng(1)
    effects = np.tile(0.5 + 0.1 * rng.normal(size=(5, 60)), (2, 1, 1))
    means = means_of(np.full((2, 60), 2.0), effects, noise=np.ones(60), rng=rng, cells=500)
    fitted = fit_mixed_effects(means, 9)
    assert not fitted.effects[6:].any()
    assert np.abs(expected(fitted, means, 0, 7)[0] - 2.5).mean() < 0.1


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1e-9, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_always_finite(contexts, perturbations, features, seed, noise):
    """Few of everything, values that do not vary, single cells."""
    rng = np.random.default_rng(seed)
    levels = rng.choice([0.0, 1.0], size=(contexts, features))
    effects = rng.choice([0.0, 1.0], size=(contexts, perturbations, features))
    means = means_of(levels, effects, noise=np.full(features, noise), rng=rng, cells=1)
    fitted = fit_mixed_effects(means, perturbations + 1)
    variances = (fitted.level_variance, fitted.treated_variance, fitted.effect_variance, fitted.interaction)
    for table in (fitted.level, fitted.treated, fitted.covariance, fitted.effects, *variances):
        assert np.isfinite(table).all()
    for table in variances:
        assert (table >= 0).all()


def test_without_perturbed_cells():
    means = ScreenMeans({("screen", 0): np.ones(3)}, {}, {("screen", 0): np.ones(3)}, {("screen", 0): 5}, {})
    with pytest.raises(ValueError, match="no perturbation with control cells"):
        fit_mixed_effects(means, 2)
