"""What a language model wrote is read as the original reads it, and a label is never guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cell2sentence_models import TEXT, processor

from state_hf.tokenization.generated_text import LabelParser, edit_distance

LABELS = ["CD4 T cells", "CD8 T cells", "B cells", "NK cells", "FCGR3A+ Monocytes", "CD14+ Monocytes", "Megakaryocytes"]


@pytest.mark.parametrize("case", TEXT["post_process"], ids=lambda case: case["text"][:20])
def test_genes_are_those_of_the_original(case):
    made = processor()
    found = made.parse_genes(case["text"])
    assert [made.genes[row] for row in found.rows] == case["kept"]
    assert len(found.unknown) == case["replaced"]
    assert len(case["text"].split(" ")) == len(found.rows) + len(found.unknown) + found.repeated


def test_a_full_stop_and_lines_are_no_genes():
    made = processor()
    assert made.parse_genes(" ACTB CD19\nLYZ. ") == made.parse_genes("ACTB CD19 LYZ")
    assert made.parse_genes("").rows == []


@pytest.mark.parametrize(
    ("text", "label", "how"),
    [
        ("B cells", "B cells", "exact"),
        (" B cells.\nAnother cell is a", "B cells", "exact"),
        ("b CELL", "B cells", "normalised"),
        ("CD4-T_cell.", "CD4 T cells", "normalised"),
        ("cd14+ monocyte", "CD14+ Monocytes", "normalised"),
        ("Megakariocyte", "Megakaryocytes", "near"),
        ("CD14+ Monocites", "CD14+ Monocytes", "near"),
        # One letter makes another cell.
        ("T cells", None, "unknown"),
        ("CD3 T cells", None, "unknown"),
        ("CD14 Monocytes", None, "unknown"),
        ("neuron", None, "unknown"),
        ("", None, "unknown"),
    ],
)
def test_labels(text, label, how):
    found = LabelParser(LABELS)(text)
    assert (found.label, found.how) == (label, how)
    assert (found.distance > 0) == (how == "near")


def test_what_is_as_near_to_two_labels_is_unknown():
    assert LabelParser(["alphacyte", "alphecyte"])("alphicyte").label is None
    assert LabelParser(["alphacyte", "betacyte"])("alphicyte").label == "alphacyte"
    assert LabelParser(["alphacyte"], max_distance=0)("alphicyte").label is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "there is no label to look for; name them"),
        (["B cell", "b cells"], "cannot be told apart"),
        (["B cell", "B cell"], "is named twice"),
        ([".."], "there is no label"),
    ],
)
def test_vocabularies_that_are_none(labels, said):
    with pytest.raises(ValueError, match=said):
        LabelParser(labels)


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_one(one, two, three):
    distance = edit_distance(one, two)
    assert distance == edit_distance(two, one) >= abs(len(one) - len(two))
    assert (distance == 0) == (one == two)
    assert distance <= edit_distance(one, three) + edit_distance(three, two)
    assert edit_distance(one + "x", two + "x") == distance
