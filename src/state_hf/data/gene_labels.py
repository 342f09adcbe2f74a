"""Genes with classes, from a table, and their division into folds."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from state_hf.configuration.advice import Advised
from state_hf.tokenization.gene_names import GeneIndex
from state_hf.tokenization.text_files import text_lines

_COLUMNS = ("gene", "label", "group")


@dataclass(frozen=True, eq=False)
class GeneLabels:
    """Genes of a vocabulary with a class each.

    Attributes:
        rows: (genes,) rows of the vocabulary, ascending.
        labels: (genes,) their classes.
        groups: (genes,) what stays on one side of a split, such as a gene family; None where each gene is its own.
        unknown: Names of the table that the vocabulary does not have, or has several genes for.
    """

    rows: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    unknown: list[str]

    def among(self, kept: np.ndarray) -> "GeneLabels":
        """Those of some genes: (genes,) bool."""
        groups = None if self.groups is None else self.groups[kept]
        return GeneLabels(self.rows[kept], self.labels[kept], groups, self.unknown)


def read_gene_labels(path: str | Path, index: GeneIndex) -> GeneLabels:
    """Read a table of genes, comma-separated (.csv) or tab-separated, with the columns `gene`, `label`, maybe `group`.

    A gene is named as a dataset's genes are: by symbol, Ensembl id of any version, or another name that the vocabulary
    knows. Names of none or of several genes are left out, and listed.

    Raises:
        ValueError: The table is not of this form, gives a gene two labels (the message names the line), or has no gene
            of the vocabulary.
    """
    path = Path(path)
    with text_lines(path) as lines:
        table = csv.reader(lines, delimiter="," if path.suffix == ".csv" else "\t", strict=True)
        rows = [(table.line_num, [field.strip() for field in row]) for row in table if any(row)]
    columns = rows[0][1] if rows else []
    if not {"gene", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise ValueError(f"{path} has the columns {', '.join(columns) or 'of nothing'}; it has to have gene and label")
    found: dict[int, tuple[str, str]] = {}
    unknown: list[str] = []
    for line, row in rows[1:]:
        if len(row) != len(columns):
            raise ValueError(f"{path}, line {line}: there are {len(row)} fields for {len(columns)} columns")
        given = {name: value for name, value in zip(columns, row, strict=True) if name in _COLUMNS}
        if not all(given.values()):
            lacking = next(name for name, value in given.items() if not value)
            raise ValueError(f"{path}, line {line}: there is no {lacking}")
        places = index.candidates(given["gene"])
        if len(places) != 1:
            genes = " or ".join(index.genes[place] for place in places)
            unknown.append(f"{given['gene']} (may be {genes})" if genes else given["gene"])
            continue
        value = given["label"], given.get("group", "")
        if found.setdefault(places[0], value) != value:
            raise ValueError(
                f"{path}, line {line}: {given['gene']} is {' of '.join(filter(None, value))}, but "
                f"{' of '.join(filter(None, found[places[0]]))} in a line before"
            )
    if not found:
        named = "; ".join(unknown[:3])
        raise ValueError(f"none of the {len(unknown):,} genes of {path} ({named}) is in the vocabulary of the model")
    order = sorted(found)
    labels = np.array([found[row][0] for row in order], dtype=object)
    groups = np.array([found[row][1] for row in order], dtype=object) if "group" in columns else None
    return GeneLabels(np.array(order, np.int64), labels, groups, unknown)


def gene_folds(genes: GeneLabels, folds: int, *, seed: int) -> np.ndarray:
    """(genes,) int64: the fold in which each gene is held out, with the classes' shares alike in all folds.

    Args:
        genes: The genes. Those of one group come into one fold.
        folds: Number of folds, 2 or more.
        seed: Of the division.

    Raises:
        ValueError: A class has fewer genes (or groups) than there are folds.
    """
    units = np.arange(len(genes.rows)) if genes.groups is None else genes.groups.astype(str)
    names: Sequence[str] = sorted(set(genes.labels))
    rarest = min(names, key=lambda name: len(set(units[genes.labels == name])))
    number = len(set(units[genes.labels == rarest]))
    if folds < 2 or number < folds:
        of = "genes" if genes.groups is None else "groups of genes"
        raise ValueError(
            Advised(
                f"{folds} folds need as many {of} of every class, and two at least; {rarest!r} has {number}",
                "choose fewer (folds=...)",
                "leave the class out of the table",
            )
        )
    labels = genes.labels.astype(str)
    if genes.groups is None:
        divided = StratifiedKFold(folds, shuffle=True, random_state=seed).split(units, labels)
    else:
        # Groups in random order: by its own shuffling, scikit-learn 1.6 does not keep classes alike.
        codes = np.unique(units, return_inverse=True)[1]
        order = np.random.default_rng(seed).permutation(codes.max() + 1)
        divided = StratifiedGroupKFold(folds).split(units, labels, order[codes])
    fold_of = np.empty(len(units), np.int64)
    for fold, (_, held_out) in enumerate(divided):
        fold_of[held_out] = fold
    return fold_of


__all__ = ["GeneLabels", "gene_folds", "read_gene_labels"]
