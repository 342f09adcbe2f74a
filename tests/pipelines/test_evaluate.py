import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_hf import evaluate_predictions
from state_hf.metrics.catalogue import METRICS
from state_hf.metrics.evaluation import MetricError
from state_hf.reporting.evaluation_text import audit_findings
from tests.pipelines.screen_cells import CONTROL, as_cells, counts, log_normalised


@pytest.fixture(scope="module")
def pair():
    return as_cells(sp.csr_matrix(counts("prediction")[0]), counts("prediction")[1]), as_cells(
        sp.csr_matrix(counts("reference")[0]), counts("reference")[1]
    )


def values(result):
    return pd.Series(result.to_dict())


@pytest.mark.parametrize("profile", ["vcc2025", "vcc2025-primer", "vcc2026"])
def test_forms_of_the_same_cells(pair, profile, tmp_path):
    expected = values(evaluate_predictions(*pair, profile, baseline="mean"))
    dense = [as_cells(cells.X.toarray(), cells.obs["perturbation"].to_numpy()) for cells in pair]
    pd.testing.assert_series_equal(values(evaluate_predictions(*dense, profile, baseline="mean")), expected)
    for layout, change in {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda m: m.toarray()}.items():
        paths = []
        for name, cells in zip(("prediction", "reference"), pair, strict=True):
            paths.append(tmp_path / f"{layout}-{name}.h5ad")
            as_cells(change(cells.X), cells.obs["perturbation"].to_numpy()).write_h5ad(paths[-1])
        from_files = evaluate_predictions(*paths, profile, baseline="mean")
        pd.testing.assert_series_equal(values(from_files), expected, obj=layout)
    result = from_files
    assert result.settings["profile"] == profile
    assert result.settings["digest"] == result.profile.digest
    assert result.settings["discrimination"]["ties"]


def test_files_are_read_in_blocks(pair, tmp_path, monkeypatch):
    expected = values(evaluate_predictions(*pair, "vcc2026"))
    monkeypatch.setattr("state_hf.data.screens.screen_reading._BLOCK_CELLS", 37)
    for name, cells in zip(("prediction", "reference"), pair, strict=True):
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    found = evaluate_predictions(tmp_path / "prediction.h5ad", tmp_path / "reference.h5ad", "vcc2026")
    pd.testing.assert_series_equal(values(found), expected)


def test_order_of_cells_and_labels_types(pair):
    expected = values(evaluate_predictions(*pair, "vcc2025"))
    rng = np.random.default_rng(0)
    shuffled = pair[0][rng.permutation(pair[0].n_obs)].copy()
    shuffled.obs["perturbation"] = shuffled.obs["perturbation"].astype("category")
    pd.testing.assert_series_equal(values(evaluate_predictions(shuffled, pair[1], "vcc2025")), expected)


def test_labels_may_be_numbers(pair):
    numbered = []
    for cells in pair:
        names, numbers = np.unique(cells.obs["perturbation"].to_numpy(), return_inverse=True)
        numbered.append(as_cells(cells.X, numbers))
    control = list(names).index(CONTROL)
    found = evaluate_predictions(*numbered, "vcc2025-primer", control=str(control))
    assert list(found.per_perturbation.index) == [
        str(n) for n in range(len(found.per_perturbation) + 1) if n != control
    ]


def test_contexts_are_evaluated_apart(pair):
    names = np.array(["T cell", "B/cell"])
    split = [as_cells(cells.X, cells.obs["perturbation"], line=names[np.arange(cells.n_obs) % 2]) for cells in pair]
    found = evaluate_predictions(*split, "vcc2025", cell_type_key="line", baseline="mean")
    assert list(found.contexts) == ["B/cell", "T cell"]
    for name, result in found.contexts.items():
        alone = [cells[cells.obs["line"] == name].copy() for cells in split]
        expected = evaluate_predictions(*alone, "vcc2025", baseline="mean")
        pd.testing.assert_frame_equal(result.per_perturbation, expected.per_perturbation)
        pd.testing.assert_frame_equal(found.per_perturbation.loc[name], expected.per_perturbation)
    means = [result.aggregate["mean"] for result in found.contexts.values()]
    pd.testing.assert_series_equal(found.aggregate["mean"], sum(means) / 2)
    scores = [result.scores.loc["overall", "score"] for result in found.contexts.values()]
    assert found.to_dict()["overall_score"] == pytest.approx(np.mean(scores))


def test_target_genes_of_guides(pair):
    expected = values(evaluate_predictions(*pair, "vcc2026"))
    guides = []
    for cells in pair:
        labels = cells.obs["perturbation"].map(lambda label: label if label == CONTROL else f"{label}-guide1")
        guides.append(as_cells(cells.X, labels))
    with pytest.raises(ValueError, match="no perturbation's label is a gene name; give the gene of each label"):
        evaluate_predictions(*guides, "vcc2026")
    named = {f"g{gene}-guide1": f"g{gene}" for gene in range(6)}
    found = evaluate_predictions(*guides, "vcc2026", target_genes={**named, "foreign-guide1": None})
    pd.testing.assert_series_equal(values(found), expected)


def test_second_evaluation_takes_the_real_side_from_the_cache(pair, tmp_path, monkeypatch):
    for profile in ("vcc2025", "vcc2026"):
        options = {"baseline": "mean", "replicate": True, "cache_dir": tmp_path / profile}
        for reference in pair[1], tmp_path / "reference.h5ad":
            pair[1].write_h5ad(tmp_path / "reference.h5ad")
            first = evaluate_predictions(pair[0], reference, profile, **options)
            with monkeypatch.context() as patched:
                patched.setattr("state_hf.data.screens.scored_screens.RealSide.screen", property(lambda self: 1 / 0))
                second = evaluate_predictions(pair[0], reference, profile, **options)
            pd.testing.assert_frame_equal(first.scores, second.scores)
            pd.testing.assert_frame_equal(first.per_perturbation, second.per_perturbation)
            pd.testing.assert_frame_equal(first.de_prediction, second.de_prediction)
            pd.testing.assert_frame_equal(first.de_reference, second.de_reference)


@pytest.mark.parametrize("change", ["value", "label", "seed", "profile"])
def test_the_cache_knows_its_content(pair, tmp_path, change):
    options = {"baseline": "control", "cache_dir": tmp_path}
    evaluate_predictions(*pair, "vcc2025", **options)
    files = set(tmp_path.rglob("*.*"))
    reference, profile = pair[1].copy(), "vcc2025"
    if change == "value":
        reference.X.data[0] += 1
    elif change == "label":
        reference.obs["perturbation"] = reference.obs["perturbation"].to_numpy()[::-1]
    elif change == "seed":
        options["seed"] = 1
    else:
        profile = "vcc2025-primer"
    evaluate_predictions(pair[0], reference, profile, **options)
    assert set(tmp_path.rglob("*.*")) > files


def test_a_damaged_cache_is_computed_anew(pair, tmp_path, caplog):
    expected = values(evaluate_predictions(*pair, "vcc2026", cache_dir=tmp_path))
    (stored,) = tmp_path.rglob("summary.npz")
    stored.write_bytes(stored.read_bytes()[:1000])
    pd.testing.assert_series_equal(values(evaluate_predictions(*pair, "vcc2026", cache_dir=tmp_path)), expected)
    assert not list(tmp_path.rglob("*.writing"))


def test_two_processes_may_fill_one_cache(pair, tmp_path):
    for name, cells in zip(("prediction", "reference"), pair, strict=True):
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    script = (
        "import json, sys; from state_hf import evaluate_predictions; "
        "print(json.dumps(evaluate_predictions(*sys.argv[1:3], 'vcc2025', baseline='mean', cache_dir=sys.argv[3])"
        ".to_dict()))"
    )
    arguments = [str(tmp_path / "prediction.h5ad"), str(tmp_path / "reference.h5ad"), str(tmp_path / "cache")]
    started = [
        subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = [json.loads(process.communicate()[0]) for process in started]
    assert found[0] == found[1]


def test_a_failing_metric_is_named(pair, monkeypatch):
    def fails(comparison, **parameters):
        raise MetricError("mae", comparison.perturbations[1], "the sky is falling")

    failing = {**METRICS, "mean_absolute_error": fails}
    monkeypatch.setattr("state_hf.metrics.evaluation.METRICS", failing)
    with pytest.raises(MetricError, match="metric 'mae' failed for perturbation 'g0': the sky is falling"):
        evaluate_predictions(*pair, "vcc2025")
    found = evaluate_predictions(*pair, "vcc2025", on_error="nan", baseline="control")
    assert found.problems == {"mae": {"g0": "the sky is falling"}}
    assert np.isnan(found.aggregate.loc["mae", "mean"])
    assert found.aggregate.loc["pds", "mean"] > 0.5
    assert found.scores.loc["mae", "score"] == 0.0


def test_undefined_values_carry_their_reason(pair):
    matrix, labels = counts("reference")
    matrix, labels = matrix[labels != "g1"], labels[labels != "g1"]
    labels[np.flatnonzero(labels == CONTROL)[:30]] = "g1"  # cells of the control: no real gene changes
    weak = as_cells(sp.csr_matrix(matrix), labels)
    found = evaluate_predictions(pair[0], weak, "vcc2026")
    assert found.problems["de_wilcoxon_direction_reach_raw"] == {"g1": "the reference has no significant gene"}
    assert found.aggregate.loc["de_wilcoxon_direction_reach_raw", "count"] == len(found.per_perturbation) - 1


def test_saved_files_can_be_read(pair, tmp_path):
    found = evaluate_predictions(*pair, "vcc2026", baseline="mean", replicate=True)
    written = found.save(tmp_path)
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    read = pd.read_csv(tmp_path / "scores.csv", index_col=0)
    pd.testing.assert_frame_equal(read, found.scores)
    table = pd.read_parquet(tmp_path / "de_prediction.parquet")
    pd.testing.assert_frame_equal(table, found.de_prediction)
    assert json.loads((tmp_path / "evaluation.json").read_text())["settings"]["profile"] == "vcc2026"


def test_a_device_changes_nothing(pair):
    for profile in ("vcc2025", "vcc2026"):
        on_cpu = values(evaluate_predictions(*pair, profile))
        pd.testing.assert_series_equal(values(evaluate_predictions(*pair, profile, device="cpu")), on_cpu)


def test_a_baseline_may_be_given(pair):
    found = evaluate_predictions(*pair, "vcc2025", baseline=pair[0])
    np.testing.assert_allclose(found.scores["score"], 0.0, atol=1e-12)
    assert found.settings["baseline"] == "given cells"


def test_log_normalised_input(pair):
    logs = [
        as_cells(sp.csr_matrix(log_normalised(cells.X.toarray().astype(np.float64))), cells.obs["perturbation"])
        for cells in pair
    ]
    found, expected = evaluate_predictions(*logs, "vcc2025"), evaluate_predictions(*pair, "vcc2025")
    np.testing.assert_allclose(values(found), values(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="raw counts"):
        evaluate_predictions(*logs, "vcc2026")


@pytest.mark.parametrize("form", ["counts", "log1p"])
def test_an_audit_is_the_scoring_of_versions(pair, form):
    if form == "log1p":
        pair = [as_cells(sp.csr_matrix(log_normalised(cells.X.toarray())), cells.obs["perturbation"]) for cells in pair]
    audit = evaluate_predictions(*pair, "vcc2025", baseline="mean", audit=True).audit
    scored = evaluate_predictions(*pair, "vcc2025", baseline="mean").to_dict()
    assert list(audit.index) == ["mae", "pds", "des", "overall_score"]
    assert audit["prediction"].to_dict() == {name: scored[name] for name in audit.index}
    copy = evaluate_predictions(*pair, "vcc2025", baseline="control").scores["baseline"]
    assert audit["control_copy"].drop("overall_score").to_dict() == copy.drop("overall").to_dict()
    if form == "log1p":
        # By hand: what is scored as another depth is this prediction.
        deeper = pair[0].copy()
        perturbed = (deeper.obs["perturbation"] != CONTROL).to_numpy()
        values = deeper.X.toarray()
        values[perturbed] = np.log1p(1.5 * np.expm1(values[perturbed]))
        deeper.X = sp.csr_matrix(values)
        by_hand = evaluate_predictions(deeper, pair[1], "vcc2025", baseline="mean").to_dict()
        np.testing.assert_allclose(audit["depth_shifted"], [by_hand[name] for name in audit.index], rtol=1e-5)


def test_the_audit_of_contexts_is_their_mean(pair):
    names = np.array(["T cell", "B cell"])
    split = [as_cells(cells.X, cells.obs["perturbation"], line=names[np.arange(cells.n_obs) % 2]) for cells in pair]
    found = evaluate_predictions(*split, "vcc2025", cell_type_key="line", audit=True)
    columns = ["prediction", "control_copy", "inflated_variance", "depth_shifted"]
    parts = [result.audit[columns] for result in found.contexts.values()]
    pd.testing.assert_frame_equal(found.audit[columns], (parts[0] + parts[1]) / 2)
    assert found.audit["prediction"].to_dict() == {name: found.to_dict()[name] for name in ("mae", "pds", "des")}


def test_what_an_audit_says(pair):
    result = evaluate_predictions(*pair, "vcc2025")
    assert audit_findings(result) == []
    table = pd.DataFrame(
        {
            "prediction": [0.1, 0.5],
            "control_copy": [0.11, 0.49],
            "inflated_variance": [0.1, 0.7],
            "depth_shifted": [0.3, 0.6],
            "inflated_variance_moves_more": [False, True],
            "depth_shifted_moves_more": [True, True],
        },
        index=["mae", "des"],
    )
    means = "by more than the prediction differs from a copy of the control"
    assert audit_findings(replace(result, audit=table)) == [
        f"inflated variance (deviations from the mean x 1.5) makes better, {means}: des 0.5 -> 0.7 (control copy 0.49)",
        f"another depth (expression x 1.5) makes better, {means}: des 0.5 -> 0.6 (control copy 0.49)",
        f"another depth (expression x 1.5) makes worse, {means}: mae 0.1 -> 0.3 (control copy 0.11)",
    ]
    table[["inflated_variance_moves_more", "depth_shifted_moves_more"]] = False
    assert audit_findings(replace(result, audit=table)) == [
        "no score moves more by inflated variance (deviations from the mean x 1.5) or another depth (expression x 1.5) "
        "than by the prediction"
    ]


def test_depths_of_both_sides_are_among_the_diagnostics(pair, tmp_path):
    shallow = pair[0].copy()
    shallow.X = sp.csr_matrix(np.where(np.arange(shallow.n_vars) < 10, shallow.X.toarray(), 0.0))
    found = evaluate_predictions(shallow, pair[1], "vcc2025", cache_dir=tmp_path)
    labels = pair[1].obs["perturbation"].to_numpy()
    for side, cells in (("prediction", shallow), ("reference", pair[1])):
        detected = pd.Series((cells.X.toarray() > 0).sum(axis=1)).groupby(cells.obs["perturbation"].to_numpy()).median()
        assert found.diagnostics[f"genes_detected_{side}"].to_dict() == detected.drop(CONTROL).to_dict()
        assert found.settings[f"control_genes_detected_{side}"] == detected[CONTROL]
    ratios = found.diagnostics["genes_detected_prediction"] / found.diagnostics["genes_detected_reference"]
    assert found.summary["median_depth_ratio"] == ratios.median() < 1
    assert set(found.diagnostics.index) == set(labels) - {CONTROL}
    # The measured side's come from the cache.
    again = evaluate_predictions(shallow, pair[1], "vcc2025", cache_dir=tmp_path)
    pd.testing.assert_frame_equal(again.diagnostics, found.diagnostics)
