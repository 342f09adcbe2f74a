"""One self-contained HTML page about an evaluation: scores, perturbations, effects, DE genes, diagnostics, settings."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from state_hf._version import __version__
from state_hf.metrics.profiles import Metric
from state_hf.metrics.result import EvaluationResult
from state_hf.reporting import evaluation_charts as charts
from state_hf.reporting.markup import Child, append, element, number, to_html
from state_hf.reporting.metric_words import QUANTITIES, SIZES, aim, measure

_EFFECT_UNITS = {
    "lognorm": "change of mean log1p expression",
    "bulk_lognorm": "change of log1p pseudobulk",
}


def write_evaluation_report(result: EvaluationResult, path: str | Path) -> Path:
    """Write the report of an evaluation.

    Args:
        result: What `state_hf.evaluate_predictions` returned.
        path: The `.html` file; written under a temporary name and renamed.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(evaluation_page(result), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def evaluation_page(result: EvaluationResult) -> str:
    """The report as text; all plots and styles are inside it."""
    main = element("main", *_opening(result), *_scores(result))
    if result.contexts:
        append(main, _contexts(result))
    else:
        append(main, _details(result))
    append(main, _settings(result))
    style = (files("state_hf.reporting") / "report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"Evaluation: {result.profile.name}"),
        element("style", style),
    )
    return to_html(element("html", head, element("body", main), lang="en"))


def _opening(result: EvaluationResult) -> Iterator[Child]:
    yield element("h1", "Predicted against measured cells")
    yield element(
        "p",
        f"Profile {result.profile.name}, digest {result.profile.digest[:12]}, state-hf {__version__}.",
        class_="soft",
    )
    if result.scores is not None:
        scale = f"the mean of {len(result.scores) - 1} metrics, 0 = baseline, 1 = {_goal(result)}"
        yield element(
            "div",
            element("strong", number(_at(result.scores, "overall", "score"))),
            element("span", f"overall score: {scale}"),
            class_="hero",
        )
    numbers = {name: result.settings[name] for name in SIZES if name in result.settings} | dict(result.summary)
    tiles = [_tile(QUANTITIES.get(name, _words(name)), number(float(value))) for name, value in numbers.items()]
    yield element("div", *tiles, class_="tiles")
    if result.problems:
        rows = [(metric, name, why) for metric, reasons in result.problems.items() for name, why in reasons.items()]
        table = pd.DataFrame(rows, columns=["metric", "perturbation", "reason"]).set_index("metric")
        summary = element("summary", f"{len(rows):,} values are missing, and why")
        yield element("details", summary, _table(table, "metric"))


def _scores(result: EvaluationResult) -> Iterator[Child]:
    yield element("h2", "Scores" if result.scores is not None else "Metrics")
    figures = []
    if result.scores is not None:
        figures.append(
            element(
                "figure",
                element("h3", "Scaled scores"),
                charts.score_bars(result.scores["score"].drop("overall"), toward=_goal(result)),
                element(
                    "figcaption",
                    f"0 is the baseline, 1 the {_goal(result)}; bars that go below −1 end there. The other plots show "
                    "each metric in its own unit.",
                ),
            )
        )
    for metric in result.profile.metrics:
        if metric.name not in result.aggregate.index:
            continue
        values = _metric_values(result, metric)
        scored = result.scores is not None and metric.name in result.scores.index
        score = f"score {number(_at(result.scores, metric.name, 'score'))}" if scored else ""
        figures.append(
            element(
                "figure",
                element("div", element("h3", *_breakable(metric.name)), element("b", score), class_="metric"),
                charts.metric_bars(metric.name, values, metric.best),
                element("figcaption", f"{measure(metric.function)} ({aim(metric.best)})".strip()),
            )
        )
    yield element("div", *figures, class_="plots")


def _metric_values(result: EvaluationResult, metric: Metric) -> dict[str, float]:
    if result.scores is None or metric.name not in result.scores.index:
        return {"prediction": _at(result.aggregate, metric.name, "mean")}
    columns = [name for name in ("prediction", "baseline", "replicate", "ceiling") if name in result.scores]
    values = {name: _at(result.scores, metric.name, name) for name in columns}
    return {name: value for name, value in values.items() if name == "prediction" or np.isfinite(value)}


def _contexts(result: EvaluationResult) -> Iterator[Child]:
    yield element("h2", "Contexts")
    columns = [metric.name for metric in result.profile.metrics if metric.name in result.aggregate.index]
    rows = {name: part.aggregate["mean"].reindex(columns) for name, part in result.contexts.items()}
    table = pd.DataFrame(rows).T
    if result.scores is not None:
        overall = [_at(part.scores, "overall", "score") for part in result.contexts.values() if part.scores is not None]
        table.insert(0, "overall score", overall)
    yield _table(table, "context")
    for context, part in result.contexts.items():
        section = element("details", element("summary", f"{context}: all plots"))
        yield append(section, [*_scores(part), *_details(part)])


def _details(result: EvaluationResult) -> Iterator[Child]:
    yield from _perturbations(result)
    yield from _effects(result)
    yield from _differential_expression(result)
    if result.discrimination is not None and len(result.discrimination) > 1:
        yield element("h2", "Can the perturbations be told apart?")
        yield element(
            "figure",
            charts.discrimination_heat(result.discrimination),
            element(
                "figcaption",
                "Each row is a prediction, each column a real perturbation, in the same order. The closest real "
                "perturbation of a row is yellow, the furthest dark blue; a perfect prediction has a yellow diagonal.",
            ),
        )
    if len(result.diagnostics.columns):
        yield element("h2", "Diagnostics")
        yield element("p", "What a score alone hides, for each perturbation.", class_="soft")
        yield element("details", element("summary", "Table"), _table(result.diagnostics, "perturbation"))


def _perturbations(result: EvaluationResult) -> Iterator[Child]:
    ranked = _ranked_metrics(result)
    if not ranked:
        return
    yield element("h2", "Perturbations")
    figures = [
        element(
            "figure",
            element("h3", *_breakable(metric.name)),
            charts.ranking(result.per_perturbation[metric.name], metric.name, ascending=metric.best == 0),
            element("figcaption", measure(metric.function)),
        )
        for metric in _telling_metrics(ranked)
    ]
    yield element("div", *figures, class_="plots")
    yield element(
        "details",
        element("summary", f"All {len(result.per_perturbation):,} perturbations, best first on average"),
        _table(result.per_perturbation.loc[_average_order(result)], "perturbation"),
    )


def _telling_metrics(ranked: list[Metric]) -> list[Metric]:
    """Three metrics of different kinds, errors last: an error is smallest where nothing happens."""
    kinds = {metric.function: metric for metric in reversed(ranked)}
    return sorted((metric for metric in ranked if kinds[metric.function] is metric), key=lambda m: m.best == 0)[:3]


def _effects(result: EvaluationResult) -> Iterator[Child]:
    predicted, real = result.effects_prediction, result.effects_reference
    if predicted is None or real is None or not real.size:
        return
    unit = _EFFECT_UNITS.get(str(result.profile.settings["expression"]["space"]), "change against control")
    yield element("h2", "Effects")
    figures = [
        element(
            "figure",
            element("h3", "All genes of all perturbations"),
            charts.effect_density(predicted.to_numpy(float), real.to_numpy(float), unit),
            element(
                "figcaption",
                f"Density of {real.size:,} effects, from blue (few) to yellow (most), on a log scale. "
                "On the dashed line, prediction and reality agree.",
            ),
        )
    ]
    for name, why in _telling_perturbations(result).items():
        ours, theirs = predicted.T[name], real.T[name]
        figures.append(
            element(
                "figure",
                element("h3", f"{name}, {why}"),
                charts.effect_scatter(ours, theirs, unit),
                element(
                    "figcaption",
                    f"Pearson correlation over all genes {number(ours.corr(theirs))}; at most 800 genes drawn.",
                ),
            )
        )
    yield element("div", *figures, class_="plots")


def _differential_expression(result: EvaluationResult) -> Iterator[Child]:
    if result.de_tables is None:
        return
    predicted, real = result.de_tables
    yield element("h2", "Differential expression")
    figures = []
    curves = charts.overlap_curves(predicted, real)
    if curves is not None:
        figures.append(
            element(
                "figure",
                element("h3", "Overlap of the strongest genes"),
                curves,
                element(
                    "figcaption",
                    "Blue: mean over perturbations (dotted: median, band: middle half). Orange: by chance. Genes are "
                    "ordered by absolute log2 fold change among those called.",
                ),
            )
        )
    figures.append(
        element(
            "figure",
            element("h3", "Genes called"),
            charts.called_genes(predicted, real),
            element("figcaption", f"One dot a perturbation. Called: adjusted p below {real.significance:g}."),
        )
    )
    yield element("div", *figures, class_="plots")
    yield element("h3", "Volcano plots")
    yield _key(
        {
            "called on both sides": "ceiling",
            "only in reality": "real",
            "only predicted": "prediction",
            "not called": "quiet",
        }
    )
    for name, why in _telling_perturbations(result).items():
        pair = zip(("real", "predicted"), charts.volcano_pair(predicted, real, name), strict=True)
        yield element("h3", f"{name}, {why}")
        yield element(
            "div",
            *[element("figure", plot, element("figcaption", f"{name}, {side}")) for side, plot in pair],
            class_="plots",
        )
    yield element("p", "Values beyond the axes are drawn on the border; at most 800 genes are drawn.", class_="soft")


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


def _settings(result: EvaluationResult) -> Iterator[Child]:
    yield element("h2", "Settings")
    rows = [element("tr", element("td", name), element("td", value)) for name, value in _flat(result.settings)]
    for metric in result.profile.metrics:
        parameters = ", ".join(f"{name} {value}" for name, value in metric.parameters.items())
        rows.append(
            element("tr", element("td", f"metric {metric.name}"), element("td", f"{metric.function} {parameters}"))
        )
    yield element("div", element("table", element("tbody", *rows), class_="settings"), class_="scroll")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{_words(name)}: ")
        else:
            yield prefix + _words(name), "–" if value is None else str(value)


def _table(table: pd.DataFrame, index: str) -> ElementTree.Element:
    head = element("tr", element("th", index), *[element("th", _words(name)) for name in table.columns])
    rows = [
        element("tr", element("th", str(label)), *[element("td", _cell(value)) for value in values])
        for label, *values in table.itertuples(name=None)
    ]
    return element("div", element("table", element("thead", head), element("tbody", *rows)), class_="scroll")


def _at(table: pd.DataFrame | None, row: str, column: str) -> float:
    return np.nan if table is None else float(table[column].to_dict()[row])


def _cell(value: Any) -> str:
    return (
        number(float(value))
        if isinstance(value, int | float | np.number) and not isinstance(value, bool)
        else str(value)
    )


def _breakable(name: str) -> list[Child]:
    """A metric's name that may be broken after its underscores."""
    first, *rest = name.split("_")
    return [first, *[child for part in rest for child in ("_", element("wbr"), part)]]


def _tile(name: str, value: str) -> ElementTree.Element:
    return element("div", element("b", value), element("span", name), class_="tile")


def _key(entries: Mapping[str, str]) -> ElementTree.Element:
    return element(
        "ul", *[element("li", name, style=f"--key: var(--{colour})") for name, colour in entries.items()], class_="key"
    )


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _goal(result: EvaluationResult) -> str:
    return "replicate" if result.scores is not None and "replicate" in result.scores else "best value"
