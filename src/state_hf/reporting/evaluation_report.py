"""One self-contained HTML page about an evaluation: scores, perturbations, effects, DE genes, diagnostics, settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from state_hf._version import __version__
from state_hf.configuration.advice import refuse_existing
from state_hf.metrics.profiles import Metric
from state_hf.metrics.result import EvaluationResult
from state_hf.metrics.score_audit import AUDIT_COLUMNS
from state_hf.reporting import evaluation_charts as charts
from state_hf.reporting.evaluation_text import audit_findings
from state_hf.reporting.markup import number
from state_hf.reporting.metric_words import QUANTITIES, SIZES, aim, measure
from state_hf.reporting.page import drawn, flat, render, table_of, words, write_page

_EFFECT_UNITS = {
    "lognorm": "change of mean log1p expression",
    "bulk_lognorm": "change of log1p pseudobulk",
}
_VOLCANO_KEY = {
    "called on both sides": "ceiling",
    "only in reality": "real",
    "only predicted": "prediction",
    "not called": "quiet",
}


def write_evaluation_report(result: EvaluationResult, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the report of an evaluation.

    Args:
        result: What `state_hf.evaluate_predictions` returned.
        path: The `.html` file; written under a temporary name and renamed.
        overwrite: Whether a file that exists is replaced.

    Returns:
        The path.

    Raises:
        FileExistsError: The file exists, and is not to be replaced.
    """
    refuse_existing(path, overwrite=overwrite)
    return write_page(evaluation_page(result), path)


def evaluation_page(result: EvaluationResult) -> str:
    """The report as text; all plots and styles are inside it."""
    scored = result.scores is not None
    numbers = {name: result.settings[name] for name in SIZES if name in result.settings} | dict(result.summary)
    missing = [(metric, name, why) for metric, reasons in result.problems.items() for name, why in reasons.items()]
    reasons = pd.DataFrame(missing, columns=["metric", "perturbation", "reason"]).set_index("metric")
    metrics = [
        (
            f"metric {metric.name}",
            " ".join([metric.function, ", ".join(f"{k} {v}" for k, v in metric.parameters.items())]),
        )
        for metric in result.profile.metrics
    ]
    return render(
        "evaluation.html",
        title=f"Evaluation: {result.profile.name}",
        subtitle=f"Profile {result.profile.name}, digest {result.profile.digest[:12]}, state-hf {__version__}.",
        notes=[str(note) for note in result.settings.get("notes", ())],
        overall=number(_at(result.scores, "overall", "score")) if scored else None,
        scale=f"the mean of {len(result.scores) - 1} metrics, 0 = baseline, 1 = {_goal(result)}"
        if result.scores is not None
        else "",
        tiles=[(QUANTITIES.get(name, words(name)), number(float(value))) for name, value in numbers.items()],
        problems=table_of(reasons, "metric") if missing else None,
        whole=_part(result) if not result.contexts else {"scored": scored, "scores": _scores(result)},
        audit=None if result.audit is None else table_of(result.audit[list(AUDIT_COLUMNS)], "metric"),
        audit_findings=audit_findings(result),
        contexts=[(name, _part(part)) for name, part in result.contexts.items()],
        context_table=_contexts(result) if result.contexts else None,
        volcano_key=_VOLCANO_KEY,
        settings=[*flat(result.settings), *metrics],
    )


def _part(result: EvaluationResult) -> dict[str, Any]:
    """What the page shows of one context, or of all cells."""
    ranked = _ranked_metrics(result)
    rankings = [
        {
            "title": metric.name,
            "svg": drawn(charts.ranking(result.per_perturbation[metric.name], metric.name, ascending=metric.best == 0)),
            "caption": measure(metric.function),
        }
        for metric in _telling_metrics(ranked)
    ]
    apart = result.discrimination
    return {
        "scored": result.scores is not None,
        "scores": _scores(result),
        "rankings": rankings,
        "perturbations": table_of(result.per_perturbation.loc[_average_order(result)], "perturbation"),
        "effects": _effects(result),
        **_differential_expression(result),
        "discrimination": drawn(charts.discrimination_heat(apart)) if apart is not None and len(apart) > 1 else None,
        "diagnostics": table_of(result.diagnostics, "perturbation") if len(result.diagnostics.columns) else None,
    }


def _scores(result: EvaluationResult) -> list[dict[str, Any]]:
    figures: list[dict[str, Any]] = []
    if result.scores is not None:
        bars = charts.score_bars(result.scores["score"].drop("overall"), toward=_goal(result))
        caption = (
            f"0 is the baseline, 1 the {_goal(result)}; bars that go below −1 end there. The other plots show each "
            "metric in its own unit."
        )
        figures.append({"title": "Scaled scores", "svg": drawn(bars), "caption": caption})
    for metric in result.profile.metrics:
        if metric.name not in result.aggregate.index:
            continue
        scored = result.scores is not None and metric.name in result.scores.index
        figures.append(
            {
                "title": metric.name,
                "score": f"score {number(_at(result.scores, metric.name, 'score'))}" if scored else "",
                "svg": drawn(charts.metric_bars(metric.name, _metric_values(result, metric), metric.best)),
                "caption": f"{measure(metric.function)} ({aim(metric.best)})".strip(),
            }
        )
    return figures


def _metric_values(result: EvaluationResult, metric: Metric) -> dict[str, float]:
    if result.scores is None or metric.name not in result.scores.index:
        return {"prediction": _at(result.aggregate, metric.name, "mean")}
    columns = [name for name in ("prediction", "baseline", "replicate", "ceiling") if name in result.scores]
    values = {name: _at(result.scores, metric.name, name) for name in columns}
    return {name: value for name, value in values.items() if name == "prediction" or np.isfinite(value)}


def _contexts(result: EvaluationResult) -> dict[str, Any]:
    columns = [metric.name for metric in result.profile.metrics if metric.name in result.aggregate.index]
    rows = {name: part.aggregate["mean"].reindex(columns) for name, part in result.contexts.items()}
    table = pd.DataFrame(rows).T
    if result.scores is not None:
        overall = [_at(part.scores, "overall", "score") for part in result.contexts.values() if part.scores is not None]
        table.insert(0, "overall score", overall)
    return table_of(table, "context")


def _telling_metrics(ranked: list[Metric]) -> list[Metric]:
    """Three metrics of different kinds, errors last: an error is smallest where nothing happens."""
    kinds = {metric.function: metric for metric in reversed(ranked)}
    return sorted((metric for metric in ranked if kinds[metric.function] is metric), key=lambda m: m.best == 0)[:3]


def _effects(result: EvaluationResult) -> list[dict[str, Any]]:
    predicted, real = result.effects_prediction, result.effects_reference
    if predicted is None or real is None or not real.size:
        return []
    unit = _EFFECT_UNITS.get(str(result.profile.settings["expression"]["space"]), "change against control")
    density = charts.effect_density(predicted.to_numpy(float), real.to_numpy(float), unit)
    figures = [
        {
            "title": "All genes of all perturbations",
            "svg": drawn(density),
            "caption": f"Density of {real.size:,} effects, from blue (few) to yellow (most), on a log scale. "
            "On the dashed line, prediction and reality agree.",
        }
    ]
    for name, why in _telling_perturbations(result).items():
        ours, theirs = predicted.T[name], real.T[name]
        figures.append(
            {
                "title": f"{name}, {why}",
                "svg": drawn(charts.effect_scatter(ours, theirs, unit)),
                "caption": f"Pearson correlation over all genes {number(ours.corr(theirs))}; at most 800 genes drawn.",
            }
        )
    return figures


def _differential_expression(result: EvaluationResult) -> dict[str, Any]:
    if result.de_tables is None:
        return {"de": [], "volcanoes": []}
    predicted, real = result.de_tables
    figures = []
    curves = charts.overlap_curves(predicted, real)
    if curves is not None:
        figures.append(
            {
                "title": "Overlap of the strongest genes",
                "svg": drawn(curves),
                "caption": "Blue: mean over perturbations (dotted: median, band: middle half). Orange: by chance. "
                "Genes are ordered by absolute log2 fold change among those called.",
            }
        )
    figures.append(
        {
            "title": "Genes called",
            "svg": drawn(charts.called_genes(predicted, real)),
            "caption": f"One dot a perturbation. Called: adjusted p below {real.significance:g}.",
        }
    )
    volcanoes = []
    for name, why in _telling_perturbations(result).items():
        pair = zip(("real", "predicted"), charts.volcano_pair(predicted, real, name), strict=True)
        plots = [{"svg": drawn(plot), "caption": f"{name}, {side}"} for side, plot in pair]
        volcanoes.append((f"{name}, {why}", plots))
    return {"de": figures, "volcanoes": volcanoes}


def _telling_perturbations(result: EvaluationResult) -> dict[str, str]:
    """The perturbations worth a plot of their own and why: strongest effect, best, middle and worst prediction."""
    chosen: dict[str, str] = {}
    if result.de_tables is not None:
        real = result.de_tables[1]
        strongest = str(real.perturbations[int(real.significant.sum(axis=1).argmax())])
        chosen[strongest] = "most genes changed"
    order = _average_order(result)
    for place, why in ((0, "best predicted"), (len(order) // 2, "middle"), (-1, "worst predicted")):
        name = str(order[place])
        chosen[name] = f"{chosen[name]}, {why}" if name in chosen else why
    return chosen


def _ranked_metrics(result: EvaluationResult) -> list[Metric]:
    """The metrics that order perturbations: with a best value, and defined for at least one of them."""
    table = result.per_perturbation
    return [m for m in result.profile.metrics if m.best is not None and m.name in table and table[m.name].notna().any()]


def _average_order(result: EvaluationResult) -> pd.Index:
    """Perturbations by their mean place over the metrics, best first.

    An absolute error is smallest where nothing happens, so errors count only where there is no other metric.
    """
    table, metrics = result.per_perturbation, _ranked_metrics(result)
    metrics = [m for m in metrics if m.best] or metrics
    if not metrics:
        return table.index
    places = [table[m.name].rank(pct=True, ascending=m.best == 0) for m in metrics]
    return table.index[np.argsort(pd.concat(places, axis=1).mean(axis=1).to_numpy(), kind="stable")]


def _at(table: pd.DataFrame | None, row: str, column: str) -> float:
    return np.nan if table is None else float(table[column].to_dict()[row])


def _goal(result: EvaluationResult) -> str:
    return "replicate" if result.scores is not None and "replicate" in result.scores else "best value"
