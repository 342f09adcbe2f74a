"""Make the gene alias table of a model folder from a file of gene names.

With the table beside it, a model knows genes by Ensembl id, alias or previous symbol too. The file may be HGNC's
complete set, a GENCODE or Ensembl GTF, or any tab-separated table with a header, gzip-compressed or not:

  state-hf genes import hgnc_complete_set.txt --output my-model/gene_aliases.tsv
  state-hf genes import gencode.v49.annotation.gtf.gz --output my-model/gene_aliases.tsv
  state-hf genes import orthologues.tsv --symbol-column human --alias-column mouse --output my-model/gene_aliases.tsv
"""

import argparse
from collections import Counter
from pathlib import Path

from state_hf.tokenization.gene_aliases import GeneAlias, read_gene_aliases, write_gene_aliases


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    command = parser.add_subparsers(dest="action", required=True, metavar="import").add_parser(
        "import", help="read a file of gene names and write gene_aliases.tsv"
    )
    command.add_argument("file", type=Path, help="HGNC complete set, GTF, or table with a header; .gz too")
    command.add_argument("--output", type=Path, required=True, help="the table to write: MODEL/gene_aliases.tsv")
    command.add_argument("--symbol-column", help="column of a plain table with the gene symbols")
    command.add_argument("--alias-column", help="column of a plain table with the other names")


def run(arguments: argparse.Namespace) -> None:
    """Read the file, write the table, say what it holds."""
    aliases = read_gene_aliases(
        arguments.file, symbol_column=arguments.symbol_column, alias_column=arguments.alias_column
    )
    if not arguments.output.parent.is_dir():
        raise ValueError(f"There is no folder {arguments.output.parent} to write {arguments.output.name} into.")
    write_gene_aliases(aliases, arguments.output)
    print(f"{arguments.output}: {_summary(aliases)}")
    vocabulary = arguments.output.with_name("genes.txt")
    if vocabulary.is_file():
        genes = vocabulary.read_text(encoding="utf-8").split()
        known = {name for entry in aliases for name in (entry.alias, entry.symbol)}
        print(f"{sum(gene in known for gene in genes):,} of the {len(genes):,} genes in {vocabulary} are among them")


def _summary(aliases: list[GeneAlias]) -> str:
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(Counter(entry.kind for entry in aliases).items()))
    return f"{len(aliases):,} names ({kinds}) of {len({entry.symbol for entry in aliases}):,} genes"
