"""Score predicted cells against measured ones by a frozen profile of metrics.

state-hf evaluate predicted.h5ad screen.h5ad --profile vcc2025 --baseline mean --output scores
state-hf evaluate predicted.h5ad measured.h5ad --profile vcc2026 --baseline mean --replicate --report report.html
"""

import argparse
from pathlib import Path

from state_hf.cli.library_log import kept_back
from state_hf.configuration.advice import refuse_existing
from state_hf.configuration.wording import counted
from state_hf.data.cells.locations import CELL_FORMATS, as_location, is_url
from state_hf.metrics.profiles import profile_names


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("prediction", type=as_location, help=f"predicted cells: {CELL_FORMATS}")
    parser.add_argument("reference", type=as_location, help="measured cells, likewise")
    parser.add_argument("--profile", default="vcc2025", help=f"{', '.join(profile_names())} (default: vcc2025)")
    parser.add_argument("--output", type=Path, help="folder for the tables: values, scores, DE tables, effects")
    parser.add_argument("--report", type=Path, help="HTML file for the report")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--baseline", help="score from a baseline: mean, control, or an .h5ad file of predictions")
    parser.add_argument(
        "--replicate", action="store_true", help="also score halves of the real cells: what is reachable"
    )
    parser.add_argument(
        "--audit",
        action="store_true",
        help="also score control cells in place of predicted ones, and the prediction with inflated variance and at "
        "another depth: what a score gains by nothing",
    )
    what = parser.add_argument_group(
        "what is scored", "What is not given is read from the prediction, where state-hf predict wrote it down."
    )
    what.add_argument(
        "--perturbation-key", metavar="NAME", help="column of obs (default: the prediction's, else perturbation)"
    )
    what.add_argument(
        "--control", metavar="LABEL", help="label of control cells (default: the prediction's, else non-targeting)"
    )
    what.add_argument(
        "--cell-type-key",
        metavar="NAME",
        help="column of obs whose cell types are scored one by one (default: the prediction's, for several)",
    )
    what.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="what was held out: a split.toml, a split.json, or a model's folder (default: as the prediction says)",
    )
    what.add_argument(
        "--groups",
        choices=("held-out", "prediction", "all"),
        help="what to score: what was held out, what is predicted, or all (default: held-out, if known)",
    )
    what.add_argument(
        "--genes",
        choices=("prediction", "all"),
        help="genes to score (default: the prediction's, where it says that its model has no others)",
    )
    parser.add_argument("--cache-dir", type=Path, help="folder that keeps what depends on the measured cells alone")
    parser.add_argument(
        "--on-error",
        choices=("raise", "nan"),
        default="raise",
        help="raise: stop at a metric that fails; nan: leave it empty and say why (default: raise)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the replicate's splits (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the table, write what was asked for."""
    from state_hf.pipelines.evaluate import evaluate_predictions
    from state_hf.reporting.evaluation_report import write_evaluation_report
    from state_hf.reporting.evaluation_text import evaluation_text

    named = arguments.baseline not in (None, "mean", "control") and not is_url(arguments.baseline)
    if named and not Path(arguments.baseline).exists():
        raise FileNotFoundError(f"--baseline is mean, control or a file, and there is no file {arguments.baseline!r}")
    if arguments.report is not None and arguments.report.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report names an .html file, not {arguments.report.name!r}")
    for path in (arguments.output, arguments.report):
        if path is not None:
            refuse_existing(path, overwrite=arguments.overwrite)
    # What it notes is printed with the table.
    with kept_back("state_hf.pipelines.evaluate"):
        result = evaluate_predictions(
            arguments.prediction,
            arguments.reference,
            arguments.profile,
            perturbation_key=arguments.perturbation_key,
            control=arguments.control,
            cell_type_key=arguments.cell_type_key,
            split=arguments.split,
            groups=arguments.groups,
            genes=arguments.genes,
            baseline=arguments.baseline,
            replicate=arguments.replicate,
            audit=arguments.audit,
            on_error=arguments.on_error,
            cache_dir=arguments.cache_dir,
            seed=arguments.seed,
        )
    done = [f"{counted(len(result.per_perturbation), 'perturbation')} scored"]
    if arguments.output is not None:
        files = result.save(arguments.output, overwrite=arguments.overwrite)
        done.append(f"{len(files)} files in {arguments.output}")
    if arguments.report is not None:
        report = write_evaluation_report(result, arguments.report, overwrite=arguments.overwrite)
        done.append(f"report {report}")
    print(f"{evaluation_text(result)}\n\n{', '.join(done)}")
    return 0
