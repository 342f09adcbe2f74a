"""Make the gene alias table of a model folder from a file of gene names, or give a model more genes.

With the table beside it, a model knows genes by Ensembl id, alias or previous symbol too. The file may be HGNC's
complete set, a GENCODE or Ensembl GTF, or any tab-separated table with a header, gzip-compressed or not:

  state-hf genes import hgnc_complete_set.txt --output my-model/gene_aliases.tsv
  state-hf genes import gencode.v49.annotation.gtf.gz --output my-model/gene_aliases.tsv
  state-hf genes import orthologues.tsv --symbol-column human --alias-column mouse --output my-model/gene_aliases.tsv

A gene table (state-hf embed-genes) adds genes to a State Embedding model, or takes the place of its own:

  state-hf genes extend my-model mouse-genes --output my-model-with-mouse
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from state_hf.configuration.advice import refuse_existing
from state_hf.tokenization.gene_aliases import GeneAlias, read_gene_aliases, write_gene_aliases


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="import|extend")
    command = commands.add_parser("import", help="read a file of gene names and write gene_aliases.tsv")
    command.add_argument("file", type=Path, help="HGNC complete set, GTF, or table with a header; .gz too")
    command.add_argument("--output", type=Path, required=True, help="the table to write: MODEL/gene_aliases.tsv")
    command.add_argument("--overwrite", action="store_true", help="replace a table that exists")
    command.add_argument("--symbol-column", help="column of a plain table with the gene symbols")
    command.add_argument("--alias-column", help="column of a plain table with the other names")
    command.set_defaults(action=_import)
    command = commands.add_parser("extend", help="write a copy of a model that knows the genes of a table")
    command.add_argument("model", help="folder or hub id of a State Embedding model")
    command.add_argument("table", help="folder or hub id of a gene table, or protein_embeddings.pt of the original")
    command.add_argument("--output", type=Path, required=True, help="folder to write")
    command.add_argument("--overwrite", action="store_true", help="replace a folder that exists")
    command.add_argument("--replace", action="store_true", help="leave out the model's own genes")
    command.set_defaults(action=_extend)


def run(arguments: argparse.Namespace) -> None:
    """Do what was asked for, and say what came of it."""
    arguments.action(arguments)


def _extend(arguments: argparse.Namespace) -> None:
    from transformers import AutoModelForPreTraining, AutoTokenizer

    from state_hf.configuration.model_folders import loading_from
    from state_hf.data.whole_files import folder_written_whole
    from state_hf.gene_embeddings.gene_table import load_gene_table
    from state_hf.gene_embeddings.model_tables import extend_gene_table

    refuse_existing(arguments.output, overwrite=arguments.overwrite)
    table = load_gene_table(arguments.table)
    with loading_from(arguments.model):
        model, loading = AutoModelForPreTraining.from_pretrained(
            arguments.model, output_loading_info=True, trust_remote_code=False
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=False)
    # A checkpoint without the heads is to stay one.
    if any(key.startswith("expression_decoder.") for key in loading["missing_keys"]):
        model = model.base_model
    extended = extend_gene_table(model, tokenizer, table, replace=arguments.replace)
    with folder_written_whole(arguments.output, overwrite=arguments.overwrite) as unfinished:
        model.save_pretrained(unfinished)
        extended.save_pretrained(unfinished)
    print(f"Wrote {arguments.output}: {extended.vocab_size:,} genes; the model had {tokenizer.vocab_size:,}")


def _import(arguments: argparse.Namespace) -> None:
    """Read the file, write the table, say what it holds."""
    refuse_existing(arguments.output, overwrite=arguments.overwrite)
    aliases = read_gene_aliases(
        arguments.file, symbol_column=arguments.symbol_column, alias_column=arguments.alias_column
    )
    if not arguments.output.parent.is_dir():
        raise ValueError(f"There is no folder {arguments.output.parent} to write {arguments.output.name} into.")
    write_gene_aliases(aliases, arguments.output)
    vocabulary = arguments.output.with_name("genes.txt")
    if vocabulary.is_file():
        genes = vocabulary.read_text(encoding="utf-8").split()
        known = {name for entry in aliases for name in (entry.alias, entry.symbol)}
        print(f"{sum(gene in known for gene in genes):,} of the {len(genes):,} genes in {vocabulary} are among them")
    print(f"Wrote {arguments.output}: {_summary(aliases)}")


def _summary(aliases: list[GeneAlias]) -> str:
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(Counter(entry.kind for entry in aliases).items()))
    return f"{len(aliases):,} names ({kinds}) of {len({entry.symbol for entry in aliases}):,} genes"
