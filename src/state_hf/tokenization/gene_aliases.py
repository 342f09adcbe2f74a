"""The alias table of a model folder, and the files it is made from: HGNC's complete set, GTF, or plain tables."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from state_hf.configuration.advice import Advised
from state_hf.tokenization.text_files import read_text, text_lines

_ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d{11})(\.\d+)?(_PAR_Y)?")
_SYMBOL_COLUMNS = ("symbol", "gene_symbol", "gene_name", "approved_symbol", "hgnc_symbol")


class GeneAlias(NamedTuple):
    """Another name of a gene: an alias, a previous symbol, or an Ensembl id."""

    alias: str
    symbol: str
    kind: str


def is_ensembl_id(name: str) -> bool:
    """Whether a name is an Ensembl gene id, with or without a version."""
    return _ENSEMBL_ID.fullmatch(name) is not None


def without_version(name: str) -> str:
    """The name, stripped of surrounding blanks and, if it is an Ensembl gene id, of its version: ENSG00000141510.17."""
    name = name.strip()
    match = _ENSEMBL_ID.fullmatch(name)
    return match.group(1) if match else name


class AliasTable:
    """Which names stand for the same gene, as written in a `gene_aliases.tsv`.

    Args:
        text: The file's content: tab-separated, with a header that has at least the columns `alias` and `symbol`.
        name: What the table is called in error messages.
    """

    def __init__(self, text: str, *, name: str = "gene_aliases.tsv") -> None:
        self.text = text
        self.name = name

    @classmethod
    def from_file(cls, path: str | Path) -> "AliasTable":
        """Read a `gene_aliases.tsv`. It is parsed when a name is first looked up."""
        return cls(read_text(Path(path)), name=str(path))

    @cached_property
    def _names(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        header, *lines = self.text.splitlines() or [""]
        fields = header.split("\t")
        if not {"alias", "symbol"} <= set(fields):
            raise ValueError(
                f"{self.name}: the first line has to name the columns 'alias' and 'symbol', but it is {header!r}. "
                "`state-hf genes import` writes such a file."
            )
        alias_at, symbol_at = fields.index("alias"), fields.index("symbol")
        symbols: dict[str, list[str]] = defaultdict(list)
        aliases: dict[str, list[str]] = defaultdict(list)
        for number, line in enumerate(lines, start=2):
            values = line.split("\t")
            if len(values) != len(fields):
                raise ValueError(f"{self.name}, line {number}: {len(values)} fields, but the header has {len(fields)}.")
            symbols[values[alias_at]].append(values[symbol_at])
            aliases[values[symbol_at]].append(values[alias_at])
        return dict(symbols), dict(aliases)

    def is_symbol(self, name: str) -> bool:
        """Whether a name is a current symbol."""
        return name in self._names[1]

    def known_as(self, name: str, vocabulary: dict[str, int]) -> list[str]:
        """The names in the vocabulary that stand for the same gene as `name`, without `name` itself.

        A current symbol is never read as another gene's alias, on either side. Several results mean that the name is
        ambiguous.
        """
        symbols, aliases = self._names
        current = [name] if name in aliases else symbols.get(name, [])
        direct = {symbol for symbol in current if symbol in vocabulary}
        others = {alias for symbol in current for alias in aliases[symbol] if alias not in aliases}
        found = direct or {alias for alias in others if alias in vocabulary}
        return sorted(found - {name})


def _from_hgnc(rows: Iterable[dict[str, str]]) -> Iterator[GeneAlias]:
    for row in rows:
        if row.get("status", "Approved") != "Approved":
            continue
        for column, kind in (("alias_symbol", "alias"), ("prev_symbol", "previous"), ("ensembl_gene_id", "ensembl_id")):
            for alias in (row.get(column) or "").split("|"):
                yield GeneAlias(alias.strip(), row["symbol"], kind)


def _from_gtf(lines: Iterable[str]) -> Iterator[GeneAlias]:
    for line in lines:
        fields = line.rstrip("\n").split("\t")
        if line.startswith("#") or len(fields) != 9 or fields[2] != "gene":
            continue
        attributes = dict(re.findall(r'(gene_id|gene_name) "([^"]*)"', fields[8]))
        if {"gene_id", "gene_name"} <= attributes.keys():
            yield GeneAlias(without_version(attributes["gene_id"]), attributes["gene_name"], "ensembl_id")


def _from_table(
    path: Path,
    rows: Iterable[dict[str, str]],
    columns: Sequence[str],
    symbol_column: str | None,
    alias_column: str | None,
) -> Iterator[GeneAlias]:
    symbol = symbol_column or next((column for column in columns if column.lower() in _SYMBOL_COLUMNS), None)
    others = [column for column in columns if column != symbol]
    alias = alias_column or ("alias" if "alias" in others else others[0] if len(others) == 1 else None)
    for column, what, argument in ((symbol, "gene symbols", "symbol_column"), (alias, "aliases", "alias_column")):
        if column not in columns:
            wanted = f"there is no column {column!r}" if column else f"which column holds the {what} is not clear"
            problem = f"{path}: {wanted} (there are {', '.join(columns)})"
            raise ValueError(Advised(problem, f"name it ({argument}=...)"))
    for row in rows:
        name = without_version(row[alias] or "")  # type: ignore[index]
        yield GeneAlias(name, (row[symbol] or "").strip(), "ensembl_id" if is_ensembl_id(name) else "alias")  # type: ignore[index]


def read_gene_aliases(
    path: str | Path, *, symbol_column: str | None = None, alias_column: str | None = None
) -> list[GeneAlias]:
    """Read the aliases of genes from a file, gzip-compressed or not.

    Args:
        path: HGNC's complete set (TSV), a GENCODE or Ensembl GTF, or any tab-separated table with a header that has
            a column of symbols and one of other names. What it is, is read off its content.
        symbol_column: The column of a plain table that holds the symbols; by default one of the usual names.
        alias_column: The column of a plain table that holds the other names; by default `alias`, or the only other one.

    Returns:
        The aliases, sorted, without repetitions and without names that stand for themselves.

    Raises:
        ValueError: If the file is none of these, or holds no alias.
    """
    path = Path(path)
    with text_lines(path) as lines:
        first = next((line for line in lines if not line.startswith("#")), "")
        columns = first.rstrip("\r\n").split("\t")
        if len(columns) == 9 and "gene_id" in columns[8]:
            found: Iterator[GeneAlias] = _from_gtf(lines)
        elif len(columns) > 1:
            rows = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")
            if {"symbol", "alias_symbol", "prev_symbol"} <= set(columns) and not (symbol_column or alias_column):
                found = _from_hgnc(rows)
            else:
                found = _from_table(path, rows, columns, symbol_column, alias_column)
        else:
            raise ValueError(
                f"{path} is neither a GTF nor a tab-separated table with a header; it starts with {first!r}."
            )
        aliases = sorted({entry for entry in found if entry.alias and entry.symbol and entry.alias != entry.symbol})
    if not aliases:
        raise ValueError(f"{path} holds no other name of any gene.")
    return aliases


def write_gene_aliases(aliases: Iterable[GeneAlias], path: str | Path) -> None:
    """Write aliases as the `gene_aliases.tsv` of a model folder; an existing file is replaced in one step."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    lines = ["\t".join(GeneAlias._fields), *("\t".join(entry) for entry in aliases)]
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)
