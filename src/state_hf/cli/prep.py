"""Make the submission file of the Virtual Cell Challenge 2025, or check that of 2026.

state-hf prep predictions.h5ad --genes gene_names.csv
state-hf prep predictions.h5ad --genes gene_names.csv --rules 2026
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from state_hf.configuration.advice import refuse_existing
from state_hf.data.cells.locations import CELL_FORMATS, as_location, is_url, stem_of

if TYPE_CHECKING:
    from state_hf.data.cells.stored_matrix import CellMatrix


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("prediction", type=as_location, help=f"predicted cells: {CELL_FORMATS}")
    parser.add_argument("--genes", type=Path, required=True, help="the challenge's gene list: a CSV without header")
    parser.add_argument(
        "--rules",
        choices=("2025", "2026"),
        default="2025",
        help="2025 writes a .prep.vcc file of log-normalised values; 2026 checks raw counts (default: 2025)",
    )
    parser.add_argument("--output", type=Path, help="file to write (default: the input's name with .prep.vcc)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists (2025)")
    parser.add_argument(
        "--perturbation-key", metavar="NAME", help="column of obs (default: the prediction's, else perturbation)"
    )
    parser.add_argument(
        "--control", metavar="LABEL", help="label of control cells (default: the prediction's, else non-targeting)"
    )
    parser.add_argument(
        "--cell-type-key", metavar="NAME", help="column of obs, if the file shall have the cell types (2025)"
    )
    parser.add_argument("--keep-scale", action="store_true", help="write integers as they are: no normalisation (2025)")


def run(arguments: argparse.Namespace) -> int:
    """Check, and for 2025 write, the submission."""
    from state_hf.data.cells.open_cells import open_cells
    from state_hf.pipelines.prep import GENES_2025, GENES_2026, read_gene_list

    genes = read_gene_list(arguments.genes)
    expected = GENES_2025 if arguments.rules == "2025" else GENES_2026
    if len(genes) != expected:
        print(f"warning: {arguments.genes} lists {len(genes):,} genes, the challenge has {expected:,}", file=sys.stderr)
    prediction = open_cells(arguments.prediction).matrix("X")
    try:
        if arguments.rules == "2026":
            _check(prediction, genes, arguments)
        else:
            _write(prediction, genes, arguments)
    finally:
        prediction.close()
    return 0


def _check(prediction: "CellMatrix", genes: list[str], arguments: argparse.Namespace) -> None:
    from state_hf.pipelines.prep import check_counts_submission

    for option, given in {"--output": arguments.output, "--cell-type-key": arguments.cell_type_key}.items():
        if given is not None:
            raise ValueError(f"{option} belongs to the rules of 2025; those of 2026 only check the file")
    summary = check_counts_submission(prediction, genes, perturbation_key=arguments.perturbation_key)
    print(
        f"{arguments.prediction} keeps the rules of 2026: {prediction.n_obs:,} cells x {prediction.n_vars:,} genes, "
        f"raw counts, at most {summary.totals.max():,.0f} a cell"
    )


def _write(prediction: "CellMatrix", genes: list[str], arguments: argparse.Namespace) -> None:
    from state_hf.pipelines.prep import plan_submission, write_submission

    output = arguments.output or _beside(arguments.prediction)
    refuse_existing(output, overwrite=arguments.overwrite)
    plan = plan_submission(
        prediction,
        genes,
        perturbation_key=arguments.perturbation_key,
        control=arguments.control,
        cell_type_key=arguments.cell_type_key,
        keep_scale=arguments.keep_scale,
    )
    print(f"{prediction.n_obs:,} cells x {len(genes):,} genes, {plan.labels['target_gene'].nunique():,} labels")
    if plan.reorder:
        print("genes are brought into the order of the list")
    if plan.median_total is not None:
        print(f"counts are normalised to the median of {plan.median_total:,.0f} a cell, then log1p")
    print(f"about {_size(plan.compressed_bytes)} to write ({_size(plan.uncompressed_bytes)} before compression)")
    output = write_submission(plan, output, overwrite=arguments.overwrite)
    print(f"Wrote {output} ({_size(output.stat().st_size)}), read back and checked")


def _beside(prediction: str | Path) -> Path:
    folder = Path() if is_url(prediction) else Path(prediction).parent
    return folder / f"{stem_of(prediction)}.prep.vcc"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
