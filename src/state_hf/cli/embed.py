"""Embed the cells of .h5ad files (or .zarr stores) with a model of any family that reads cells.

The input is never changed: an .h5ad or .zarr output is a copy of it with the embedding in obsm, and how it was made in
uns. Files are read in blocks, so memory does not grow with the number of cells, and an interrupted run goes on with
--resume.

example:
  state-hf embed cells.h5ad --model path/to/SE-600M --output cells_state.h5ad

several processes, one GPU each:
  accelerate launch --num_processes 4 -m state_hf embed cells.h5ad --model path/to/SE-600M --output cells_state.h5ad
"""

import argparse
from pathlib import Path

from state_hf.cli.cell_options import add_computing_options, add_reading_options
from state_hf.cli.library_log import told_on_stderr
from state_hf.data.cells.locations import CELL_FORMATS, as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf embed`."""
    parser.add_argument(
        "input", nargs="+", type=as_location, metavar="IN", help=f"cells: {CELL_FORMATS}; or a folder of .h5ad files"
    )
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of a model")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="OUT",
        help="file ending in .h5ad, .zarr, .npy or .parquet; for several inputs or a folder, a folder",
    )
    parser.add_argument(
        "--format", choices=("h5ad", "zarr", "npy", "parquet"), help="of the files in an output folder (default: h5ad)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished run")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep complete outputs")

    reading = add_reading_options(parser)
    reading.add_argument("--key", help="name of the new slot in obsm and uns (default: the family's, as X_state)")
    add_computing_options(parser)
    parser.add_argument(
        "--hidden-layer",
        type=int,
        default=-1,
        metavar="N",
        help="of a family on a stock model: the hidden states that cells are pooled from, -1 the last (default), -2 "
        "the one before",
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed, with the messages of the library on standard error."""
    with told_on_stderr():
        from state_hf.pipelines.embed import embed

        options = vars(arguments).copy()
        inputs = options.pop("input")
        embed(inputs[0] if len(inputs) == 1 else inputs, **options)
    return 0
