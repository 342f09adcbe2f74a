"""Columns of labels of any type are read alike."""

import numpy as np
import pandas as pd
import pytest

from state_hf.metrics.label_columns import labels_or_error, read_label_column

TWO_ONE_TWO = [
    [2, 1, 2],
    [2.0, 1.0, 2.0],
    ["2", "1", "2"],
    [2, "1", 2.0],
    np.array([2, 1, 2], dtype=np.uint8),
    pd.Categorical([2, 1, 2]),
    pd.Categorical([2.0, 1.0, 2.0]),
    pd.Categorical(["2", "1", "2"], categories=["2", "1", "3"]),
    pd.array([2, 1, 2], "Int64"),
    pd.array([2, 1, 2], "Float32"),
    pd.array(["2", "1", "2"], "string"),
]


@pytest.mark.parametrize("values", TWO_ONE_TWO, ids=str)
def test_columns_of_any_type(values):
    column = read_label_column(pd.Series(values))
    assert column.texts.tolist() == ["2", "1", "2"]
    assert column.counts == {"2": 2, "1": 1}
    assert column.unlabelled == 0


def test_values_that_python_takes_for_equal_are_told_apart():
    column = read_label_column(pd.Series([1, True, 1.0, "1", "True"], dtype=object))
    assert column.texts.tolist() == ["1", "True", "1", "1", "True"]


def test_values_of_one_text_in_a_categorical_are_one_label():
    column = read_label_column(pd.Series(pd.Categorical([1, "1", 1.5], categories=[1, "1", 1.5])))
    assert column.labels == ["1", "1.5"]
    assert column.codes.tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_missing_values_and_texts_that_stand_for_them(dtype):
    column = read_label_column(pd.Series(["a", None, "nan", "", "nan", "NAN", "  "], dtype=dtype))
    assert column.texts.tolist() == ["a", None, None, None, None, "NAN", None]
    assert column.unlabelled == 5
    assert column.missing_texts == {"nan": 2, "": 1, "  ": 1}


def test_categories_without_cells_are_declared_and_no_more():
    column = read_label_column(pd.Series(pd.Categorical(["b"], categories=["a", "b", "nan"])))
    assert (column.labels, column.declared, column.missing_texts) == (["b"], ["a"], {})


def test_the_error_counts_cells_and_texts():
    with pytest.raises(ValueError, match="has no label") as caught:
        labels_or_error(pd.Series(["a", "None", None, "None"]), "obs['p'] of x.h5ad")
    assert str(caught.value) == (
        "obs['p'] of x.h5ad has no label for 3 of 4 cells (the first is cell 1; texts that stand for no label: "
        "'None' 2); label or remove them"
    )
