"""Equal counts stay ties in what this package writes: preprocessed screens, and predictions of every kind."""

import anndata
import numpy as np
import pytest
import torch

from state_hf import (
    PerturbationBaseline,
    PerturbationBaselineConfig,
    PerturbationVocabulary,
    differential_expression,
    evaluate_predictions,
    generate_screen,
    predict,
)
from state_hf.metrics.normalised_counts import counts_behind
from state_hf.pipelines.preprocess import preprocess
from tests.metrics.screens import build
from tests.metrics.test_ties import perturbed
from tests.tiny_models import state_transition_model

CONTROL = "non-targeting"
RANKS = ["p_value", "statistic", "fdr"]


def counted() -> anndata.AnnData:
    """A screen of shallow cells: most values are one of few counts."""
    return generate_screen(
        num_cell_types=1, num_perturbations=4, num_genes=120, cells_per_perturbation=60, controls=60, depth=400.0
    )


def normalised(screen: anndata.AnnData, folder, dtype: type, target: str | float = "median") -> anndata.AnnData:
    """What `preprocess` writes, in single precision; in double precision, the same computed anew."""
    screen.write_h5ad(folder / "counts.h5ad")
    report = preprocess(
        folder / "counts.h5ad", output=folder / "out.h5ad", num_variable_genes=20, target_sum=target, overwrite=True
    )
    written = anndata.read_h5ad(folder / "out.h5ad")
    if dtype == np.float64:
        counts = screen.X.toarray().astype(np.float64)
        written.X = np.log1p(counts / counts.sum(axis=1, keepdims=True) * report.target_sum)
    return written


def with_last_bits(cells: anndata.AnnData, seed: int, ulps: int = 4) -> anndata.AnnData:
    """The cells as another processor might have them."""
    values = cells.X if isinstance(cells.X, np.ndarray) else cells.X.toarray()
    return anndata.AnnData(perturbed(values, ulps, seed), obs=cells.obs, var=cells.var, uns=cells.uns)


def counts_of(cells: anndata.AnnData):
    values = cells.X if isinstance(cells.X, np.ndarray) else cells.X.toarray()
    return counts_behind(build(values, cells.obs["perturbation"].astype(str), control=CONTROL))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", ["median", 1e4])
def test_a_preprocessed_screen_is_tested_as_its_counts(tmp_path, dtype, target):
    screen = counted()
    expected = differential_expression(screen)
    written = normalised(screen, tmp_path, dtype, target)
    for cells in (written, with_last_bits(written, 0), with_last_bits(written, 1)):
        found = differential_expression(cells)
        for column in RANKS:
            np.testing.assert_array_equal(found[column], expected[column])
    assert (expected["p_value"] < 0.01).sum() > 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_preprocessed_sides_score_as_their_counts(tmp_path, dtype):
    sides = counted()[::2].copy(), counted()[1::2].copy()
    expected = evaluate_predictions(*sides)
    written = [normalised(side, tmp_path, dtype) for side in sides]
    for seed in (None, 0):
        found = evaluate_predictions(*(side if seed is None else with_last_bits(side, seed) for side in written))
        np.testing.assert_allclose(found.aggregate["mean"], expected.aggregate["mean"], rtol=1e-5)


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    return normalised(counted(), tmp_path_factory.mktemp("controls"), np.float32, 1e4)


def predicted(controls: anndata.AnnData, kind: str, emit: str) -> anndata.AnnData:
    vocabulary = PerturbationVocabulary(
        sorted(controls.obs["perturbation"].astype(str).unique()), CONTROL,
        cell_types=sorted(controls.obs["cell_type"].astype(str).unique()), genes=list(controls.var_names),
    )  # fmt: skip
    torch.manual_seed(0)
    if kind == "control copy":
        sizes = {"input_dim": controls.n_vars, "num_perturbations": len(vocabulary.perturbations)}
        model = PerturbationBaseline(
            PerturbationBaselineConfig(method="control_copy", feature_key="X", cell_set_length=8, **sizes)
        )
        model.vocabulary = vocabulary
    else:
        model = state_transition_model(vocabulary, nonnegative_output=True)
    return predict(controls, model, "all", cells=60, emit=emit)


@pytest.mark.parametrize("emit", ["model", "tilted"])
def test_predicted_copies_of_controls_are_tested_as_counts(controls, emit):
    cells = predicted(controls, "control copy", emit)
    behind = counts_of(cells)
    assert [round(how.target) for how in behind] == [10_000]
    counts = np.rint(np.expm1(cells.X.toarray().astype(np.float64)) / behind[0].steps[:, None])
    expected = differential_expression(anndata.AnnData(counts, obs=cells.obs, var=cells.var))
    for seed in range(2):
        found = differential_expression(with_last_bits(cells, seed))
        for column in RANKS:
            np.testing.assert_array_equal(found[column], expected[column])
    # Every cell is a control's: so are its ties, and nothing is found.
    assert (expected["p_value"] > 0.01).all()


@pytest.mark.parametrize("emit", ["model", "tilted"])
def test_predicted_values_are_tested_as_they_are(controls, emit):
    """A pair of cells may change places where a tie ends, which moves U by a half; nothing else may."""
    cells = predicted(controls, "network", emit)
    assert counts_of(cells) is None
    expected = differential_expression(cells)
    deviation = np.sqrt(60 * 60 * 121 / 12)  # of U without ties, which make it smaller
    for seed in range(3):
        found = differential_expression(with_last_bits(cells, seed))
        moved = np.abs(found["statistic"] - expected["statistic"])
        assert (moved > 0).mean() < 0.01
        assert moved.max() <= 1.0
        unmoved = moved == 0
        np.testing.assert_array_equal(found["p_value"][unmoved], expected["p_value"][unmoved])
        np.testing.assert_allclose(found["p_value"], expected["p_value"], rtol=4 / deviation)
