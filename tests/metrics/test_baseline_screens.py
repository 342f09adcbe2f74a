import numpy as np
import pytest
import scipy.sparse as sp

from state_hf.metrics.baseline_screens import constant_screen, mean_profile, resampled_screen
from state_hf.metrics.group_sums import block_sums
from state_hf.metrics.profiles import load_profile
from state_hf.metrics.summary import summarise
from tests.metrics.screens import build, random_counts

LOGS = np.array([[1.0, 0.5], [3.0, 0.5], [4.5, 0.5], [0.5, 2.0]])
LABELS = ["a", "a", "b", "ctrl"]


def test_mean_profile_by_hand():
    # Pseudobulks: a (2, .5), b (4.5, .5), control (.5, 2).
    summary = summarise(build(LOGS, LABELS), load_profile("vcc2025"))
    np.testing.assert_allclose(mean_profile(summary, include_control=False), [3.25, 0.5])
    np.testing.assert_allclose(mean_profile(summary, include_control=True), [7 / 3, 1.0])
    np.testing.assert_allclose(mean_profile(summary, include_control=False, as_delta=True), [2.75, -1.5])


@pytest.mark.parametrize("given", ["counts", "lognorm"])
def test_constant_cells_equal_cells_written_out(given):
    profile = load_profile("vcc2025")
    counts, labels = random_counts(0, 60, 12) + 1, ["a"] * 10 + ["b"] * 25 + ["ctrl"] * 25
    totals = counts.sum(axis=1)
    logs = np.log1p(counts / (totals / np.median(totals))[:, None])
    reference = build(counts if given == "counts" else logs, labels)
    mean = mean_profile(summarise(reference, profile), include_control=True)
    found = summarise(constant_screen(reference, mean, profile.settings["expression"]), profile)
    written_out = build(np.vstack([np.repeat(mean[None], 35, axis=0), logs[35:]]), labels)
    expected = summarise(written_out, profile)
    np.testing.assert_allclose(found.profiles, expected.profiles, rtol=1e-12)
    np.testing.assert_allclose(
        found.differential_expression.p_value, expected.differential_expression.p_value, rtol=1e-9
    )
    np.testing.assert_allclose(found.variance, expected.variance, atol=1e-9)
    np.testing.assert_array_equal(found.n_cells, [10, 25, 25])


def test_resampled_cells_have_the_mean_response():
    counts, labels = random_counts(1, 3000, 6, depth=9.0), ["g0"] * 500 + ["b"] * 500 + ["ctrl"] * 2000
    counts[:500, 1] *= 3
    reference = build(sp.csr_matrix(counts), labels)
    made = resampled_screen(reference, seed=0, target_genes=None, shift=True)
    np.testing.assert_array_equal(made.n_cells, reference.n_cells)
    means = block_sums(made.blocks, 3, 6) / made.n_cells[:, None]
    expected = (counts[:500].mean(axis=0) + counts[500:1000].mean(axis=0)) / 2
    expected[0] = counts[500:1000, 0].mean()  # gene 0 leaves out the perturbation that targets it
    np.testing.assert_allclose(means[0], expected, rtol=0.1, atol=0.01)
    np.testing.assert_allclose(means[2], counts[1000:].mean(axis=0))


def test_resampled_cells_depend_on_the_seed_alone():
    reference = build(random_counts(2, 60, 8), ["a"] * 20 + ["ctrl"] * 40)
    drawn = [resampled_screen(reference, seed=seed, target_genes=None, shift=False) for seed in (0, 0, 1)]
    sums = [block_sums(screen.blocks, 2, 8)[0] for screen in drawn]
    np.testing.assert_array_equal(sums[0], sums[1])
    assert (sums[0] != sums[2]).any()


def test_a_gene_that_every_perturbation_targets_has_no_mean_response():
    reference = build(random_counts(3, 20, 4), ["a"] * 10 + ["ctrl"] * 10)
    with pytest.raises(ValueError, match="every perturbation targets gene 'g2'"):
        resampled_screen(reference, seed=0, target_genes={"a": "g2"}, shift=True)
