"""What effects are said to be worth is what chance makes of them: made-up effects with a known truth."""

import numpy as np
import pytest
from scipy.stats import bootstrap, false_discovery_control, mannwhitneyu

from state_hf.analysis.gene_perturbations import ExpressionCensus, GenePerturbation, LikeGenes, random_perturbations
from state_hf.analysis.in_silico_statistics import (
    Combination,
    distinctness,
    effect_statistics,
    impact_probabilities,
    resampled_means,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_intervals_are_those_of_a_bootstrap_over_cells(rng):
    values = 1 - np.abs(rng.normal(0.01, 0.004, (60, 3)))
    values[:20, 1] = np.nan
    values[1:, 2] = np.nan
    means, draws = resampled_means(values, seed=3)
    np.testing.assert_allclose(means, np.nanmean(values, axis=0))
    table = effect_statistics(values[:, :, None], ["gene_cosine"], [0, 1, 2], {}, seed=3)
    for column in (0, 1):
        known = values[np.isfinite(values[:, column]), column]
        wanted = bootstrap((known,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
        error = known.std() / np.sqrt(len(known))
        found = table.loc[column, ["gene_cosine_low", "gene_cosine_high"]]
        assert np.abs(found.to_numpy(float) - np.array(wanted)).max() < 0.3 * error
    # One cell has a mean, and no interval.
    assert table.loc[2, "gene_cosine"] == pytest.approx(values[0, 2])
    assert table.loc[2, ["gene_cosine_low", "gene_cosine_high"]].isna().all()
    assert table["cells"].tolist() == [60, 40, 1]
    assert table["cells_without"].tolist() == [0, 20, 59]
    assert np.array_equal(draws, resampled_means(values, seed=3)[1], equal_nan=True)


def test_tests_are_those_of_scipy(rng):
    values = rng.normal(size=(40, 5, 2))
    values[:, 0] += 1
    randoms = {0: [2, 3], 1: [3, 4]}
    table = effect_statistics(values, ["cell_distance", "shift_to_goal"], [0, 1], randoms, seed=0)
    for number, effect in enumerate(["cell_distance", "shift_to_goal"]):
        p = [mannwhitneyu(values[:, one, number], values[:, others, number].ravel(), method="asymptotic").pvalue
             for one, others in randoms.items()]  # fmt: skip
        np.testing.assert_allclose(table[f"{effect}_p"], p)
        np.testing.assert_allclose(table[f"{effect}_q"], false_discovery_control(p))
        p_all = [mannwhitneyu(values[:, one, number], np.delete(values[:, :, number], one, axis=1).ravel(),
                              method="asymptotic").pvalue for one in (0, 1)]  # fmt: skip
        np.testing.assert_allclose(table[f"{effect}_p_all"], p_all)
        difference = [
            values[:, one, number].mean() - values[:, others, number].mean() for one, others in randoms.items()
        ]
        np.testing.assert_allclose(table[f"{effect}_minus_random"], difference)
    assert table["cell_distance_beyond_random"][0] == 1
    assert table["random_genes"].tolist() == [2, 2]


def test_a_gene_like_its_random_ones_is_seldom_called_and_a_planted_one_is(rng):
    cells, genes = 80, 220
    values = 1 - np.abs(rng.normal(0.01, 0.003, (cells, genes)))
    values[:, 0] -= 0.003
    randoms = {one: list(range(one + 1, one + 21)) for one in range(200)}
    table = effect_statistics(values[:, :, None], ["gene_cosine"], range(200), randoms, seed=0)
    assert table["gene_cosine_q"].idxmin() == 0
    assert table["gene_cosine_q"][0] < 1e-4
    assert (table["gene_cosine_q"][1:] < 0.05).sum() <= 3
    assert table["gene_cosine_beyond_random"][0] == 1
    # The interval of the difference holds 0 for about 95 % of the others.
    holds = (table["gene_cosine_minus_random_low"] < 0) & (table["gene_cosine_minus_random_high"] > 0)
    assert 0.88 < holds[1:].mean() < 0.99


def test_what_is_beyond_the_sum_of_two_is_the_published_statistic(rng):
    anchor, other = 1 - np.abs(rng.normal(0.02, 0.01, (2, 50)))
    together = anchor + other - 1 - 0.005
    values = np.stack([anchor, other, together], axis=1)[:, :, None]
    values[:5, 1] = np.nan
    table = effect_statistics(values, ["gene_cosine"], range(3), {}, [Combination(2, 0, 1)], seed=0)
    wanted = together - (1 - ((1 - anchor) + (1 - other)))
    assert table["gene_cosine_beyond_sum"][2] == pytest.approx(wanted[5:].mean(), abs=1e-12)
    assert table["gene_cosine_beyond_sum_q"][2] < 1e-6
    assert table.loc[:1, "gene_cosine_beyond_sum"].isna().all()
    additive = np.stack([anchor, other, anchor + other - 1], axis=1)[:, :, None]
    table = effect_statistics(additive, ["gene_cosine"], range(3), {}, [Combination(2, 0, 1)], seed=0)
    assert abs(table["gene_cosine_beyond_sum"][2]) < 1e-12


def test_states_may_have_any_name(rng):
    values = rng.normal(size=(30, 4, 3))
    names = ["gene_cosine", "shift_to_cosine", "shift_to_x_p"]
    table = effect_statistics(values, names, [0, 1], {0: [2, 3], 1: [2, 3]}, seed=0)
    np.testing.assert_allclose(table["shift_to_x_p"], values[:, :2, 2].mean(axis=0))
    larger = [(values[:, one, 1].mean() > values[:, [2, 3], 1].mean(axis=0)).mean() for one in (0, 1)]
    assert table["shift_to_cosine_beyond_random"].tolist() == larger
    with pytest.raises(ValueError, match="'shift_to_x_low': give the states other names"):
        effect_statistics(values, ["gene_cosine", "shift_to_x", "shift_to_x_low"], [0, 1], {}, seed=0)


def test_two_groups_of_means_are_told_apart(rng):
    means = np.concatenate([rng.normal(0.999, 0.0005, 80), rng.normal(0.97, 0.002, 20), [np.nan]])
    found = impact_probabilities(means, seed=0)
    assert (found[:80] < 0.5).all()
    assert (found[80:100] > 0.5).all()
    assert np.isnan(found[100])
    assert impact_probabilities(means[:5], seed=0) is None
    assert impact_probabilities(np.ones(50), seed=0) is None


def test_directions_of_their_own_are_found_again_and_common_ones_are_not(rng):
    cells = np.full((2, 30), 40.0)
    own = rng.normal(size=(30, 16))
    noise = 0.1 * rng.normal(size=(2, 30, 16))
    found = distinctness((own + noise) * 40, cells, seed=0)
    assert found["found_again"] == 1
    assert found["discrimination"] == 1
    assert abs(found["alike"]) < 0.1
    alike = distinctness((np.ones(16) + noise) * 40, cells, seed=0)
    assert alike["discrimination"] < 0.7
    assert alike["alike"] > 0.95
    cells[1, 2:] = 0
    assert distinctness(own + noise, cells, seed=0)["compared"] == 2
    assert distinctness(np.zeros((2, 30, 16)), cells, seed=0)["discrimination"] is None


def test_random_genes_are_of_like_expression(rng):
    genes, cells = 200, 60
    census = ExpressionCensus(genes)
    share = np.linspace(0.05, 0.95, genes)
    levels = np.where(rng.random((cells, genes)) < share, share, np.nan)
    census.add(np.broadcast_to(np.arange(genes), levels.shape), levels)
    np.testing.assert_array_equal(census.expressing, np.isfinite(levels).sum(axis=0))
    like = LikeGenes(census, np.arange(genes))
    drawn = random_perturbations(GenePerturbation("G", (150, 30)), like, 20, seed=0)
    rows = np.array([one.rows for one in drawn])
    assert len(drawn) >= 18
    assert np.abs(share[rows[:, 0]] - share[150]).mean() < 0.15
    assert np.abs(share[rows[:, 1]] - share[30]).mean() < 0.15
    assert not {150, 30} & set(rows.ravel().tolist())
    again = random_perturbations(GenePerturbation("H", (150, 30)), like, 20, seed=0)
    assert [one.rows for one in again] == [one.rows for one in drawn]
    other = random_perturbations(GenePerturbation("G", (150, 30)), like, 20, seed=1)
    assert [one.rows for one in other] != [one.rows for one in drawn]
    kept = random_perturbations(GenePerturbation("G", (150, 30)), like, 9, kept=[150], seed=0)
    assert all(one.rows[0] == 150 for one in kept)
