"""Perturb genes in silico in the cells of a file: how far do the cells move in a model's view?

every gene that the cells express, deleted one by one, beside random genes of like expression:
  state-hf perturb cells.h5ad --model geneformer --output effects.parquet --report effects.html

some genes and groups, in cells of one type, with the effects on every other gene:
  state-hf perturb cells.h5ad --model geneformer --where "cell_type=T cell" --genes STAT1 IRF1 STAT1+IRF1 \\
      --gene-output affected.parquet --output effects.parquet

from one state towards another:
  state-hf perturb cells.h5ad --model geneformer --state-key disease --start dilated --goal healthy \\
      --output effects.parquet

what it would take:
  state-hf perturb cells.h5ad --model geneformer --output effects.parquet --plan

An interrupted run goes on with --resume; accelerate launch -m state_hf perturb ... shares the cells over processes.
"""

import argparse
from pathlib import Path
from typing import Any

from state_hf.cli.cell_options import add_computing_options, add_reading_options, chosen_values, natural
from state_hf.cli.library_log import told_on_stderr
from state_hf.data.cells.locations import CELL_FORMATS, as_location
from state_hf.tokenization.gene_changes import GENE_CHANGES


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf perturb`."""
    parser.add_argument("data", type=as_location, metavar="IN", help=f"cells: {CELL_FORMATS}")
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of a model")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="OUT", help=".parquet: a row for every perturbation and group"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished run")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep a complete output")
    parser.add_argument("--plan", action="store_true", help="measure, print what the run would take, and stop")
    parser.add_argument("--report", type=Path, metavar="HTML", help="also write one page to look at")
    parser.add_argument(
        "--gene-output", type=Path, metavar="OUT", help=".parquet: also the effects on every other gene"
    )

    genes = parser.add_argument_group("what is perturbed")
    genes.add_argument("--change", choices=GENE_CHANGES, default="delete", help="what is done to genes (delete)")
    genes.add_argument(
        "--level",
        type=float,
        metavar="F",
        help="of --change level, in [0, 1]: where a gene stands afterwards among those that a cell expresses",
    )
    genes.add_argument(
        "--genes",
        nargs="+",
        metavar="GENE",
        help="genes, one by one; A+B for several together (default: all that the cells express)",
    )
    genes.add_argument("--gene-file", type=Path, metavar="FILE", help="more of them: .txt, one a line, or .gmt of sets")
    genes.add_argument("--anchor", metavar="GENE", help="a gene that each of the others is perturbed with, too")
    genes.add_argument(
        "--random-genes",
        type=natural,
        default=20,
        metavar="N",
        help="random perturbations of like expression that each is held against (20)",
    )

    cells = parser.add_argument_group("which cells")
    cells.add_argument(
        "--where", action="append", metavar="KEY=VALUE", help="cells with this value in this column of obs; repeatable"
    )
    cells.add_argument("--max-cells", type=int, metavar="N", help="so many of them at most, drawn")
    cells.add_argument("--group-key", metavar="NAME", help="column of obs: a row for each of its values")
    cells.add_argument("--state-key", metavar="NAME", help="column of obs with the states of cells")
    cells.add_argument("--start", metavar="STATE", help="the state of the cells that are perturbed")
    cells.add_argument("--goal", metavar="STATE", help="the state that perturbations are to lead to")
    cells.add_argument("--alternatives", nargs="+", default=(), metavar="STATE", help="other states")
    add_reading_options(parser)
    add_computing_options(parser)
    parser.add_argument(
        "--hidden-layer",
        type=int,
        default=-1,
        metavar="N",
        help="of a family on a stock model: the hidden states that are compared, -1 the last (default), -2 the one "
        "before",
    )


def run(arguments: argparse.Namespace) -> int:
    """Perturb, and print the strongest effects and whether they are worth something."""
    from state_hf.configuration.advice import refuse_existing
    from state_hf.inference.processes import join_processes
    from state_hf.pipelines.perturb import perturb
    from state_hf.reporting.perturbation_report import write_perturbation_report
    from state_hf.reporting.perturbation_text import plan_text, result_text

    options = vars(arguments).copy()
    report = options.pop("report")
    if report is not None:
        refuse_existing(report, overwrite=arguments.overwrite)
    options["where"] = chosen_values(options["where"])
    with told_on_stderr():
        found: Any = perturb(options.pop("data"), options.pop("model"), options.pop("output"), **options)
    if not join_processes(arguments.device).is_main:
        return 0
    if arguments.plan:
        print(plan_text(found))
        return 0
    print(result_text(found))
    if report is not None:
        print(f"Wrote {write_perturbation_report(found, report)}")
    return 0
