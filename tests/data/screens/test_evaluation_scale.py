"""The same cells at two totals are not scored against each other without a word."""

import anndata
import numpy as np
import pytest
from scipy import sparse

from state_hf import evaluate_predictions, generate_screen, write_evaluation_report
from state_hf.cli import main
from state_hf.data.screens.evaluation_scale import SideTotal, total_notes
from state_hf.pipelines.preprocess import preprocess


@pytest.fixture(scope="module")
def counts():
    """A screen; other cells come of other seeds."""
    return generate_screen(num_cell_types=1, num_perturbations=4, num_genes=60, cells_per_perturbation=20, controls=60)


def log1p_of(adata, total, *, genes=None, recorded=None) -> anndata.AnnData:
    sums = np.asarray(adata.X.sum(axis=1)).ravel()
    result = adata.copy()
    result.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / sums[:, None] * total).astype(np.float32))
    if recorded is not None:
        result.uns["preprocess"] = {"scale": "log1p", "target_sum": float(recorded)}
    return result if genes is None else result[:, :genes].copy()


def notes(prediction, reference, **options) -> list[str]:
    return evaluate_predictions(prediction, reference, **options).settings["notes"]


def test_a_side_of_two_scales_is_refused(counts, tmp_path):
    """As where predicted cells are log1p values, and the control cells beside them counts."""
    mixed = log1p_of(counts, 2000)
    is_control = (mixed.obs["perturbation"] == "non-targeting").to_numpy()
    values = np.minimum(counts.X.toarray(), 12)
    mixed.X = sparse.csr_matrix(np.where(is_control[:, None], values, mixed.X.toarray()))
    right = log1p_of(counts, 2000)
    with pytest.raises(ValueError, match=r"the prediction, holds neither counts nor log1p.* two scales in one matrix"):
        evaluate_predictions(mixed, right)
    with pytest.raises(ValueError, match=r"the reference, holds neither counts nor log1p"):
        evaluate_predictions(right, mixed)


def test_values_of_another_scale_are_refused_with_what_takes_them(counts):
    right = log1p_of(counts, 2000)
    with pytest.raises(ValueError, match=r"must hold raw counts, .* \(it looks log-normalised\).*profile="):
        evaluate_predictions(right, right, profile="vcc2026")
    scaled = right.copy()
    scaled.X = scaled.X.toarray() - 1
    with pytest.raises(ValueError, match=r"the prediction has [\d,]+ negative values"):
        evaluate_predictions(scaled, right)
    unlogged = right.copy()
    unlogged.X = np.expm1(unlogged.X.toarray())
    with pytest.raises(ValueError, match=r"neither counts nor log-normalised.*state-hf preprocess"):
        evaluate_predictions(unlogged, right)


@pytest.mark.parametrize("on_disk", [True, False])
def test_totals_that_show_and_differ_are_refused(counts, tmp_path, on_disk):
    sides = [log1p_of(counts, total) for total in (100_000, 1998)]
    if on_disk:
        for name, side in zip(("p", "r"), sides, strict=True):
            side.write_h5ad(tmp_path / f"{name}.h5ad")
        sides = [tmp_path / "p.h5ad", tmp_path / "r.h5ad"]
    message = r"prediction is normalised to 100,000 .* the reference is normalised to 1,998 .* --target-sum 1998`\)"
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(*sides)
    with pytest.raises(ValueError, match=r"baseline is normalised to 100,000"):
        evaluate_predictions(sides[1], sides[1], baseline=sides[0])


def test_totals_that_are_recorded_and_differ_are_refused(counts):
    sides = [log1p_of(counts, total, genes=30, recorded=total) for total in (8079, 1998)]
    with pytest.raises(ValueError, match=r"normalised to 8,079 .* 1,998"):
        evaluate_predictions(*sides)
    sides[0].uns["prediction"] = {**sides[0].uns.pop("preprocess"), "scale": "log1p"}
    with pytest.raises(ValueError, match=r"normalised to 8,079 .* 1,998"):
        evaluate_predictions(*sides)


def test_totals_that_are_close_are_noted(counts):
    """As of two files that were normalised to their own medians."""
    assert notes(log1p_of(counts, 2010), log1p_of(counts, 2000)) == []
    (note,) = notes(log1p_of(counts, 2060), log1p_of(counts, 2000))
    assert "2,060" in note
    assert note.endswith("which alone moves log1p values by up to 0.03")
    with pytest.raises(ValueError, match=r"2,220 .* 2,000"):
        notes(log1p_of(counts, 2220), log1p_of(counts, 2000))


def test_totals_that_are_not_known_are_noted(counts, tmp_path, capsys):
    sides = [log1p_of(counts, total, genes=30) for total in (8000, 2000)]
    result = evaluate_predictions(*sides)
    (note,) = result.settings["notes"]
    assert note.startswith("note: a control cell of the prediction adds up to ")
    assert "the two sides are not on one scale" in note
    assert result.summary["control_total_ratio"] == pytest.approx(4, rel=1e-3)
    write_evaluation_report(result, tmp_path / "report.html")
    assert "a control cell of the prediction adds up to" in (tmp_path / "report.html").read_text()
    for name, side in zip(("p", "r"), sides, strict=True):
        side.write_h5ad(tmp_path / f"{name}.h5ad")
    assert main(["evaluate", str(tmp_path / "p.h5ad"), str(tmp_path / "r.h5ad")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the two sides are not on one scale") == 1
    assert "control_total_ratio" in printed


def test_sides_on_one_scale_are_scored_without_a_word(counts):
    for genes in (None, 30):
        sides = [log1p_of(counts, 2000, genes=genes, recorded=recorded) for recorded in (None, 2000)]
        result = evaluate_predictions(*sides)
        assert result.settings["notes"] == []
        assert result.summary["control_total_ratio"] == pytest.approx(1)
    assert notes(counts, counts) == []
    own = float(np.median(np.asarray(counts.X.sum(axis=1))))
    assert notes(counts, log1p_of(counts, own)) == []


def test_counts_are_on_the_scale_that_the_profile_makes_of_them(counts):
    deep = counts.copy()
    deep.X = deep.X * 4
    (note,) = notes(deep, counts)
    assert "the prediction's counts are normalised to their median" in note
    with pytest.raises(ValueError, match=r"prediction holds counts, .* median, .* reference is normalised to 100,000"):
        evaluate_predictions(counts, log1p_of(counts, 100_000))
    # A profile of counts makes one total of both.
    assert notes(deep, counts, profile="vcc2026") == []
    assert "control_total_ratio" not in evaluate_predictions(deep, counts, profile="vcc2026").summary


def test_controls_are_looked_at_wherever_they_are(counts):
    """Few controls among many cells, at the end of one side."""
    order = np.argsort((counts.obs["perturbation"] == "non-targeting").to_numpy(), kind="stable")
    sides = log1p_of(counts[order].copy(), 8000), log1p_of(counts, 2000)
    with pytest.raises(ValueError, match=r"8,000 .* 2,000"):
        evaluate_predictions(*sides)


def test_what_preprocess_makes_of_one_screen_twice(counts, tmp_path):
    counts.write_h5ad(tmp_path / "counts.h5ad")
    for name, total in (("a", 1e5), ("b", "median"), ("c", 1e5)):
        preprocess(tmp_path / "counts.h5ad", output=tmp_path / f"{name}.h5ad", target_sum=total)
    with pytest.raises(ValueError, match=r"normalised to 100,000 .*--target-sum"):
        evaluate_predictions(tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    assert notes(tmp_path / "a.h5ad", tmp_path / "c.h5ad") == []


def test_a_side_without_controls_says_nothing():
    nothing = SideTotal("prediction", None, float("nan"), is_counts=False)
    assert total_notes(nothing, SideTotal("reference", 1e4, 1e4, is_counts=False)) == []
