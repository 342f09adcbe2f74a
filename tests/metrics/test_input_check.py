import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

from state_hf.metrics.input_check import check_inputs
from state_hf.metrics.value_check import summarize_values

LABELS = ["non-targeting", "non-targeting", "GATA1", "GATA1", "KLF1"]
GENES = ["GATA1", "KLF1", "HBB"]
COUNTS = np.array([[1, 0, 2], [0, 3, 1], [4, 0, 0], [1, 1, 1], [0, 0, 5]], dtype=np.float32)


def screen(x=COUNTS, labels=LABELS, genes=GENES):
    obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))


def check(prediction, reference=None, scale="counts", **kwargs):
    options = {"perturbation_key": "perturbation", "control": "non-targeting"} | kwargs
    return check_inputs(prediction, screen() if reference is None else reference, scale, **options)


def problems(prediction, reference=None, scale="counts", **kwargs):
    with pytest.raises(ValueError, match="cannot be scored against") as caught:
        check(prediction, reference, scale, **kwargs)
    return re.findall(r"^  \d+\. (.*)$", str(caught.value), flags=re.MULTILINE)


def test_good_inputs_pass_with_their_value_summaries():
    checked = check(screen(), max_counts_per_cell=5)
    assert checked.prediction.largest_fraction == 0
    np.testing.assert_array_equal(checked.reference.totals, [3, 4, 4, 3, 5])


def test_all_problems_come_at_once():
    x = COUNTS.copy()
    x[2, 1], x[0, 2] = np.nan, -1
    bad = screen(x, ["control", "control", "gata1", "GATA1 ", "KLF1"], ["GATA1", "klf1", "MYC"])
    found = problems(bad)
    assert found == [
        "2 genes of the reference missing from the prediction: 'HBB', 'KLF1'; perhaps it has 'klf1' for 'KLF1'",
        "2 genes of the prediction not in the reference: 'MYC', 'klf1'",
        "the control 'non-targeting' is no label of the prediction in obs['perturbation']; "
        "its most frequent label is 'control'",
        "1 perturbation of the reference missing from the prediction: 'GATA1'; perhaps it has 'GATA1 ' for 'GATA1'",
        "3 perturbations of the prediction missing from the reference: 'control', 'gata1', 'GATA1 '",
        "the prediction has 1 NaN or infinite value: first nan in cell 'cell2' (row 2), gene 'klf1'",
        "the prediction has 1 negative value: first -1 in cell 'cell0' (row 0), gene 'MYC'. "
        "Counts and log1p values are never negative; scaled ones are not scored",
    ]


def test_genes_in_another_order_are_told_how_to_be_reordered():
    found = problems(screen(COUNTS[:, [1, 0, 2]], genes=["KLF1", "GATA1", "HBB"]))
    assert len(found) == 1
    assert "from position 0 on (prediction 'KLF1', reference 'GATA1')" in found[0]
    assert "prediction[:, reference.var_names]" in found[0]


@pytest.mark.parametrize(
    "labels", [np.array([0, 0, 7, 7, 8]), np.array([0.0, 0.0, 7.0, 7.0, 8.0]), [0, "0", 7.0, 7, 8]]
)
def test_labels_are_compared_as_text_whatever_their_type(labels):
    reference = screen(labels=["0", "0", "7", "7", "8"])
    check(screen(labels=labels), reference, control="0")


def test_texts_of_floats_are_no_labels_of_integers():
    found = problems(screen(labels=["0", "0", "7.0", "7.0", "8"]), screen(labels=[0, 0, 7, 7, 8]), control="0")
    assert found == [
        "1 perturbation of the reference missing from the prediction: '7'; perhaps it has '7.0' for '7'",
        "1 perturbation of the prediction missing from the reference: '7.0'",
    ]


def test_labels_that_look_alike_within_a_side():
    labels = ["non-targeting", "non-targeting", "GATA1", "GATA1 ", "KLF1"]
    found = problems(screen(labels=labels), screen(labels=labels))
    assert [problem[:90] for problem in found] == [
        f"obs['perturbation'] of the {side} has the labels 'GATA1' and 'GATA1 ', which differ in spa"[:90]
        for side in ("prediction", "reference")
    ]
    # Upper and lower case may tell human from mouse where both sides have both.
    labels = ["non-targeting", "non-targeting", "GATA1", "Gata1", "KLF1"]
    check(screen(labels=labels), screen(labels=labels))


def test_perturbations_are_called_by_their_names():
    prediction = screen(labels=["non-targeting", "non-targeting", "KLF1+GATA1", "KLF1+GATA1", "KLF1"])
    reference = screen(labels=["non-targeting", "non-targeting", "GATA1+KLF1", "GATA1+KLF1", "KLF1"])
    assert len(problems(prediction, reference)) == 2
    check(prediction, reference, names={"KLF1+GATA1": "GATA1+KLF1"})


def test_declared_perturbation_without_cells():
    prediction = screen(labels=["non-targeting", "non-targeting", "GATA1", "GATA1", "GATA1"])
    prediction.obs["perturbation"] = prediction.obs["perturbation"].astype("category").cat.add_categories("KLF1")
    (found,) = problems(prediction)
    assert found.endswith("'KLF1'; 'KLF1' declared there without a cell")


def test_perturbation_without_a_count():
    x = COUNTS.copy()
    x[4] = 0
    assert problems(screen(x)) == ["1 perturbation of the prediction without a single count: 'KLF1'"]
    check(screen(x), scale="lognorm")


def test_scale_of_the_profile():
    lognorm = np.log1p(COUNTS)
    (found,) = problems(screen(lognorm))
    assert "must hold raw counts, but has 9 values with a fraction (it looks log-normalised)" in found
    assert found.endswith("; score it by a profile that takes such values (profile='vcc2025')")
    check(screen(lognorm), scale="lognorm")
    (found,) = problems(screen(COUNTS * 10 + 0.5), scale="lognorm")
    assert "largest value is 50.5, while log-normalised values lie in [0, 15)" in found


def test_cap_is_checked_on_both_sides():
    assert problems(screen(COUNTS * 2), max_counts_per_cell=4) == [
        "the prediction has 5 cells with more than 4 counts: first 'cell0' (row 0) with 6",
        "the reference has 1 cell with more than 4 counts: first 'cell4' (row 4) with 5",
    ]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (["Perturbation", "gene"], "Perturbation"),  # close
        (["target_gene", "n_counts"], "target_gene"),  # the only usual one
        (["Condition"], "Condition"),
        (["gene", "condition"], None),
        (["n_counts"], None),
    ],
)
def test_a_missing_column_names_the_one_that_may_be_meant(columns, named):
    prediction = screen()
    prediction.obs = pd.DataFrame(dict.fromkeys(columns, prediction.obs["perturbation"]))
    (found,) = problems(prediction)
    shown = ", ".join(map(repr, columns))
    way = "" if named is None else f"; name it (perturbation_key='{named}')"
    assert found == f"the prediction has no obs column 'perturbation' (columns: {shown}){way}"


def test_unlabelled_cells():
    prediction = screen(labels=["non-targeting", None, "GATA1", "GATA1", "KLF1"])
    assert problems(prediction) == [
        "the prediction has 1 cell without a label in obs['perturbation']; label or remove them"
    ]
    prediction = screen(labels=["non-targeting", "nan", "GATA1", "None", "KLF1"])
    assert problems(prediction) == [
        "the prediction has 2 cells without a label in obs['perturbation']; texts that stand for no label: "
        "'nan' 1, 'None' 1; label or remove them"
    ]


def test_controls_of_the_prediction_may_be_absent_where_the_profile_does_not_read_them():
    prediction = screen(COUNTS[2:], LABELS[2:])
    check(prediction, control_in_prediction=False)
    assert len(problems(prediction)) == 1


def test_contexts_are_compared_each_for_itself():
    reference, prediction = screen(), screen()
    reference.obs["cell_type"] = ["T", "B", "T", "B", "B"]
    prediction.obs["cell_type"] = ["T", "B", "T", "T", "B"]
    found = problems(prediction, reference, cell_type_key="cell_type")
    assert found == [
        "1 perturbation of the reference missing from the prediction in their context (obs['cell_type']): "
        "'GATA1 in B'; score what is predicted, alone (groups='prediction')"
    ]
    prediction.obs["cell_type"] = ["T cell", "B", "T cell", "B", "B"]
    reference.obs["cell_type"] = ["t  cell", "B", "t  cell", "B", "B"]
    found = problems(prediction, reference, cell_type_key="cell_type")
    assert found[0].endswith("'non-targeting in t  cell'; perhaps it has 'T cell' for 't  cell'")
    reference.obs["cell_type"] = ["T", "T", "T", "B", "B"]
    prediction.obs["cell_type"] = reference.obs["cell_type"].to_numpy()
    assert problems(prediction, reference, cell_type_key="cell_type") == [
        "no control cells 'non-targeting' of the reference in context 'B'"
    ]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_duplicate_genes():
    assert "1 gene of the prediction named more than once: 'KLF1'" in problems(screen(genes=["GATA1", "KLF1", "KLF1"]))


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
@pytest.mark.parametrize("backed", [False, True])
def test_values_are_summarised_alike_whatever_the_storage(layout, backed, tmp_path, monkeypatch):
    monkeypatch.setattr("state_hf.metrics.value_check._BLOCK_VALUES", 6)
    x = COUNTS.copy()
    x[1, 1], x[3, 2], x[4, 0] = -2, np.inf, 0.25
    matrix = layout(x)
    if backed:
        screen(matrix).write_h5ad(tmp_path / "x.h5ad")
        matrix = read_h5ad(tmp_path / "x.h5ad", backed="r").X
    summary = summarize_values(matrix)
    assert (summary.minimum, summary.maximum, summary.largest_fraction) == (-2, 5, 0.25)
    assert summary.nonzero == 9  # the infinite one is not counted
    assert (summary.non_finite, summary.negative, summary.fractional) == (1, 1, 1)
    assert summary.first_non_finite == (3, 2, np.inf)
    assert summary.first_negative == (1, 1, -2)
    assert summary.first_fractional == (4, 0, 0.25)
    np.testing.assert_array_equal(summary.totals, [3, -1, 4, 2, 5.25])


def test_values_that_are_no_numbers():
    with pytest.raises(ValueError, match="real numbers, not complex64"):
        summarize_values(np.ones((2, 2), dtype=np.complex64))
