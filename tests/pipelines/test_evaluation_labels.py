"""Scores do not depend on how a perturbation is spelt, or of which type labels are."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_hf import differential_expression, evaluate_predictions
from state_hf.cli import main
from state_hf.evaluate_modules.cell_collector import CellCollector
from tests.pipelines.screen_cells import CONTROL, as_cells, counts


@pytest.fixture(scope="module")
def pair():
    """A prediction and a reference of two cell types, with a combination."""
    cells = []
    for side in ("prediction", "reference"):
        matrix, labels = counts(side)
        labels = pd.Series(labels).replace(dict(zip(_names(labels)[:2], ["TNF+IFNG", "LONE"], strict=True)))
        types = np.array(["type_1", "type_2"])[np.arange(len(labels)) % 2]
        cells.append(as_cells(sp.csr_matrix(matrix), labels.to_numpy(), cell_type=types))
    return cells


def _names(labels):
    return [name for name in sorted(set(labels)) if name != CONTROL]


def relabelled(cells, change, control=CONTROL):
    labels = cells.obs["perturbation"].astype(str).replace({CONTROL: control})
    return as_cells(cells.X, np.array([change(label, row) for row, label in enumerate(labels)], dtype=object),
                    cell_type=cells.obs["cell_type"].to_numpy())  # fmt: skip


def values(result):
    return pd.Series(result.to_dict())


OPTIONS = {"profile": "vcc2025", "baseline": "mean"}


@pytest.mark.parametrize("cell_type_key", [None, "cell_type"])
def test_a_combination_is_scored_in_any_order(pair, cell_type_key, caplog):
    expected = evaluate_predictions(*pair, **OPTIONS, cell_type_key=cell_type_key)
    prediction = relabelled(pair[0], lambda label, row: "IFNG+TNF" if label == "TNF+IFNG" and row % 3 else label)
    found = evaluate_predictions(prediction, pair[1], **OPTIONS, cell_type_key=cell_type_key)
    pd.testing.assert_series_equal(values(found), values(expected))
    assert found.per_perturbation.index.equals(expected.per_perturbation.index)
    (note,) = [note for note in found.settings["notes"] if "one perturbation" in note]
    assert note.endswith("as 'TNF+IFNG'")
    assert note in caplog.text


@pytest.mark.parametrize("control", ["ctrl", CONTROL])
def test_labels_with_the_control_in_them(pair, control):
    expected = evaluate_predictions(*pair, **OPTIONS)

    def gears(label, row):
        return label if label == control or "+" in label else [f"{label}+{control}", f"{control}+{label}"][row % 2]

    sides = [relabelled(cells, gears, control) for cells in pair]
    found = evaluate_predictions(*sides, **OPTIONS, control=control)
    # Target genes are left out of differential expression: they are found, too.
    assert found.settings["n_target_genes_found"] == expected.settings["n_target_genes_found"] > 0
    pd.testing.assert_series_equal(values(found), values(expected))
    plain = relabelled(pair[0], lambda label, _: label, control)
    pd.testing.assert_series_equal(
        values(evaluate_predictions(plain, sides[1], **OPTIONS, control=control)), values(expected)
    )


@pytest.mark.parametrize("kind", [int, float, str, np.int16])
def test_labels_that_are_numbers(pair, kind):
    numbers = {name: number for number, name in enumerate([CONTROL, *_names(pair[1].obs["perturbation"].astype(str))])}
    sides = []
    for cells, change in zip(pair, (kind, int), strict=True):
        labels = cells.obs["perturbation"].astype(str).map(numbers).map(change)
        sides.append(as_cells(cells.X, labels.to_numpy(), cell_type=cells.obs["cell_type"].to_numpy()))
    genes = {number: name for name, number in numbers.items() if "+" not in name and name != "LONE"}
    expected = evaluate_predictions(*pair, **OPTIONS)
    for control in (0, 0.0, "0", np.int64(0)):
        found = evaluate_predictions(*sides, **OPTIONS, control=control, target_genes=genes)
        assert found.to_dict()["mae"] == pytest.approx(expected.to_dict()["mae"], rel=1e-6)
        assert len(found.per_perturbation) == len(expected.per_perturbation)
    table = differential_expression(sides[0], control=0)
    assert set(table["target"]) == {str(number) for number in numbers.values()} - {"0"}


def test_a_baseline_may_have_another_spelling(pair):
    expected = evaluate_predictions(*pair, "vcc2025", baseline=pair[0])
    other = relabelled(pair[0], lambda label, _: "IFNG+TNF" if label == "TNF+IFNG" else label)
    found = evaluate_predictions(*pair, "vcc2025", baseline=other)
    pd.testing.assert_series_equal(values(found), values(expected))


def test_texts_that_stand_for_no_label(pair):
    sides = [relabelled(cells, lambda label, _: "nan" if label == "LONE" else label) for cells in pair]
    with pytest.raises(
        ValueError, match=r"the reference has \d+ cells without a label in .*; texts that stand for .*'nan'"
    ):
        evaluate_predictions(*sides, **OPTIONS)
    with pytest.raises(ValueError, match="has no label for"):
        differential_expression(sides[0])


def test_differential_expression_takes_spellings_for_one(pair, caplog):
    expected = differential_expression(pair[1])
    mixed = relabelled(pair[1], lambda label, row: "IFNG+TNF" if label == "TNF+IFNG" and row % 4 == 0 else label)
    pd.testing.assert_frame_equal(differential_expression(mixed), expected)
    assert "taken as one" in caplog.text


def test_blocks_are_gathered_with_their_labels(pair, tmp_path):
    collector = CellCollector(["perturbation"], "predictions")
    for start in (0, 7):
        block = as_cells(pair[0].X[start : start + 7], np.array([1.0, 2.0, np.nan, 1, 1, 1, 1]))
        block.var_names = pair[0].var_names
        collector.add(block)
    obs = anndata.read_h5ad(collector.finish()).obs
    assert obs["perturbation"].astype(str).tolist()[:3] == ["1", "2", ""]


def test_the_command_scores_another_spelling(pair, tmp_path, capsys):
    paths = [tmp_path / "prediction.h5ad", tmp_path / "reference.h5ad"]
    relabelled(pair[0], lambda label, _: "IFNG+TNF" if label == "TNF+IFNG" else label).write_h5ad(paths[0])
    pair[1].write_h5ad(paths[1])
    assert main(["evaluate", *map(str, paths)]) == 0
    printed = capsys.readouterr().out
    assert "labels of one perturbation are taken as one (numbers of cells): 'IFNG+TNF'" in printed
    assert "perturbations scored" in printed
