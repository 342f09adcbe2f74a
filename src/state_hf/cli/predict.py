r"""Predict perturbed cells from control cells, with a State Transition model or a baseline.

By default the groups of perturbed cells in the file are predicted, as many cells as it has; the control cells of each
cell type are what the model starts from, and are written too, as scorers need them.

examples:
  state-hf predict screen.h5ad --model model --output predicted.h5ad
  state-hf predict controls.h5ad --model model --all-perturbations --cells 400 --output predicted.h5ad
  state-hf predict controls.h5ad --model model --table wanted.tsv \
    --emit counts --counts-slot layers/counts --output p.h5ad
"""

import argparse
from pathlib import Path

from state_hf.data.cells.locations import CELL_FORMATS, as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf predict`."""
    parser.add_argument("input", type=as_location, metavar="IN", help=f"control cells: {CELL_FORMATS}")
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help=".h5ad, or .npy for the bare matrix")
    parser.add_argument(
        "--profiles",
        type=Path,
        metavar="FILE",
        help=".parquet for the predicted mean cells, with standard errors and 95%% intervals",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")

    what = parser.add_argument_group("what is predicted")
    wanted = what.add_mutually_exclusive_group()
    wanted.add_argument("--perturbations", nargs="+", metavar="NAME", help="names; A+B is a combination")
    wanted.add_argument("--all-perturbations", action="store_true", help="all that the model knows")
    wanted.add_argument(
        "--table", type=Path, metavar="FILE", help=".tsv or .csv with the columns perturbation, cells[, cell_type]"
    )
    what.add_argument("--cells", type=int, metavar="N", help="cells of each, where file and table do not say")
    what.add_argument("--min-cells", type=int, metavar="N", help="at least so many of each")
    what.add_argument("--max-cells", type=int, metavar="N", help="at most so many of each")
    what.add_argument("--cell-types", nargs="+", metavar="NAME", help="cell types (default: all of the file)")
    what.add_argument(
        "--on-unknown",
        choices=("error", "control"),
        default="error",
        help="what to do with a perturbation that the model does not know (default: error)",
    )

    labels = parser.add_argument_group("what the file holds")
    labels.add_argument("--perturbation-key", default="perturbation", metavar="NAME", help="column of obs")
    labels.add_argument("--control", metavar="LABEL", help="label of control cells (default: the model's)")
    labels.add_argument("--cell-type-key", default="cell_type", metavar="NAME", help="column of obs")
    labels.add_argument("--batch-key", metavar="NAME", help="column of obs")
    labels.add_argument(
        "--distinct-case", action="store_true", help="labels that differ in upper and lower case are different things"
    )
    labels.add_argument("--feature-key", metavar="NAME", help="X, a key of obsm, or layers/NAME (default: the model's)")
    labels.add_argument(
        "--perturbation-features",
        type=Path,
        metavar="FILE",
        help="of further perturbations, if it reads features (default: those that it trained with)",
    )
    labels.add_argument("--expression-slot", default="X", metavar="SLOT", help="of control cells, if genes are decoded")

    written = parser.add_argument_group("what is written")
    written.add_argument(
        "--emit",
        choices=("model", "tilted", "counts"),
        help="the model's cells, control cells tilted to the mean that is predicted, or counts (default: tilted for a "
        "model with a mixed model of its screen, as `train` makes them, and model for others)",
    )
    written.add_argument("--depth", type=int, metavar="N", help="counts of a cell (default: its control cell's)")
    written.add_argument("--counts-slot", metavar="SLOT", help="raw counts of the control cells: X or layers/NAME")
    written.add_argument(
        "--controls",
        choices=("real", "simulated", "none"),
        default="real",
        help="control cells to write: those of the file, or as the model simulates them (default: real)",
    )

    computed = parser.add_argument_group("how it is computed")
    computed.add_argument("--batch-size", type=int, default=8, metavar="N", help="sets at once (default: 8)")
    computed.add_argument("--device", help="cuda, cpu, ... (default: a GPU if there is one)")
    computed.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Predict, and say what was written."""
    from state_hf.data.screens.prediction_record import describe_predictions
    from state_hf.pipelines.predict import predict

    options = vars(arguments).copy()
    named, everything, table = (options.pop(name) for name in ("perturbations", "all_perturbations", "table"))
    perturbations = "all" if everything else named or table
    path = predict(options.pop("input"), options.pop("model"), perturbations, **options)
    print(f"Wrote {describe_predictions(path)}")
    if arguments.profiles is not None:
        print(f"Wrote {arguments.profiles}: the mean cells and their errors")
    return 0
