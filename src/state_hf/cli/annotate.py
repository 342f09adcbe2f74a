"""Label the cells of a file by a labelled reference, or by a trained classifier.

by the nearest cells of a reference, in the embedding of a State Embedding model:
  state-hf annotate cells.h5ad --model SE-600M --reference atlas.h5ad --label-key cell_type --output labelled.h5ad

by a head that is trained on the reference (in seconds: the encoder stays as it is), and again without the reference:
  state-hf annotate cells.h5ad --model SE-600M --reference atlas.h5ad --fit-head classifier --output labels.csv
  state-hf annotate others.h5ad --model classifier --output labels.csv

Cells that fit no label are "unknown": too few votes or too low a probability, or too far from the reference.
"""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf annotate`."""
    parser.add_argument("data", type=Path, metavar="IN", help=".h5ad file or .zarr store")
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of a model")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help=".csv table, or .h5ad/.zarr copy")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="labelled .h5ad file or .zarr store")
    parser.add_argument("--label-key", default="cell_type", metavar="NAME", help="its column of obs (cell_type)")
    parser.add_argument("--neighbours", type=int, default=15, metavar="N", help="reference cells that vote (15)")
    parser.add_argument(
        "--unknown-threshold", type=float, metavar="F", help="share of votes or probability needed (default: 0.5)"
    )
    parser.add_argument(
        "--distance-quantile", type=float, default=0.999, metavar="F",
        help="farther from the reference than this quantile of its own cells is unknown; 1 for no limit (0.999)",
    )  # fmt: skip
    parser.add_argument(
        "--fit-head", type=Path, metavar="DIR", help="train a classifier on the reference, save it here"
    )
    parser.add_argument("--input-type", choices=("counts", "log1p", "auto"), default="counts", help="scale (counts)")


def run(arguments: argparse.Namespace) -> None:
    """Annotate, and print how many cells have each label."""
    from state_hf.pipelines.annotate import annotate

    options = vars(arguments).copy()
    table = annotate(options.pop("data"), options.pop("output"), **options)
    counts = table.iloc[:, 0].value_counts()
    width = max(map(len, map(str, counts.index)))
    for label, number in counts.items():
        print(f"{label:<{width}}  {number:>9,}  {number / len(table):6.1%}")
