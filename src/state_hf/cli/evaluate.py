"""Score predicted cells against measured ones by a frozen profile of metrics.

state-hf evaluate predicted.h5ad measured.h5ad --profile vcc2025 --baseline mean --output scores
state-hf evaluate predicted.h5ad measured.h5ad --profile vcc2026 --baseline mean --replicate --report report.html
"""

import argparse
from collections import Counter
from pathlib import Path

import pandas as pd

from state_hf.metrics.input_check import counted
from state_hf.metrics.profiles import profile_names
from state_hf.metrics.result import EvaluationResult
from state_hf.pipelines.evaluate import evaluate_predictions
from state_hf.reporting.evaluation_report import write_evaluation_report
from state_hf.reporting.markup import number


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("prediction", type=Path, help="predicted cells (.h5ad)")
    parser.add_argument("reference", type=Path, help="measured cells (.h5ad)")
    parser.add_argument("--profile", default="vcc2025", help=f"{', '.join(profile_names())} (default: vcc2025)")
    parser.add_argument("--output", type=Path, help="folder for the tables: values, scores, DE tables, effects")
    parser.add_argument("--report", type=Path, help="HTML file for the report")
    parser.add_argument("--baseline", help="score from a baseline: mean, control, or an .h5ad file of predictions")
    parser.add_argument(
        "--replicate", action="store_true", help="also score halves of the real cells: what is reachable"
    )
    parser.add_argument(
        "--pert-col", default="target_gene", help="obs column of the perturbations (default: target_gene)"
    )
    parser.add_argument("--control", default="non-targeting", help="label of the controls (default: non-targeting)")
    parser.add_argument("--context-col", help="obs column of the contexts (cell types) to score one by one")
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
    for path in (arguments.prediction, arguments.reference):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
    if arguments.baseline not in (None, "mean", "control") and not Path(arguments.baseline).is_file():
        raise FileNotFoundError(f"--baseline is mean, control or a file, and there is no file {arguments.baseline!r}")
    if arguments.report is not None and arguments.report.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report names an .html file, not {arguments.report.name!r}")
    result = evaluate_predictions(
        arguments.prediction,
        arguments.reference,
        arguments.profile,
        pert_col=arguments.pert_col,
        control=arguments.control,
        context_col=arguments.context_col,
        baseline=arguments.baseline,
        replicate=arguments.replicate,
        on_error=arguments.on_error,
        cache_dir=arguments.cache_dir,
        seed=arguments.seed,
    )
    done = [f"{len(result.per_perturbation):,} perturbations scored"]
    if arguments.output is not None:
        done.append(f"{len(result.save(arguments.output))} files in {arguments.output}")
    if arguments.report is not None:
        done.append(f"report {write_evaluation_report(result, arguments.report)}")
    print(f"profile {result.profile.name} (digest {result.profile.digest[:12]})\n")
    print(_aligned(_values(result)))
    if result.contexts:
        overall = {name: _values(part)[_last_column(part)] for name, part in result.contexts.items()}
        print(f"\n{_last_column(result)} in each context\n\n{_aligned(pd.DataFrame(overall))}")
    if result.summary:
        print("\ndiagnostics\n")
        print(_aligned(pd.DataFrame({"value": dict(result.summary)})))
    if result.problems:
        print("\nwithout a value\n")
        print("\n".join(_missing(result)))
    print(f"\n{', '.join(done)}")
    return 0


def _values(result: EvaluationResult) -> pd.DataFrame:
    """One row a metric: the scores where there are any, else the values."""
    values = result.aggregate[["mean"]].rename(columns={"mean": "prediction"})
    if result.scores is None:
        return values
    unscored = values.loc[~values.index.isin(result.scores.index)]
    return pd.concat([unscored, result.scores])[list(result.scores.columns)]


def _missing(result: EvaluationResult) -> list[str]:
    """A line for each metric and reason, with the number of perturbations."""
    return [
        f"{metric}, {counted(count, 'perturbation')}: {reason}"
        for metric, reasons in result.problems.items()
        for reason, count in Counter(reasons.values()).items()
    ]


def _last_column(result: EvaluationResult) -> str:
    return "prediction" if result.scores is None else "score"


def _aligned(table: pd.DataFrame) -> str:
    """The table as text, numbers at the right, three significant digits."""
    rows = [["", *map(str, table.columns)]]
    rows += [[str(name), *map(number, map(float, values))] for name, *values in table.itertuples(name=None)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
