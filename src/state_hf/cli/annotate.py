"""Label the cells of a file by a labelled reference, or by a trained classifier.

by the nearest cells of a reference, in the embedding of a model of any family that reads cells:
  state-hf annotate cells.h5ad --model SE-600M --reference atlas.h5ad --label-key cell_type --output labelled.h5ad

by a head that is trained on the reference (in seconds: the encoder stays as it is), and again without the reference:
  state-hf annotate cells.h5ad --model SE-600M --reference atlas.h5ad --fit-head classifier --output labels.csv
  state-hf annotate others.h5ad --model classifier --output labels.csv

by what a language model answers, of a family whose processor reads cells as text:
  state-hf annotate cells.h5ad --model c2s --labels types.txt --output labels.csv

Cells that fit no label are "unknown": too few votes or too low a probability, or too far from the reference, or an
answer that is none of the labels.
"""

import argparse
from pathlib import Path

from state_hf.cli.cell_options import add_computing_options, add_reading_options
from state_hf.cli.library_log import told_on_stderr
from state_hf.data.cells.locations import CELL_FORMATS, as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf annotate`."""
    parser.add_argument("data", type=as_location, metavar="IN", help=f"cells: {CELL_FORMATS}")
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of a model")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help=".csv table, or .h5ad/.zarr copy")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished run")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep a complete output")

    labels = parser.add_argument_group("where labels come from")
    labels.add_argument("--reference", type=as_location, metavar="FILE", help="labelled cells, likewise")
    labels.add_argument("--label-key", default="cell_type", metavar="NAME", help="its column of obs (cell_type)")
    labels.add_argument("--neighbours", type=int, default=15, metavar="N", help="reference cells that vote (15)")
    labels.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="of a language model: what its answers are taken for, one a line (default: as it was saved)",
    )
    labels.add_argument(
        "--unknown-threshold",
        type=float,
        metavar="F",
        help="share of votes or probability needed; 0 for never unknown (default: 0.5; of answers, 0)",
    )
    labels.add_argument(
        "--distance-quantile",
        type=float,
        default=0.999,
        metavar="F",
        help="farther from the reference than this quantile of its own cells is unknown; 1 for no limit (0.999)",
    )
    labels.add_argument(
        "--fit-head", type=Path, metavar="DIR", help="train a classifier on the reference, save it here"
    )
    add_reading_options(parser)
    add_computing_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Annotate, and print how many cells have each label."""
    from state_hf.pipelines.annotate import annotate

    with told_on_stderr():
        options = vars(arguments).copy()
        table = annotate(options.pop("data"), options.pop("output"), **options)
    counts = table.iloc[:, 0].value_counts()
    width = max(map(len, map(str, counts.index)))
    for label, number in counts.items():
        print(f"{label:<{width}}  {number:>9,}  {number / len(table):6.1%}")
    return 0
