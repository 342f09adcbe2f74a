"""Embed the cells of .h5ad files (or .zarr stores) with a State Embedding model.

The input is never changed: an .h5ad or .zarr output is a copy of it with the embedding in obsm, and how it was made in
uns. Files are read in blocks, so memory does not grow with the number of cells, and an interrupted run goes on with
--resume.

example:
  state-hf embed cells.h5ad --model path/to/SE-600M --output cells_state.h5ad

several processes, one GPU each:
  accelerate launch --num_processes 4 -m state_hf embed cells.h5ad --model path/to/SE-600M --output cells_state.h5ad
"""

import argparse
import logging
import sys
from pathlib import Path

_LOGGER = logging.getLogger("state_hf")


def _batch_size(text: str) -> int | str:
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'auto' nor a whole number from 1 on")
    return text if text == "auto" else int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf embed`."""
    parser.add_argument(
        "input", nargs="+", type=Path, metavar="IN", help=".h5ad file, .zarr store, or folder of .h5ad files"
    )
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of a State Embedding model")
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

    cells = parser.add_argument_group("what is read")
    cells.add_argument("--layer", help="layer to read, or 'raw' (default: X)")
    cells.add_argument("--gene-column", metavar="NAME", help="column of var with the gene names (default: best match)")
    cells.add_argument(
        "--input-type",
        choices=("counts", "log1p", "auto"),
        default="counts",
        help="what the values are; 'auto' decides by a sample and says so (default: counts)",
    )
    cells.add_argument("--key", help="name of the new slot in obsm and uns (default: the family's, as X_state)")

    sentence = parser.add_argument_group("how cells become sentences")
    sentence.add_argument(
        "--fill",
        choices=("seeded", "original", "none"),
        help="what fills a sentence longer than a cell's expressed genes: unexpressed genes in a fixed order, in a "
        "random one for every cell like the original, or nothing, which is faster (default: as the model was trained)",
    )
    sentence.add_argument("--seed", type=_natural, default=0, help="seed of the filling (default: 0)")

    speed = parser.add_argument_group("how it is computed")
    speed.add_argument(
        "--batch-size", type=_batch_size, default="auto", metavar="N", help="cells at once (default: auto, by memory)"
    )
    speed.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision (default: the checkpoint's; on the CPU, float32)",
    )
    speed.add_argument("--device", help="cuda, cuda:1, mps, cpu, ... (default: the first of these that there is)")
    speed.add_argument(
        "--workers", type=_natural, default=1, metavar="N", help="threads that tokenize ahead of the model (default: 1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed, with the messages of the library on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    try:
        from state_hf.pipelines.embed import embed

        options = vars(arguments).copy()
        inputs = options.pop("input")
        embed(inputs[0] if len(inputs) == 1 else inputs, **options)
    finally:
        _LOGGER.removeHandler(handler)
    return 0
