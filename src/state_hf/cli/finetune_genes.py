"""Fine-tune a model to tell classes of genes apart from their contexts in cells, held out gene by gene.

The table has the columns gene and label, and maybe group, whose genes stay on one side of the split. The folder
receives the classifier of all labelled genes, the scores of held-out genes beside those of simple models with the same
folds, and every gene's prediction: a labelled one's by the model that has not seen it.

example:
  state-hf finetune-genes cells.h5ad --model geneformer --gene-labels dosage.tsv --output dosage
"""

import argparse
from pathlib import Path

from state_hf.cli.cell_options import add_reading_options, natural
from state_hf.cli.library_log import told_on_stderr
from state_hf.data.cells.locations import CELL_FORMATS, as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf finetune-genes`."""
    parser.add_argument(
        "cells", type=as_location, metavar="CELLS", help=f"cells that express the genes: {CELL_FORMATS}"
    )
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of the model to start from")
    parser.add_argument("--gene-labels", required=True, type=Path, metavar="TABLE", help=".csv or .tsv: gene, label")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the fine-tuned model")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished run")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep finished folds")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="how often genes are held out (default: 5)")
    parser.add_argument("--max-cells", type=int, default=10_000, metavar="N", help="cells at most (default: 10,000)")
    parser.add_argument(
        "--no-class-weights",
        dest="class_weights",
        action="store_false",
        help="let large classes weigh more (default: every class weighs the same)",
    )

    training = parser.add_argument_group("how it is trained")
    training.add_argument(
        "--trained",
        choices=("all", "last", "head", "lora"),
        default="last",
        help="all weights, the last layers and the head, the head alone, or low-rank changes (default: last)",
    )
    training.add_argument("--layers", type=int, default=2, metavar="N", help="how many last layers (default: 2)")
    training.add_argument("--lora-rank", type=int, default=8, metavar="R", help="rank of the changes (default: 8)")
    training.add_argument("--epochs", type=float, default=1, metavar="N", help="passes over the cells (default: 1)")
    training.add_argument(
        "--learning-rate",
        type=float,
        metavar="R",
        help="of AdamW (default: 5e-5 for all weights, 1e-4 last, 1e-3 head, 3e-4 lora)",
    )
    training.add_argument("--batch-size", type=int, default=12, metavar="N", help="cells a step (default: 12)")
    training.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    training.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu even if there is a GPU")
    training.add_argument("--seed", type=natural, default=0, help="of folds, drawn cells, heads and order (default: 0)")
    add_reading_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, and print the scores."""
    from state_hf.pipelines.finetune_genes import finetune_genes

    options = vars(arguments).copy()
    cells, output = options.pop("cells"), options.pop("output")
    with told_on_stderr():
        tuned = finetune_genes(cells, output, **options)
    print(tuned)
    print(f"Wrote {output}: a classifier of genes, and the predictions of {len(tuned.predictions):,}")
    return 0
