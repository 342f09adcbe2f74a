"""Normalise a file of raw counts, log it, choose its variable genes and, on request, check its knock-downs.

The output has log1p values in X, the variable genes in obsm["X_hvg"] with their names in uns["X_hvg"]["var_names"], and
how it was made in uns["preprocess"]. The input is read in blocks and never changed.

example:
  state-hf preprocess screen.h5ad --output screen_hvg.h5ad --filter-knockdown --perturbation-key gene
"""

import argparse
from pathlib import Path

from state_hf.data.cells.locations import CELL_FORMATS, as_location


def _target_sum(text: str) -> float | str:
    return text if text == "median" else float(text)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf preprocess`."""
    parser.add_argument("input", type=as_location, metavar="IN", help=f"raw counts: {CELL_FORMATS}")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help=".h5ad file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    parser.add_argument("--layer", help="layer with the counts, or 'raw' (default: X)")
    parser.add_argument(
        "--target-sum",
        type=_target_sum,
        default="median",
        metavar="N",
        help="counts that every cell is scaled to, or 'median' for that of the cells (default: median)",
    )
    parser.add_argument(
        "--num-variable-genes", type=int, default=2000, metavar="N", help="how many genes to choose (default: 2000)"
    )
    parser.add_argument(
        "--genes", type=Path, metavar="FILE", help="take these genes instead, one a line: those of a trained model"
    )
    parser.add_argument("--gene-column", metavar="NAME", help="column of var with the gene names (default: its index)")
    parser.add_argument("--keep-counts", action="store_true", help="write the counts too, as layers['counts']")
    parser.add_argument(
        "--round",
        action="store_true",
        dest="round_counts",
        help="round corrected counts, as those of SoupX, CellBender, alevin or kallisto, to the nearest whole numbers",
    )
    parser.add_argument(
        "--reference-depth",
        type=int,
        metavar="N",
        help="draw N counts of every cell that has more, so that contexts of different depths become alike",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of that draw (default: 0)")

    knockdown = parser.add_argument_group("on-target knock-down filter")
    knockdown.add_argument(
        "--filter-knockdown",
        action="store_true",
        help="keep control cells, and cells in which the gene that their perturbation is named after is knocked down",
    )
    knockdown.add_argument("--perturbation-key", default="perturbation", metavar="NAME", help="column of obs")
    knockdown.add_argument("--control", default="non-targeting", metavar="LABEL", help="label of control cells")
    knockdown.add_argument(
        "--distinct-case", action="store_true", help="labels that differ in upper and lower case are different things"
    )
    knockdown.add_argument(
        "--residual-expression",
        type=float,
        default=0.30,
        metavar="R",
        help="a perturbation's cells have less than this share of the controls' expression (default: 0.30)",
    )
    knockdown.add_argument(
        "--cell-residual-expression",
        type=float,
        default=0.50,
        metavar="R",
        help="and so does each of its cells that is kept (default: 0.50)",
    )
    knockdown.add_argument(
        "--min-cells", type=int, default=30, metavar="N", help="and so many of its cells are left (default: 30)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Preprocess, and print the report."""
    from state_hf.data.screens.knockdown_filter import KnockdownFilter
    from state_hf.pipelines.preprocess import preprocess

    options = vars(arguments).copy()
    source, wanted = options.pop("input"), options.pop("filter_knockdown")
    names = ("residual_expression", "cell_residual_expression", "min_cells")
    thresholds = KnockdownFilter(**{name: options.pop(name) for name in names})
    genes = options.pop("genes")
    output = options.pop("output")
    report = preprocess(
        source,
        output=output,
        knockdown=thresholds if wanted else None,
        genes=None if genes is None else genes.read_text(encoding="utf-8").split(),
        **options,
    )
    print(f"{report}\nWrote {output}: {report.cells_written:,} cells")
    return 0
