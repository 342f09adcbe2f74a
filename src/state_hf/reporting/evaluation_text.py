"""An evaluation as the text that the command prints."""

from collections import Counter

import pandas as pd

from state_hf.configuration.wording import counted
from state_hf.metrics.result import EvaluationResult
from state_hf.metrics.score_audit import AUDIT_COLUMNS, DEPTH_FACTOR, VARIANCE_FACTOR, is_better
from state_hf.reporting.markup import number

_VERSIONS = {
    "inflated_variance": f"inflated variance (deviations from the mean x {VARIANCE_FACTOR:g})",
    "depth_shifted": f"another depth (expression x {DEPTH_FACTOR:g})",
}


def evaluation_text(result: EvaluationResult) -> str:
    """The profile, what is left out, the scores (of each context too), audit, diagnostics, and what has no value."""
    head = [f"profile {result.profile.name} (digest {result.profile.digest[:12]})", *result.settings.get("notes", ())]
    parts = ["\n".join(head), _aligned(_values(result))]
    if result.contexts:
        overall = {name: _values(part)[_last_column(part)] for name, part in result.contexts.items()}
        parts += [f"{_last_column(result)} in each context", _aligned(pd.DataFrame(overall))]
    if result.audit is not None:
        parts += ["audit", _aligned(result.audit[list(AUDIT_COLUMNS)]), "\n".join(audit_findings(result))]
    if result.summary:
        parts += ["diagnostics", _aligned(pd.DataFrame({"value": dict(result.summary)}))]
    if result.problems:
        parts += ["without a value", "\n".join(_missing(result))]
    return "\n\n".join(parts)


def audit_findings(result: EvaluationResult) -> list[str]:
    """A sentence for each version of the prediction that moved a score more than the prediction did."""
    table, found = result.audit, []
    if table is None:
        return []
    for version, what in _VERSIONS.items():
        moved: dict[str, list[str]] = {"better": [], "worse": []}
        for metric in map(str, table.index[table[f"{version}_moves_more"]]):
            values = table.loc[metric, ["prediction", version, "control_copy"]].to_numpy(dtype=float)
            before, after, control = map(number, values.tolist())
            how = "better" if is_better(table, result.profile, metric, version) else "worse"
            moved[how].append(f"{metric} {before} -> {after} (control copy {control})")
        found += [
            f"{what} makes {how}, by more than the prediction differs from a copy of the control: {'; '.join(metrics)}"
            for how, metrics in moved.items()
            if metrics
        ]
    return found or [f"no score moves more by {' or '.join(_VERSIONS.values())} than by the prediction"]


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
