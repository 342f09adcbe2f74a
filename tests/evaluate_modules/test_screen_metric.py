from pathlib import Path

import anndata
import evaluate
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import state_hf
from state_hf.evaluate_modules.modules import metric_names
from state_hf.metrics.profiles import load_profile

GENES = ["A", "B", "C", "D"]
LABELS = ["non-targeting", "non-targeting", "A", "A", "B", "B"]


def cells(seed, labels=LABELS):
    x = np.random.default_rng(seed).poisson(3, size=(len(labels), len(GENES))).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"{seed}-{i}" for i in range(len(labels))])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture
def received(monkeypatch):
    """What the engine is called with; it returns one value for each metric of the profile."""
    calls = []

    class Result:
        def __init__(self, profile):
            self.values = {metric.name: 0.5 for metric in profile.metrics}

        def to_dict(self):
            return self.values

    def engine(prediction, reference, profile, **settings):
        # Read while it is there: the file of added cells is gone after the call.
        prediction, reference = (
            anndata.read_h5ad(side) if isinstance(side, Path) else side for side in (prediction, reference)
        )
        calls.append({"prediction": prediction, "reference": reference, "profile": profile, **settings})
        return Result(profile)

    monkeypatch.setattr("state_hf.evaluate_modules.screen_metric.evaluate_predictions", engine)
    return calls


def load(name="virtual_cell_challenge", *arguments, **options):
    return evaluate.load(state_hf.metric_path(name), *arguments, **options)


def test_paths():
    assert metric_names() == [
        "differential_expression",
        "expression_error",
        "perturbation_discrimination",
        "virtual_cell_challenge",
    ]
    with pytest.raises(ValueError, match="no metric module 'accuracy'; the modules are differential_expression,"):
        state_hf.metric_path("accuracy")


@pytest.mark.parametrize("name", metric_names())
def test_every_folder_is_ready_for_a_space(name):
    folder = Path(state_hf.metric_path(name))
    assert {"README.md", "app.py", "requirements.txt", f"{name}.py"} <= {path.name for path in folder.iterdir()}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\ntitle: ")
    for section in ("Description", "How to use", "Inputs", "Output values", "Limitations", "Citation"):
        assert f"\n## {section}\n" in card
    for line in (folder / f"{name}.py").read_text().splitlines():
        assert not (line.startswith("import ") and "," in line)  # evaluate's reader takes "a," for a package


@pytest.mark.parametrize("name", metric_names())
def test_modules_load_and_describe_themselves(name):
    module = load(name)
    assert module.name == name
    assert module.description
    assert module.citation
    assert "cells x genes matrix" in module.inputs_description


def test_anndata_is_handed_over_as_it_is(received):
    prediction, reference = cells(0), cells(1)
    values = load().compute(predictions=prediction, references=reference, baseline="mean", seed=3)
    assert values == {"mae": 0.5, "pds": 0.5, "des": 0.5}
    (call,) = received
    assert call["prediction"] is prediction
    assert call["reference"] is reference
    assert (call["baseline"], call["seed"], call["perturbation_key"]) == ("mean", 3, None)
    assert call["profile"] is load_profile("vcc2025")


def test_paths_are_handed_over_as_they_are(received):
    load(perturbation_key="perturbation").compute(predictions="a.h5ad", references="b.h5ad", control="ctrl")
    (call,) = received
    assert (call["prediction"], call["reference"]) == ("a.h5ad", "b.h5ad")
    assert (call["perturbation_key"], call["control"]) == ("perturbation", "ctrl")


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, lambda x: x.tolist()])
def test_matrices_come_with_labels(received, layout):
    labels = {"prediction_labels": LABELS, "reference_labels": LABELS, "genes": GENES}
    load().compute(predictions=layout(cells(0).X), references=layout(cells(1).X), **labels)
    (call,) = received
    assert list(call["prediction"].obs["perturbation"]) == LABELS
    assert list(call["reference"].var_names) == GENES
    x = call["reference"].X
    np.testing.assert_array_equal(x.toarray() if sparse.issparse(x) else x, cells(1).X)


def test_profile_is_the_configuration(received):
    load("virtual_cell_challenge", "vcc2026").compute(predictions=cells(0), references=cells(1))
    load("virtual_cell_challenge", "vcc2026").compute(predictions=cells(0), references=cells(1), profile="full")
    assert [call["profile"].name for call in received] == ["vcc2026", "full"]


def test_single_families_report_their_metrics_alone(received):
    for name, metrics in {
        "perturbation_discrimination": ["pds"],
        "expression_error": ["mae"],
        "differential_expression": ["des"],
    }.items():
        assert list(load(name).compute(predictions=cells(0), references=cells(1))) == metrics
    digests = {call["profile"].digest for call in received}
    assert len(digests | {load_profile("vcc2025").digest}) == 4
    assert received[0]["profile"].name == "vcc2025 (perturbation discrimination)"


def test_every_metric_of_the_challenge_has_its_family():
    families = [load(name).functions for name in metric_names() if name != "virtual_cell_challenge"]
    alone = {"clustering_agreement", "energy_distance_correlation"}
    for profile in ("vcc2025", "vcc2025-primer", "vcc2026", "full"):
        for metric in load_profile(profile).metrics:
            assert sum(metric.function in family for family in families) == (metric.function not in alone)


def test_batches_are_gathered(received):
    prediction, reference = cells(0), cells(1)
    module = load()
    for rows in (slice(0, 3), slice(3, 6)):
        module.add_batch(predictions=prediction[rows], references=reference[rows])
    assert len(module) == 12
    module.compute()
    assert len(module) == 0
    np.testing.assert_array_equal(received[0]["prediction"].X, prediction.X)
    np.testing.assert_array_equal(received[0]["reference"].X, reference.X)
    assert list(received[0]["prediction"].obs["perturbation"]) == LABELS


def test_single_cells_and_arrays_are_batches_too(received):
    module = load()
    x = cells(0).X
    for row, label in zip(x, LABELS, strict=True):
        module.add(prediction=row[None], prediction_labels=[label], genes=GENES)
    module.compute(references=cells(1))
    np.testing.assert_array_equal(received[0]["prediction"].X, x)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"predictions": "a.h5ad"}, "there are no references"),
        ({}, "there are no predictions"),
        ({"predictions": np.ones((2, 4)), "references": "b.h5ad"}, "needs its labels"),
        (
            {"predictions": np.ones((2, 4)), "references": "b.h5ad", "prediction_labels": ["A"], "genes": GENES},
            r"shape \(2, 4\) does not fit 1 labels \(cells\) and 4 genes",
        ),
    ],
)
def test_missing_inputs_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        load().compute(**given)


def test_cells_are_not_given_twice():
    module = load()
    module.add_batch(predictions=cells(0))
    with pytest.raises(ValueError, match="add_batch already got predictions"):
        module.compute(predictions=cells(0), references=cells(1))
    with pytest.raises(ValueError, match="give perturbation_key and cell_type_key to"):
        module.compute(references=cells(1), cell_type_key="cell_type")


def test_profiles_without_the_family_are_named(monkeypatch):
    monkeypatch.setattr("state_hf.evaluate_modules.screen_metric.load_profile", lambda name: _without_metrics(name))
    with pytest.raises(ValueError, match="profile 'vcc2025' has no metric of the module 'expression_error'"):
        load("expression_error").compute(predictions="a", references="b")


def _without_metrics(name):
    from dataclasses import replace

    return replace(load_profile(name), metrics=())


def test_modules_combine(received):
    combined = evaluate.combine([load("perturbation_discrimination"), load("expression_error")])
    assert combined.compute(predictions=cells(0), references=cells(1), baseline="mean") == {"pds": 0.5, "mae": 0.5}
    combined.add_batch(predictions=cells(0))
    combined.add_batch(references=cells(1))
    assert combined.compute() == {"pds": 0.5, "mae": 0.5}


def test_values_are_saved(received, tmp_path):
    values = load().compute(predictions=cells(0), references=cells(1))
    path = evaluate.save(tmp_path / "scores.json", **values)
    assert '"mae": 0.5' in path.read_text()


def test_one_process():
    with pytest.raises(ValueError, match="num_process=1"):
        load(num_process=2, process_id=0, experiment_id="x")


def strong_cells(seed):
    """Two knock-downs that the engine can tell from control."""
    adata = cells(seed, np.repeat(["non-targeting", "A", "B"], 20))
    adata.X = np.random.default_rng(seed).poisson(20, size=adata.shape).astype(np.float32)
    for gene, label in enumerate(["A", "B"]):
        rows = np.flatnonzero(adata.obs["perturbation"] == label)
        adata.X[rows, gene] //= 8
        adata.X[rows, gene + 2] *= 3
    return adata


def test_blocks_wholes_and_families_score_alike():
    prediction, reference = strong_cells(0), strong_cells(1)
    whole = load().compute(predictions=prediction, references=reference, baseline="mean")
    assert whole["pds"] == 1
    module = load()
    for start in range(0, prediction.n_obs, 7):
        module.add_batch(predictions=prediction[start : start + 7])
    assert module.compute(references=reference, baseline="mean") == pytest.approx(whole, rel=1e-12)
    assert list(module.result.per_perturbation.index) == ["A", "B"]
    families = evaluate.combine([load(name) for name in metric_names() if name != "virtual_cell_challenge"])
    assert families.compute(predictions=prediction, references=reference) == pytest.approx(
        {name: whole[name] for name in ("mae", "pds", "des")}, rel=1e-12
    )
