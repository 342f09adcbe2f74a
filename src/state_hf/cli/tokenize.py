"""Write a tokenised Parquet copy of the files of a manifest: one row a cell, its genes as numbers of the vocabulary.

`datasets.load_dataset("parquet", data_dir=DIR)` reads it. state-hf itself trains on the files as they are.

example:
  state-hf tokenize corpus.csv --model SE-600M --output tokenised
"""

import argparse
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf tokenize`."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="table of the files, .csv or .tsv")
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of the model with the vocabulary")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the Parquet files")
    parser.add_argument("--overwrite", action="store_true", help="write files that exist anew")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep its files")
    parser.add_argument("--min-overlap", type=float, default=0.3, metavar="F", help="smallest share of genes (0.3)")


def run(arguments: argparse.Namespace) -> None:
    """Write, and print what was written."""
    from transformers import AutoTokenizer

    from state_hf.configuration.model_folders import loading_from
    from state_hf.pipelines.tokenize import tokenize

    with loading_from(arguments.model):
        tokenizer: Any = AutoTokenizer.from_pretrained(arguments.model, trust_remote_code=False)
    paths = tokenize(
        arguments.manifest,
        arguments.output,
        tokenizer,
        min_overlap=arguments.min_overlap,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
    )
    sizes = [path.stat().st_size / 1e6 for path in paths]
    for path, size in zip(paths, sizes, strict=True):
        print(f"{path}  {size:,.1f} MB")
    print(f"Wrote {arguments.output}: {len(paths):,} files of cells, {sum(sizes):,.1f} MB, corpus.csv and genes.txt")
