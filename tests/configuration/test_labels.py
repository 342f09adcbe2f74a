"""One text for a label, whatever its type; labels that stand for none; labels that look alike."""

import datetime
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_hf.configuration.labels import (
    MISSING_TEXTS,
    FoundLabels,
    as_label,
    label_text,
    look_alike_form,
    refuse_look_alikes,
)
from state_hf.configuration.perturbation_labels import label_parts

TWO = [2, 2.0, np.int8(2), np.uint64(2), np.float16(2), np.float32(2), np.array(2.0)[()], "2", np.str_("2"), b"2"]


@pytest.mark.parametrize("value", TWO, ids=lambda value: f"{type(value).__name__}({value})")
def test_a_whole_number_has_one_text(value):
    assert label_text(value) == "2"
    assert as_label(value, "control") == "2"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (np.float32(0.1), "0.1"),
        (-0.0, "0"),
        (-3.0, "-3"),
        (1e20, "100000000000000000000"),
        (10**400, str(10**400)),
        (np.inf, "inf"),
        (True, "True"),
        (np.bool_(False), "False"),
        ("2.0", "2.0"),
        (" a ", " a "),
        ("NAN", "NAN"),
        ("none", "none"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
    ],
)
def test_other_values(value, text):
    assert label_text(value) == text


@pytest.mark.parametrize(
    "value", [None, np.nan, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT", "s")]
)
def test_missing_values_are_no_label(value):
    assert label_text(value) is None


@pytest.mark.parametrize("text", MISSING_TEXTS)
@pytest.mark.parametrize("around", ["{}", " {} ", "\u00a0{}", "{}\t", "\ufeff{}"])
def test_texts_that_stand_for_no_label(text, around):
    assert label_text(around.format(text)) is None


@pytest.mark.parametrize("value", [None, "", "nan", float("nan"), ["a"], ("a",), {"a"}, np.array(["a"]), object()])
def test_what_the_user_cannot_name(value):
    with pytest.raises(ValueError, match=r"^control is a label, a text or a number, and not "):
        as_label(value, "control")


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans()))
def test_the_text_of_a_label_is_its_own_text(value):
    text = label_text(value)
    if text is not None:
        assert label_text(text) == text


@given(st.integers(-(2**53), 2**53))
def test_integers_and_floats_agree(number):
    assert label_text(number) == label_text(float(number)) == str(number)


@given(st.text())
def test_the_form_of_a_form_is_the_form(text):
    assert look_alike_form(look_alike_form(text)) == look_alike_form(text)
    # What tells case apart tells no more than what does not.
    assert look_alike_form(look_alike_form(text, distinct_case=True)) == look_alike_form(text)


@given(st.text(), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_the_form_does_not_depend_on_the_encoding(text, encoding):
    assert look_alike_form(unicodedata.normalize(encoding, text)) == look_alike_form(text)


ALIKE = [
    ("A", "A "),
    ("A", "\tA"),
    ("T cell", "T  cell"),
    ("T cell", "T\u00a0cell"),
    ("A+B", "A + B"),
    ("caf\u00e9", "cafe\u0301"),
    ("\u00b5M", "\u03bcM"),
    ("non-targeting", "non\u2011targeting"),
    ("non-targeting", "non\u2013targeting"),
    ("A", "A\u200b"),
    ("A", "\uff21"),
    ("TP53", "\u0422\u042053"),
    ("TP53", "t\u044053"),
    ("EZH2", "\u0395\u0396H2"),
    ("TP53", "Tp53"),
    ("T cell", "t Cell"),
    ("2", "2.0"),
    ("1", "01"),
    ("-1", "-1.00"),
]


@pytest.mark.parametrize(("one", "two"), ALIKE)
def test_labels_that_look_alike_are_refused_in_one_place_and_across(one, two):
    with pytest.raises(ValueError, match=r"^obs of a has the labels .*; make them one"):
        refuse_look_alikes([FoundLabels("obs of a", [one, two])])
    with pytest.raises(ValueError, match=r"^obs of b has the label .*, and obs of a .*; make them one"):
        refuse_look_alikes([FoundLabels("obs of a", [one]), FoundLabels("obs of b", [two])])
    with pytest.raises(ValueError, match=r"^obs of b has the label .*, and the model .*; make them one"):
        refuse_look_alikes([FoundLabels("obs of b", [two])], known=[FoundLabels("the model", [one])])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("A", "AA"),
        ("A+B", "A-B"),
        ("T cell", "Tcell"),
        ("1e5", "100000"),
        ("1.5", "15"),
        ("1.5", "1.05"),
        ("-1", "1"),
        ("A", "A+"),
        ("IL2", "IL-2"),
        ("HLA-A", "HLA_A"),
        ("IFN\u03b1", "IFNa"),
        ("IFN\u03b1", "IFN\u03b2"),
    ],
)
def test_labels_that_do_not(one, two):
    refuse_look_alikes([FoundLabels("a", [one, two])], parts=label_parts)


def test_the_message_names_labels_places_and_what_to_do():
    found = [FoundLabels("obs['p'] of a.h5ad", ["A", "C"], "p"), FoundLabels("obs['p'] of b.h5ad", ["A ", "c "], "p")]
    with pytest.raises(ValueError, match="in all") as caught:
        refuse_look_alikes(found)
    assert str(caught.value) == (
        "obs['p'] of b.h5ad has the label 'A ', and obs['p'] of a.h5ad 'A', which differ in spaces only "
        "(2 such pairs in all); make them one (adata.obs['p'] = adata.obs['p'].astype(str).replace({'A ': 'A'}))"
    )
    with pytest.raises(ValueError, match=r"'caf\\xe9', and a 'cafe\\u0301', which differ in how they are encoded"):
        refuse_look_alikes([FoundLabels("a", ["cafe\u0301"]), FoundLabels("b", ["caf\u00e9"])])
    with pytest.raises(ValueError, match=r"'2.0', and a '2', which are one number in two forms"):
        refuse_look_alikes([FoundLabels("a", ["2"]), FoundLabels("b", ["2.0"])])


def test_case_is_told_apart_where_the_user_says_so():
    found = [FoundLabels("a", ["TP53", "Tp53"])]
    with pytest.raises(ValueError, match=r"upper and lower case only; .*distinct_case=True"):
        refuse_look_alikes(found)
    refuse_look_alikes(found, distinct_case=True)
    with pytest.raises(ValueError, match=r"differ in spaces only; make them one$"):
        refuse_look_alikes([FoundLabels("a", ["A", "A "])], distinct_case=True)


def test_what_a_model_tells_apart_is_not_compared():
    model = [FoundLabels("the model", ["TP53", "Tp53", "A"])]
    refuse_look_alikes([FoundLabels("a", ["TP53", "Tp53"])], known=model)
    with pytest.raises(ValueError, match="and the model 'A'"):
        refuse_look_alikes([FoundLabels("a", ["A", "a"])], known=model)


def test_the_members_of_combinations_are_compared_too():
    with pytest.raises(ValueError, match=r"'tp53\+X' \(of which 'tp53'\), and a 'TP53', which differ in upper"):
        refuse_look_alikes([FoundLabels("a", ["TP53"]), FoundLabels("b", ["tp53+X"])], parts=label_parts)
    with pytest.raises(ValueError, match=r"'A\+CTRL' \(of which 'CTRL'\), and a 'ctrl'"):
        refuse_look_alikes([FoundLabels("a", ["ctrl"]), FoundLabels("b", ["A+CTRL"])], parts=label_parts)
