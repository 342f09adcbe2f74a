"""Let a language model write cells of given types, as an .h5ad file.

The model is one of a family whose processor reads cells as text. It writes the names of a cell's genes, the most
expressed first; a line over their ranks turns them into log1p expression. Every cell keeps what was written, how many
words were no gene, and how likely the model thinks the whole; how all of it was made is in uns.

examples:
  state-hf generate --model c2s --cell-type "B cell" --cells 200 --output made.h5ad
  state-hf generate --model c2s --cell-type "B cell" "NK cell" --cells 200 50 --reference cells.h5ad --output made.h5ad
"""

import argparse
from pathlib import Path

from state_hf.cli.cell_options import batch_size, natural
from state_hf.cli.library_log import told_on_stderr
from state_hf.data.cells.locations import as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf generate`."""
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of a language model")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help=".h5ad file to write")
    parser.add_argument(
        "--cell-type", required=True, nargs="+", metavar="TYPE", help="types, in the words that the model learnt"
    )
    parser.add_argument(
        "--cells", type=natural, nargs="+", default=100, metavar="N", help="cells of all types, or of each (100)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished run")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep a complete output")

    text = parser.add_argument_group("what is written")
    text.add_argument("--num-genes", type=natural, metavar="N", help="genes of a cell (default: as it was saved)")
    text.add_argument("--temperature", type=float, default=1.0, metavar="T", help="0: always the most likely (1.0)")
    text.add_argument("--top-k", type=natural, default=50, metavar="K", help="most tokens to draw from; 0 for all (50)")
    text.add_argument("--top-p", type=float, default=0.95, metavar="P", help="their probability together (0.95)")
    text.add_argument("--max-new-tokens", type=natural, metavar="N", help="most tokens of a cell (default: by names)")
    text.add_argument("--seed", type=natural, default=0, help="of the draws (default: 0)")
    text.add_argument(
        "--reference",
        type=as_location,
        metavar="FILE",
        help="cells with raw counts, for the line of expression over ranks (default: the model's)",
    )

    speed = parser.add_argument_group("how it is computed")
    speed.add_argument(
        "--batch-size", type=batch_size, default="auto", metavar="N", help="cells at once (default: auto, by memory)"
    )
    speed.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision (default: the checkpoint's; on the CPU, float32)",
    )
    speed.add_argument("--device", help="cuda, cuda:1, mps, cpu, ... (default: the first of these that there is)")


def run(arguments: argparse.Namespace) -> int:
    """Write the cells, with the messages of the library on standard error."""
    with told_on_stderr():
        from state_hf.pipelines.generate import generate

        options = vars(arguments).copy()
        generate(options.pop("model"), options.pop("output"), **options)
    return 0
