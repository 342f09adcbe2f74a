"""Kernel ridge regression on screens whose truth is known."""

import numpy as np
import pytest

from state_hf.training.kernel_ridge import fit_kernel_ridge
from state_hf.training.screen_effects import ScreenEffects
from state_hf.training.screen_means import ScreenMeans
from state_hf.training.unseen_effects import effects_by_features

GENES, PERTURBATIONS, CELLS = 30, 24, 50
UNSEEN = range(20, 24)


def screen(*, contexts=2, apart=3.0, control_noise=0.0, noise=0.3, seed=0):
    """Means of cells, the effects (perturbations, genes), linear in features, and these; the last four never train."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(PERTURBATIONS, 3))
    effects = 0.5 + features @ rng.normal(size=(3, GENES))
    common = rng.uniform(2, 4, GENES)
    levels = common + apart * rng.normal(size=(contexts, GENES))
    controls = levels + control_noise * rng.normal(size=(contexts, GENES))
    names = [("screen", number) for number in range(contexts)]
    perturbed = {
        (names[context], number): levels[context] + effects[number] + noise * rng.normal(size=GENES)
        for context in range(contexts)
        for number in range(PERTURBATIONS)
        if number not in UNSEEN
    }
    means = ScreenMeans(
        dict(zip(names, controls, strict=True)),
        perturbed,
        {name: np.full(GENES, CELLS * noise**2) for name in names},
        dict.fromkeys(names, CELLS),
        dict.fromkeys(perturbed, CELLS),
    )
    return means, effects, features, levels


def predicted(fitted, control):
    level = 0 if fitted.by_level is None else fitted.by_level.of_array(control[None])[0]
    return fitted.share * control + fitted.common + level + fitted.effects


def test_features_predict_what_never_trained_and_silent_ones_nothing():
    means, effects, features, levels = screen()
    data = ScreenEffects.of(means)
    without = fit_kernel_ridge(data, PERTURBATIONS, None)
    assert without.by_features is None
    assert not without.effects[UNSEEN].any()
    told = fit_kernel_ridge(data, PERTURBATIONS, features)
    truth = levels[0] + effects[UNSEEN]
    error, blind = (np.abs(predicted(fitted, levels[0])[UNSEEN] - truth).mean() for fitted in (told, without))
    assert error < blind / 2
    for seed in range(100, 105):
        silent = np.random.default_rng(seed).normal(size=features.shape)
        np.testing.assert_allclose(fit_kernel_ridge(data, PERTURBATIONS, silent).effects, without.effects)


def test_effects_by_features_are_none_where_features_are_silent():
    _, effects, features, _ = screen()
    own = effects - effects.mean(axis=0)
    trained = np.arange(20)
    told = effects_by_features(own[trained], features[trained])
    assert np.abs(told.of_array(features[20:]) - own[20:]).mean() < np.abs(own[20:]).mean() / 2
    for seed in range(100, 105):
        silent = np.random.default_rng(seed).normal(size=features.shape)
        assert not effects_by_features(own[trained], silent[trained]).of_array(silent).any()
    # Those that do not differ say nothing either.
    assert not effects_by_features(own[trained], np.ones((20, 2))).of_array(np.ones((1, 2))).any()


def test_what_trained_and_has_no_effect_of_its_own_is_shrunk():
    means, *_ = screen(noise=1.0)
    rng = np.random.default_rng(1)
    flat = {key: means.controls[key[0]] + 0.5 + rng.normal(size=GENES) for key in means.perturbed}
    fitted = fit_kernel_ridge(
        ScreenEffects.of(ScreenMeans(means.controls, flat, means.variances, means.control_cells, means.cells)),
        PERTURBATIONS,
        None,
    )
    assert np.square(fitted.effects[:20]).mean() < 0.02  # of 1 / 2 that means over two contexts have


def test_the_control_level_is_kept_as_far_as_contexts_differ_in_it():
    """Where contexts are replicates and control means are noise, treated means are better predicted without them."""
    distant = fit_kernel_ridge(ScreenEffects.of(screen(contexts=3, apart=3.0)[0]), PERTURBATIONS, None)
    assert distant.share == 1
    replicates = screen(contexts=3, apart=0.0, control_noise=1.0)[0]
    assert fit_kernel_ridge(ScreenEffects.of(replicates), PERTURBATIONS, None).share == 0


def test_one_context_tells_nothing_of_levels_and_means_are_kept_as_far_as_they_are_no_noise():
    means, effects, _, levels = screen(contexts=1, noise=0.3)
    fitted = fit_kernel_ridge(ScreenEffects.of(means), PERTURBATIONS, None)
    assert fitted.share == 1
    found = predicted(fitted, levels[0])[:20] - levels[0]
    assert np.abs(found - effects[:20]).mean() < 0.3
    # The noise's share of what effects vary is about 0.09 / 3.
    slope = (fitted.effects[:20] * (effects - effects[:20].mean(axis=0))[:20]).sum() / np.square(
        (effects - effects[:20].mean(axis=0))[:20]
    ).sum()
    assert slope == pytest.approx(0.97, abs=0.03)


def test_the_same_every_time_and_with_many_perturbations():
    means, _, features, _ = screen()
    first, second = (fit_kernel_ridge(ScreenEffects.of(means), PERTURBATIONS, features) for _ in range(2))
    np.testing.assert_array_equal(first.effects, second.effects)
    one = fit_kernel_ridge(
        ScreenEffects.of(
            ScreenMeans(
                means.controls,
                {key: mean for key, mean in means.perturbed.items() if key[1] == 3},
                means.variances,
                means.control_cells,
                {key: number for key, number in means.cells.items() if key[1] == 3},
            )
        ),
        PERTURBATIONS,
        features,
    )
    assert np.isfinite(one.effects).all()
