"""Check the files of a manifest before a model trains on them, and print what they hold.

For each file: cells, genes and those that the vocabulary has, the scale (held against every value), the median number
of expressed genes, cells without any, and cells that occur twice. The exit status is 2 if a file cannot be trained on.

example:
  state-hf corpus corpus.csv --model SE-600M
"""

import argparse
from pathlib import Path
from typing import Any

from state_hf.configuration.advice import refuse_existing


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf corpus`."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="table of the files, .csv or .tsv")
    parser.add_argument("--model", metavar="M", help="folder or hub id whose vocabulary counts (default: all genes)")
    parser.add_argument("--min-overlap", type=float, default=0.3, metavar="F", help="smallest share of genes (0.3)")
    parser.add_argument("--table", type=Path, metavar="CSV", help="write the table here too")
    parser.add_argument("--overwrite", action="store_true", help="replace a table that exists")


def run(arguments: argparse.Namespace) -> int:
    """Check, and print the table."""
    from transformers import AutoTokenizer

    from state_hf.configuration.model_folders import loading_from
    from state_hf.data.corpus.corpus_files import corpus_genes
    from state_hf.data.corpus.corpus_manifest import read_manifest
    from state_hf.data.corpus.corpus_report import check_corpus
    from state_hf.data.whole_files import written_whole
    from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer

    if arguments.table is not None:
        refuse_existing(arguments.table, overwrite=arguments.overwrite)
    files = read_manifest(arguments.manifest)
    tokenizer: Any
    if arguments.model is None:
        tokenizer = StateEmbeddingTokenizer(corpus_genes(files))
    else:
        with loading_from(arguments.model):
            tokenizer = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=False)
    table = check_corpus(files, tokenizer, min_overlap=arguments.min_overlap)
    shown = table.assign(path=[Path(path).name for path in table["path"]]).drop(columns="problem")
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    good = table[table["problem"] == ""]
    print(
        f"\n{len(good):,} of {len(table):,} files, {good['dataset'].nunique():,} datasets, "
        f"{good['cells'].sum():,} cells, "
        f"{good['empty_cells'].sum():,} of them empty, {good['duplicate_cells'].sum():,} twice"
    )
    for path, problem in table.loc[table["problem"] != "", ["path", "problem"]].itertuples(index=False):
        print(f"\n{path} cannot be trained on: {problem}")
    if arguments.table is not None:
        with written_whole(arguments.table) as temporary:
            table.to_csv(temporary, index=False)
        print(f"\nWrote {arguments.table}: {len(table):,} files")
    return 0 if len(good) == len(table) else 2
