import numpy as np
import pandas as pd
import pytest

from state_hf.tokenization.feature_types import expression_features, feature_types


def var(values, column="feature_types") -> pd.DataFrame:
    return pd.DataFrame({"gene_ids": [f"id{n}" for n in range(len(values))], column: values})


@pytest.mark.parametrize("column", ["feature_types", "feature_type", "modality", "Feature Types", "feature-type"])
@pytest.mark.parametrize(
    ("gene", "other"),
    [
        ("Gene Expression", "Antibody Capture"),
        ("Gene Expression", "CRISPR Guide Capture"),
        ("Gene Expression", "Multiplexing Capture"),
        ("Gene Expression", "Peaks"),
        ("Gene Expression", "Custom"),
        ("Gene Expression", "Antigen Capture"),
        ("gene expression", "antibody capture"),
        ("GENE_EXPRESSION", "protein"),
        ("rna", "prot"),
        ("RNA", "ADT"),
        ("RNA", "Antibody-Derived Tags"),
        ("mRNA", "guide RNA"),
        ("gex", "atac"),
        ("rna", "a type that nobody has heard of"),
    ],
)
def test_genes_are_told_from_what_else_is_measured(column, gene, other):
    found = feature_types(var([gene, other, gene, other, other], column))
    assert found.is_expression.tolist() == [True, False, True, False, False]
    assert found.others == {other: 3}
    assert found.note == f"3 of 5 features are not gene expression ({other} 3) and are left out"


def test_all_types_are_counted():
    values = pd.Categorical(["Gene Expression"] * 3 + ["Antibody Capture"] * 2 + ["CRISPR Guide Capture"])
    assert feature_types(var(values)).note == (
        "3 of 6 features are not gene expression (Antibody Capture 2, CRISPR Guide Capture 1) and are left out"
    )


@pytest.mark.parametrize(
    "values",
    [
        ["protein_coding", "lncRNA", "IG_V_gene", "TEC", "processed_pseudogene"],  # CELLxGENE's feature_type
        ["Gene Expression"] * 5,
        ["high", "low", "low", "low", "high"],
        [1, 2, 3, 4, 5],
        [None] * 5,
        [np.nan, "Gene Expression", "Gene Expression", None, "Gene Expression"],
        ["", "rna", "rna", "rna", "rna"],
    ],
)
def test_columns_that_name_no_other_measurement_leave_nothing_out(values):
    found = feature_types(var(values))
    assert found.is_expression.all()
    assert found.note == ""


def test_biotypes_of_genes_beside_antibodies():
    found = feature_types(var(["protein_coding", "TEC", "Antibody Capture", "lncRNA", "sgRNA"]))
    assert found.is_expression.tolist() == [True, True, False, True, False]


def test_two_columns_must_agree_on_a_gene():
    table = var(["Gene Expression", "Gene Expression", "Custom"])
    table["modality"] = ["rna", "prot", "rna"]
    assert feature_types(table).is_expression.tolist() == [True, False, False]
    assert feature_types(table).others == {"Custom": 1, "prot": 1}


def test_no_column_no_question():
    assert feature_types(pd.DataFrame(index=["A", "B"])).is_expression.tolist() == [True, True]


@pytest.mark.parametrize("values", [["Peaks", "Peaks"], ["Antibody Capture", "CRISPR Guide Capture"]])
def test_a_matrix_without_genes_is_refused_with_the_types_that_it_has(values):
    with pytest.raises(ValueError, match=f"multi.h5ad has no feature of the type gene expression.* {values[0]}"):
        expression_features(var(values), "multi.h5ad")
