"""Take the medians that a tokenizer of ranks divides by over your own cells, and write the tokenizer.

A median is of a gene's non-zero counts per 10,000. The manifest is that of `state-hf pretrain`. The folder holds
genes.txt and gene_medians.tsv, and is what `state-hf pretrain --tokenizer` makes a new model for.

examples:
  state-hf medians corpus.csv --family geneformer --output tokenizer
  state-hf medians atlas.csv --tokenizer geneformer-v2 --keep-former --output tokenizer
"""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf medians`."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="table of the files, .csv or .tsv")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the tokenizer")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished search")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted search")
    parser.add_argument("--tokenizer", metavar="M", help="model or tokenizer whose vocabulary and options stay")
    parser.add_argument("--family", metavar="NAME", help="instead, the family of a new one, with the files' genes")
    parser.add_argument(
        "--passes", type=int, default=3, metavar="N",
        help="how often cells are read: 1 for an error of at most 1/128, 2 for 2^-16, 3 for none (default: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--min-cells", type=int, default=1, metavar="N", help="a gene of fewer cells has no median (default: 1)"
    )
    parser.add_argument(
        "--keep-former", action="store_true", help="such genes keep the median that the given tokenizer has"
    )
    parser.add_argument("--max-length", type=int, metavar="N", help="most tokens of a cell (default: given, or 4096)")
    parser.add_argument("--min-overlap", type=float, default=0.3, metavar="F", help="smallest share of genes (0.3)")


def run(arguments: argparse.Namespace) -> int:
    """Fit, and print what was found."""
    from state_hf.pipelines.medians import fit_medians

    options = vars(arguments).copy()
    manifest, output = options.pop("manifest"), options.pop("output")
    fitted = fit_medians(manifest, output, **options)
    print(fitted)
    print(f"Wrote {output}: a {type(fitted.tokenizer).__name__} with {len(fitted.tokenizer.genes):,} genes")
    return 0
