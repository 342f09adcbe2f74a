"""Which features of a data set are gene expression, where `var` says that some are antibodies, guides or peaks."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

# What Cell Ranger, scanpy, CELLxGENE and muon call the column, and the values that they write, without case and
# punctuation.
_COLUMNS = frozenset({"featuretypes", "featuretype", "modality"})
_EXPRESSION = re.compile(r"(gene)?expression|gex|(m|sc|sn)?rna(seq)?|transcript(ome|omics)|genes?")
_OTHER = re.compile(
    r"antibod(y|ies).*|adts?|abs?|prot|protein(?!coding).*|cite(seq)?|surface.*"
    r"|crispr.*|guide.*|(s|p|pe)?grna.*|crrna.*|gdo|peaks?|atac.*|chromatin.*"
    r"|multiplex.*|hto|hash.*|cmo|celltag|larry|antigen.*|custom|feature.*|barcodes?"
    r"|spikeins?|ercc|vdj.*|tcr|bcr|airr|methylation"
)
# GENCODE's biotypes, with which some files (CELLxGENE's) fill a column of the same name.
_BIOTYPE = re.compile(r".*(coding|rna|gene|transcript)")


@dataclass(frozen=True, eq=False)
class FeatureTypes:
    """What the features of a matrix are.

    Attributes:
        is_expression: (features,) bool.
        others: For every type that is not gene expression the number of its features.
    """

    is_expression: np.ndarray
    others: dict[str, int]

    @property
    def note(self) -> str:
        """One line on what is left out; empty where all is gene expression."""
        if not self.others:
            return ""
        left_out, total = sum(self.others.values()), len(self.is_expression)
        listed = ", ".join(f"{name} {number:,}" for name, number in self.others.items())
        return f"{left_out:,} of {total:,} features are not gene expression ({listed}) and are left out"


def type_columns(names: Iterable[str]) -> list[str]:
    """Of the names of var's columns, those that may say what a feature is."""
    return [name for name in names if _plain(str(name)) in _COLUMNS]


def feature_types(var: pd.DataFrame) -> FeatureTypes:
    """Read which features are gene expression from the columns of `var` that say so.

    These are `feature_types` as Cell Ranger writes it, `feature_type`, and `modality`, in any spelling. Values are
    matched whatever their case and punctuation ("Gene Expression", "gene_expression", "rna"). A column that names no
    type of measurement, such as one of biotypes ("protein_coding", "lncRNA"), says nothing; a feature without a value
    is taken for a gene.

    Args:
        var: One row a feature.
    """
    is_expression = np.ones(len(var), dtype=bool)
    others: Counter[str] = Counter()
    for column in type_columns(var.columns):
        values = var[column].astype(object)
        wrong = _not_expression(values) & is_expression
        others.update(str(value) for value in values[wrong])
        is_expression &= ~wrong
    return FeatureTypes(is_expression, dict(others))


def expression_features(var: pd.DataFrame, place: str) -> FeatureTypes:
    """The types of features that a matrix of gene expression is read from.

    Args:
        var: One row a feature.
        place: What messages call the data.

    Raises:
        ValueError: No feature is gene expression; the message names the types that there are.
    """
    found = feature_types(var)
    if len(var) and not found.is_expression.any():
        listed = ", ".join(f"{name} {number:,}" for name, number in found.others.items())
        raise ValueError(
            f"{place} has no feature of the type gene expression: its {len(var):,} features are {listed}. "
            "Give the file with the RNA counts"
        )
    return found


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _not_expression(values: pd.Series) -> np.ndarray:
    kinds = {value: _plain(str(value)) for value in values[values.notna()].unique()}
    # Where one type is named as an assay, the column lists assays, and unknown ones are none of genes.
    lists_assays = any(map(_EXPRESSION.fullmatch, kinds.values()))
    wrong = {value for value, kind in kinds.items() if kind and _is_other(kind, lists_assays=lists_assays)}
    return values.isin(wrong).to_numpy() if wrong else np.zeros(len(values), dtype=bool)


def _is_other(kind: str, *, lists_assays: bool) -> bool:
    if not kind or _EXPRESSION.fullmatch(kind):
        return False
    return bool(_OTHER.fullmatch(kind)) or (lists_assays and not _BIOTYPE.fullmatch(kind))


__all__ = ["FeatureTypes", "expression_features", "feature_types", "type_columns"]
