"""Which gene of the vocabulary each column of a dataset is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from state_hf.configuration.near_names import near_names
from state_hf.tokenization.feature_types import FeatureTypes, expression_features
from state_hf.tokenization.gene_aliases import AliasTable, is_ensembl_id, without_version

# What a column of this name is called, since "index" is the index.
_COLUMN_INDEX = "var['index']"


def _shortened(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown}, ... ({len(names):,} in all)" if len(names) > limit else shown


@dataclass(frozen=True)
class GeneReport:
    """How a dataset's columns map to the genes of a vocabulary. `print(report)` says it in words.

    Attributes:
        columns: (dataset genes,) int64, for every column of the dataset its row in the vocabulary, or -1. No row
            occurs twice, unless columns are `summed`.
        names: The name of every column of the dataset, as it was looked up.
        column: The column of `var` that the names come from, or `"index"` (a column of that name: `"var['index']"`).
        vocabulary_size: Number of genes in the vocabulary.
        by_symbol: Number of columns matched by a symbol of the vocabulary, or where that goes by Ensembl ids, of the
            alias table.
        by_id: Number of columns matched by an Ensembl id, its version set aside, itself or through the alias table.
        by_alias: Other names matched through the alias table: the dataset's name -> the vocabulary's.
        ambiguous: Not matched, because the alias table gives several genes: the dataset's name -> the vocabulary's.
        duplicates: Not matched, because another column is the same gene: the dataset's name -> the vocabulary's.
            A column with the vocabulary's own name wins over one with an alias, then the first one wins.
        summed: Matched like another column, and added to it: the dataset's name -> the vocabulary's.
        missing: Names that the vocabulary does not have.
        near: Missing names that differ from one of the vocabulary in upper and lower case only -> that one.
        other_features: Not looked up, because `var` says that they are not gene expression: type -> number of columns.
    """

    columns: np.ndarray
    names: tuple[str, ...]
    column: str
    vocabulary_size: int
    by_symbol: int = 0
    by_id: int = 0
    by_alias: dict[str, str] = field(default_factory=dict)
    ambiguous: dict[str, list[str]] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    summed: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    near: dict[str, str] = field(default_factory=dict)
    other_features: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The kernels index by these rows without a check of their own.
        rows = self.columns[self.columns >= 0]
        repeated = len(rows) - len(np.unique(rows))
        if (repeated and not self.summed) or rows.max(initial=-1) >= self.vocabulary_size:
            raise ValueError(
                f"columns may hold every vocabulary row at most once, and none above {self.vocabulary_size - 1}."
            )

    @cached_property
    def genes(self) -> np.ndarray:
        """The vocabulary rows that the dataset has, ascending: (matched,) int64."""
        return np.unique(self.columns[self.columns >= 0])

    @property
    def overlap(self) -> float:
        """Matched genes over those that could match: the smaller of the dataset and the vocabulary. In [0, 1]."""
        return len(self.genes) / max(1, min(self.dataset_genes, self.vocabulary_size))

    @property
    def dataset_genes(self) -> int:
        """Number of columns that are genes."""
        return len(self.columns) - sum(self.other_features.values())

    def __str__(self) -> str:
        source = {"index": "the index of var", _COLUMN_INDEX: _COLUMN_INDEX}.get(self.column, f"var[{self.column!r}]")
        lines = [
            f"{len(self.genes):,} of {self.dataset_genes:,} genes are in the vocabulary of {self.vocabulary_size:,}, "
            f"looked up by {source}: {self.by_symbol:,} by symbol, {self.by_id:,} by id, "
            f"{len(self.by_alias):,} by alias"
        ]
        if self.by_alias:
            lines.append("  by alias: " + _shortened([f"{name} = {gene}" for name, gene in self.by_alias.items()]))
        if self.ambiguous:
            cases = [f"{name} ({' or '.join(genes)})" for name, genes in self.ambiguous.items()]
            lines.append("  ambiguous, left out: " + _shortened(cases))
        if self.duplicates:
            cases = [f"{name} (is {gene})" for name, gene in self.duplicates.items()]
            lines.append("  second column of a gene, left out: " + _shortened(cases))
        if self.summed:
            cases = [f"{name} (is {gene})" for name, gene in self.summed.items()]
            lines.append("  another column of a gene, added to it: " + _shortened(cases))
        if self.missing:
            lines.append("  missing from the vocabulary: " + _shortened(self.missing))
        if self.other_features:
            kinds = [f"{name} {number:,}" for name, number in self.other_features.items()]
            lines.append("  not gene expression, left out: " + _shortened(kinds))
        if self.near:
            cases = [f"{name} ({gene})" for name, gene in self.near.items()]
            lines.append("  of these, different in case only: " + _shortened(cases))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain numbers, strings and lists, to be stored in `uns` or as JSON."""
        return {
            "column": self.column,
            "dataset_genes": self.dataset_genes,
            "vocabulary_genes": self.vocabulary_size,
            "matched": len(self.genes),
            "by_symbol": self.by_symbol,
            "by_id": self.by_id,
            # Lists, because a gene name as a key would be a path in an .h5ad file.
            "by_alias": [f"{name} = {gene}" for name, gene in self.by_alias.items()],
            "ambiguous": [f"{name} = {' or '.join(genes)}" for name, genes in self.ambiguous.items()],
            "duplicates": [f"{name} = {gene}" for name, gene in self.duplicates.items()],
            "summed": [f"{name} = {gene}" for name, gene in self.summed.items()],
            "missing": list(self.missing),
            "other_features": [f"{name} {number}" for name, number in self.other_features.items()],
        }


class GeneIndex:
    """Looks names up in a vocabulary: as they are, without an Ensembl version, through the alias table.

    Args:
        genes: The vocabulary: row -> name.
        aliases: Other names of genes.
        sum_columns: Whether several columns of one gene are added up; else the first counts.
        upper_case: Whether the vocabulary is in upper case, and names are looked up as they are written so.
    """

    def __init__(
        self,
        genes: Sequence[str],
        aliases: AliasTable | None = None,
        *,
        sum_columns: bool = False,
        upper_case: bool = False,
    ) -> None:
        self.genes = list(genes)
        self.aliases = aliases
        self.sum_columns = sum_columns
        self.upper_case = upper_case
        self.rows: dict[str, int] = {}
        for row, gene in enumerate(self.genes):
            self.rows.setdefault(without_version(gene), row)

    @cached_property
    def _caseless(self) -> dict[str, str]:
        return {name.casefold(): self.genes[row] for name, row in self.rows.items()}

    def own_row(self, name: str) -> int | None:
        """The row of a gene that has this name itself, its version set aside; None if there is none."""
        name = without_version(name)
        return self.rows.get(name.upper() if self.upper_case else name)

    def candidates(self, name: str) -> list[int]:
        """The rows that a name may stand for: none, one, or several if the alias table is ambiguous about it."""
        own = self.own_row(name)
        if own is not None:
            return [own]
        name = without_version(name)
        if self.aliases is None or not name:
            return []
        return sorted({self.rows[found] for found in self.aliases.known_as(name, self.rows)})

    def with_aliases(self, aliases: AliasTable) -> "GeneIndex":
        """The same vocabulary with another alias table."""
        return GeneIndex(self.genes, aliases, sum_columns=self.sum_columns, upper_case=self.upper_case)

    def _is_symbol(self, name: str, row: int) -> bool:
        """Whether a name is the symbol of a gene that the vocabulary has by its Ensembl id."""
        table = self.aliases
        return table is not None and is_ensembl_id(self.genes[row]) and table.is_symbol(without_version(name))

    def differs_in_case(self, name: str) -> str | None:
        """The gene of the vocabulary that is this name but for upper and lower case."""
        return self._caseless.get(without_version(name).casefold())

    def near(self, name: str) -> list[str]:
        """Up to three genes of the vocabulary that are spelt like this name."""
        same = self.differs_in_case(name)
        return [same] if same else near_names(name, self.genes)

    def report(self, names: Sequence[str], *, column: str, types: FeatureTypes | None = None) -> GeneReport:
        """Look a dataset's names up, of the features that are gene expression."""
        is_gene = [True] * len(names) if types is None else types.is_expression.tolist()
        found = [self.candidates(name) if gene else [] for name, gene in zip(names, is_gene, strict=True)]
        own = [self.own_row(name) is not None for name in names]
        columns = np.full(len(names), -1, np.int64)
        taken: set[int] = set()
        repeated: dict[str, str] = {}
        # Own names first: an alias never takes a gene away from the column that carries its name.
        for at in sorted((at for at, rows in enumerate(found) if len(rows) == 1), key=lambda at: not own[at]):
            row = found[at][0]
            if row in taken:
                repeated[names[at]] = self.genes[row]
            if row not in taken or self.sum_columns:
                taken.add(row)
                columns[at] = row
        matched = np.flatnonzero(columns >= 0).tolist()
        ids = {at for at in matched if is_ensembl_id(names[at].strip())}
        symbols = {at for at in matched if at not in ids and (own[at] or self._is_symbol(names[at], columns[at]))}
        aliased = [at for at in matched if at not in ids and at not in symbols]
        missing = tuple(name for name, rows, gene in zip(names, found, is_gene, strict=True) if gene and not rows)
        cases = {name: self.differs_in_case(name) for name in missing}
        return GeneReport(
            columns=columns,
            names=tuple(names),
            column=column,
            vocabulary_size=len(self.genes),
            by_symbol=len(symbols),
            by_id=len(ids),
            by_alias={names[at]: self.genes[columns[at]] for at in aliased},
            ambiguous={
                name: [self.genes[row] for row in rows]
                for name, rows in zip(names, found, strict=True)
                if len(rows) > 1
            },
            duplicates={} if self.sum_columns else repeated,
            summed=repeated if self.sum_columns else {},
            missing=missing,
            near={name: gene for name, gene in cases.items() if gene is not None},
            other_features={} if types is None else types.others,
        )


def _text_columns(var: pd.DataFrame) -> list[Any]:
    return [
        column
        for column, dtype in var.dtypes.items()
        if pd.api.types.is_object_dtype(dtype)
        or pd.api.types.is_string_dtype(dtype)
        or isinstance(dtype, pd.CategoricalDtype)
    ]


def _names(values: pd.Series | pd.Index) -> list[str]:
    return ["" if absent else str(value) for value, absent in zip(values, values.isna(), strict=True)]


def resolve_genes(
    var: pd.DataFrame,
    vocabulary: Any,
    *,
    gene_column: str | None = None,
    aliases: AliasTable | None = None,
    min_overlap: float = 0.3,
) -> GeneReport:
    """Map a dataset's genes to a vocabulary, by symbol, Ensembl id (any version) or, with an alias table, other names.

    Args:
        var: The dataset's gene annotation: `adata.var`.
        vocabulary: A `StateEmbeddingTokenizer` (its alias table is used) or the ordered list of gene names.
        gene_column: The column of `var` that holds the names, or `"index"` for its index. By default the index and
            every text column are tried, and the one with the most matches is taken, the index before others. A column
            that is itself called "index" is `"var['index']"`.
        aliases: An alias table, instead of the tokenizer's.
        min_overlap: The smallest share of genes that has to match, in [0, 1], of the dataset's or the vocabulary's
            genes, whichever are fewer: a panel of 500 genes and a file of 60,000 are both held to what they can have.

    Returns:
        The mapping, with an account of what matched and what did not.

    Raises:
        ValueError: If there is no such column, no feature is gene expression, or fewer genes than `min_overlap` match.
    """
    index = _index_of(vocabulary, aliases)
    places = {_COLUMN_INDEX if column == "index" else str(column): column for column in var.columns}
    if gene_column is None:
        text = _text_columns(var)
        choices = ["index", *(name for name, column in places.items() if column in text)]
    elif gene_column in places or gene_column == "index":
        choices = [gene_column]
    else:
        raise ValueError(f"var has no column {gene_column!r}; it has the index and {', '.join(places)}.")
    named = {name: _names(var.index if name == "index" else var[places[name]]) for name in choices}
    types = expression_features(var, "var")
    reports = [index.report(names, column=column, types=types) for column, names in named.items()]
    best = max(reports, key=lambda report: len(report.genes))
    if not len(best.genes) or best.overlap < min_overlap:
        raise ValueError(_refusal(best, index, choices, min_overlap))
    return best


def _index_of(vocabulary: Any, aliases: AliasTable | None) -> GeneIndex:
    index = getattr(vocabulary, "gene_index", None)
    if index is None:
        return GeneIndex(vocabulary, aliases)
    return index if aliases is None else index.with_aliases(aliases)


def _refusal(report: GeneReport, index: GeneIndex, choices: Sequence[str], min_overlap: float) -> str:
    known = set(report.genes.tolist())
    others = [gene for row, gene in enumerate(index.genes) if row not in known]
    source = f"looked at {', '.join(choices)}; best: {report.column}" if len(choices) > 1 else f"looked at {choices[0]}"
    lines = [
        f"Only {len(report.genes):,} of the dataset's {report.dataset_genes:,} genes are among the vocabulary's "
        f"{report.vocabulary_size:,} ({source}). "
        f"That is an overlap of {report.overlap:.1%}, and min_overlap is {min_overlap:.0%}.",
        f"  the dataset has, for instance:    {_shortened(report.missing)}",
        f"  the vocabulary has, for instance: {_shortened(others)}",
    ]
    if report.near:
        pairs = [f"{name} / {gene}" for name, gene in report.near.items()]
        lines.append(f"  {len(pairs):,} names differ in case only ({_shortened(pairs, 3)}): another species?")
    if any(map(is_ensembl_id, report.missing)) != any(map(is_ensembl_id, others)):
        lines.append("  One side uses Ensembl ids, the other symbols: choose another column with gene_column, or")
        lines.append(
            "  give the model a table of both with `state-hf genes import FILE --output MODEL/gene_aliases.tsv`."
        )
    return "\n".join(lines)
