"""Predictions made to fool a score, or that know nothing, and what each profile must give them.

The table of docs/metrics.md states the same.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from state_hf import evaluate_predictions
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.screens.screen_reading import read_screens
from state_hf.metrics.baseline_screens import resampled_screen
from state_hf.metrics.expression_rows import stack
from tests.pipelines.screen_cells import CONTROL, as_cells, counts, log_normalised, pseudobulks

REAL, LABELS = counts("reference")
MINE, MY_LABELS = counts("prediction")
PERTURBATIONS = sorted(set(LABELS) - {CONTROL})


@pytest.fixture(scope="module")
def reference():
    return as_cells(sp.csr_matrix(REAL), LABELS)


@pytest.fixture(scope="module")
def prediction():
    return as_cells(sp.csr_matrix(MINE), MY_LABELS)


def copies(cells, labels=PERTURBATIONS):
    """The same cells for every perturbation, beside the real controls."""
    control = REAL[LABELS == CONTROL]
    matrix = np.vstack([*[cells] * len(labels), control])
    return as_cells(
        sp.csr_matrix(matrix), np.array([label for label in labels for _ in cells] + [CONTROL] * len(control))
    )


def one_cell_each(profiles):
    """One cell a perturbation that is its profile, beside the real controls, all log-normalised."""
    logs = log_normalised(REAL.astype(np.float64))
    control = logs[LABELS == CONTROL]
    matrix = np.vstack([*profiles, control])
    return as_cells(matrix, np.array(PERTURBATIONS + [CONTROL] * len(control))), as_cells(logs, LABELS)


def test_truth_against_truth(reference):
    found = evaluate_predictions(reference, reference, "vcc2025", baseline="mean")
    np.testing.assert_array_equal(found.aggregate.loc[["mae", "pds", "des"], "mean"], [0.0, 1.0, 1.0])
    np.testing.assert_array_equal(found.scores["score"], 1.0)
    primer = evaluate_predictions(reference, reference, "vcc2025-primer", baseline="mean")
    np.testing.assert_array_equal(primer.aggregate["mean"], [0.0, 0.0, 1.0, 1.0])
    found = evaluate_predictions(reference, reference, "vcc2026", baseline="mean", replicate=True)
    # Exactly the reference's own noise is credited twice, so the unbiased error is below 0 and its score is capped.
    assert found.aggregate.loc["expr_mse_unbiased_capped_norm", "mean"] < 0
    assert found.scores.loc["expr_mse_unbiased_capped_norm", "score"] == 1.0
    np.testing.assert_array_equal(found.aggregate["mean"].drop("expr_mse_unbiased_capped_norm"), [1, 1, 1, 1, 0])
    assert (found.scores["score"] >= 1.0).all()


def test_control_copy(reference):
    cells = copies(REAL[LABELS == CONTROL])
    logs = log_normalised(REAL.astype(np.float64))
    bulks = pseudobulks(logs, LABELS)
    in_logs = as_cells(np.vstack([logs[LABELS == CONTROL]] * (len(PERTURBATIONS) + 1)), cells.obs["perturbation"])
    found = evaluate_predictions(in_logs, as_cells(logs, LABELS), "vcc2025", baseline="mean")
    effect = np.mean([np.abs(bulks[label] - bulks[CONTROL]).mean() for label in PERTURBATIONS])
    assert found.aggregate.loc["mae", "mean"] == pytest.approx(effect)
    assert found.aggregate.loc["des", "mean"] == 0.0
    assert found.scores.loc["des", "score"] == 0.0
    found = evaluate_predictions(cells, reference, "vcc2026", baseline="mean", replicate=True)
    # No effect has no direction: discrimination exactly halfway, no call, no error smaller than the effect itself.
    np.testing.assert_array_equal(found.per_perturbation["pds_cosine"], 0.5)
    np.testing.assert_array_equal(found.aggregate["mean"].drop("expr_mse_unbiased_capped_norm"), [0.5, 0, 0, 0, 1])
    assert found.aggregate.loc["expr_mse_unbiased_capped_norm", "mean"] >= 1.0
    assert found.scores.loc["expr_mse_unbiased_capped_norm", "score"] == 0.0
    assert found.scores.loc["overall", "score"] < 0.1


def test_mean_baseline_scores_nothing(reference):
    logs = log_normalised(REAL.astype(np.float64))
    mean = np.mean(list(pseudobulks(logs, LABELS).values()), axis=0)
    matrix = np.where((LABELS == CONTROL)[:, None], logs, mean)
    found = evaluate_predictions(as_cells(matrix, LABELS), as_cells(logs, LABELS), "vcc2025", baseline="mean")
    np.testing.assert_allclose(found.scores["score"], 0.0, atol=1e-9)


def test_mean_baseline_of_2026_scores_nothing(reference, monkeypatch):
    made = resampled_screen(
        read_screens(
            open_cells(reference).matrix("X"), perturbation_key="perturbation", control=CONTROL, cell_type_key=None
        )[""],
        seed=0,
        target_genes=None,
        shift=True,
    )
    rows = stack([block.matrix for block in made.blocks])
    labels = np.array([*made.perturbations, CONTROL])[np.concatenate([block.codes for block in made.blocks])]
    cells = as_cells(sp.csr_matrix((rows.data, rows.indices, rows.indptr), shape=rows.shape), labels.astype(str))
    # Scaled control cells are no whole counts: nobody could hand them in.
    with pytest.raises(ValueError, match="counts"):
        evaluate_predictions(cells, reference, "vcc2026")
    monkeypatch.setattr("state_hf.pipelines.evaluate.check_inputs", lambda *_, **__: None)
    monkeypatch.setattr("state_hf.data.screens.scored_screens.check_counts", lambda *_: None)
    found = evaluate_predictions(cells, reference, "vcc2026", baseline="mean", replicate=True)
    np.testing.assert_allclose(found.scores["score"], 0.0, atol=1e-6)


@pytest.mark.parametrize("factor", [3.0, 10.0])
def test_bent_controls(prediction, reference, factor):
    bent = prediction.copy()
    is_control = (bent.obs["perturbation"] == CONTROL).to_numpy()
    rows = bent.X.toarray()
    rows[is_control, :40] *= factor
    bent.X = sp.csr_matrix(rows)
    honest = evaluate_predictions(prediction, reference, "vcc2026", baseline="mean", replicate=True)
    found = evaluate_predictions(bent, reference, "vcc2026", baseline="mean", replicate=True)
    # 2026 never looks at predicted controls; 2025 does, and its settings say so.
    np.testing.assert_array_equal(found.per_perturbation, honest.per_perturbation)
    np.testing.assert_array_equal(found.scores["score"], honest.scores["score"])
    assert found.settings["control_source"] == "reference"
    honest = evaluate_predictions(prediction, reference, "vcc2025")
    found = evaluate_predictions(bent, reference, "vcc2025")
    assert found.settings["control_source"] == "own"
    assert not np.allclose(found.per_perturbation["des"], honest.per_perturbation["des"])
    assert found.summary["median_effect_size_ratio"] > 1.3 * honest.summary["median_effect_size_ratio"]


def test_shuffled_labels(reference):
    rotated = dict(zip(PERTURBATIONS, [*PERTURBATIONS[1:], PERTURBATIONS[0]], strict=True))
    cells = as_cells(sp.csr_matrix(REAL), np.array([rotated.get(label, label) for label in LABELS]))
    truth = evaluate_predictions(reference, reference, "vcc2026")
    found = evaluate_predictions(cells, reference, "vcc2026", baseline="mean", replicate=True)
    # Every prediction is another perturbation's truth, which is the nearest: nobody can be right.
    assert (found.per_perturbation["pds_cosine"] < 1.0).all()
    assert found.aggregate.loc["pds_cosine", "mean"] < 0.7
    for metric in ("de_wilcoxon_sig_jaccard", "de_wilcoxon_direction_fidelity_yield_raw"):
        assert found.aggregate.loc[metric, "mean"] < 0.75 * truth.aggregate.loc[metric, "mean"]
    assert found.scores.loc["expr_mse_unbiased_capped_norm", "score"] == 0.0
    assert (evaluate_predictions(cells, reference, "vcc2025").per_perturbation["pds"] < 1.0).all()


def test_constant_profile(reference):
    cells = copies(REAL[PERTURBATIONS[0] == LABELS])
    found = evaluate_predictions(cells, reference, "vcc2026")
    assert found.aggregate.loc["pds_cosine", "mean"] == pytest.approx(0.5)
    assert found.summary["share_nearly_identical_predictions"] == 1.0
    found = evaluate_predictions(cells, reference, "vcc2025")
    n = len(PERTURBATIONS)
    # Ranks 0 to n - 1 once each, but for the genes that each leaves out.
    assert found.aggregate.loc["pds", "mean"] == pytest.approx((n + 1) / (2 * n), abs=0.15)
    honest = evaluate_predictions(reference, reference, "vcc2026")
    assert honest.summary["share_nearly_identical_predictions"] == 0.0


def test_missing_genes(prediction, reference):
    with pytest.raises(ValueError, match=r"(?s)missing.*g79"):
        evaluate_predictions(prediction[:, :-1].copy(), reference, "vcc2025")


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0])
def test_scaled_predictions(scale):
    logs = log_normalised(REAL.astype(np.float64))
    bulks = pseudobulks(logs, LABELS)
    control = bulks[CONTROL]
    pair = one_cell_each([control + scale * (bulks[label] - control) for label in PERTURBATIONS])
    found = evaluate_predictions(*pair, "full", on_error="nan")
    # The direction is right and the size is not: cosine and correlation cannot see it, the errors and diagnostics do.
    effect = np.abs(found.effects_reference).mean(axis=1)
    np.testing.assert_allclose(found.per_perturbation["mae_delta"], (1 - scale) * effect, atol=1e-9)
    np.testing.assert_allclose(found.per_perturbation["discrimination_score_cosine"], 1.0)
    np.testing.assert_allclose(found.per_perturbation["pearson_delta"], 1.0)
    np.testing.assert_allclose(found.diagnostics["effect_size_ratio"], scale)
    np.testing.assert_allclose(found.diagnostics["variance_ratio"], 0.0, atol=1e-9)
