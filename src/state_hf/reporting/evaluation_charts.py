"""The plots of an evaluation: each takes arrays or tables and returns an SVG element."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from state_hf.metrics.de_tables import DifferentialExpression
from state_hf.reporting.markup import element, number
from state_hf.reporting.png_image import heat_image
from state_hf.reporting.svg_plot import WIDTH, Axis, Plot, bars, shortened, telling_dots

RANKING_ROWS = 30
"""More perturbations than this are shown as the best and the worst half of it."""

_SQUARE = {"height": 350.0, "left": 46.0, "right": 12.0, "top": 10.0, "bottom": 38.0}
_MAX_HEAT = 400
_MAX_LOG_P = 50.0


def metric_bars(name: str, values: dict[str, float], best: float | None) -> ElementTree.Element:
    """One metric's value beside its baseline's and its ceiling's, on a common scale.

    Args:
        name: Name of the metric.
        values: Column of the scores -> value in the metric's own unit, in the order to draw.
        best: The best value, which the scale reaches; None where there is none.
    """
    ends = [value for value in [*values.values(), 0.0 if best is None else best] if np.isfinite(value)]
    rows = [(column, value, column) for column, value in values.items()]
    description = f"{name}: " + ", ".join(f"{column} {number(value)}" for column, value in values.items())
    return bars(description, rows, min(ends, default=0.0), max(ends, default=1.0))


def score_bars(scores: pd.Series, *, toward: str) -> ElementTree.Element:
    """The scaled scores of all metrics, 0 = baseline."""
    finite = scores[np.isfinite(scores)]
    rows = [(shortened(str(name), 52), float(value), "score") for name, value in scores.items()]
    low, high = float(finite.min()) if len(finite) else 0.0, max(1.0, float(finite.max())) if len(finite) else 1.0
    # One metric far below the baseline would otherwise squeeze all the others to nothing.
    return bars(f"Score of each metric: 0 = baseline, 1 = {toward}", rows, max(low, -1.0), high, names_above=True)


def ranking(values: pd.Series, label: str, *, ascending: bool) -> ElementTree.Element:
    """Perturbations from best to worst by one metric; of many, the two ends.

    Args:
        values: Perturbation -> value.
        label: Name of the metric.
        ascending: Whether a lower value is better.
    """
    ordered = values[np.isfinite(values)].sort_values(ascending=ascending, kind="stable")
    half = RANKING_ROWS // 2
    cut = len(ordered) > RANKING_ROWS
    shown = pd.concat([ordered.iloc[:half], ordered.iloc[-half:]]) if cut else ordered
    places = np.arange(len(shown), dtype=float)
    places[half:] += 1 if cut else 0
    row_height, last = 15, (places[-1] if len(places) else 0)
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
    direction = "lower" if ascending else "higher"
    plot = Plot(
        f"Perturbations ranked by {label}",
        Axis(min(low, 0.0), high if ascending else max(high, 1.0), f"{direction} is better"),
        Axis(last + 0.7, -0.7, ticks=[]),
        height=(last + 1.4) * row_height + 48,
        left=104,
    )
    for place, (name, value) in zip(places, shown.items(), strict=True):
        y, x = float(plot.y(place)), float(plot.x(value))
        plot.svg.append(element("line", x1=plot.left, x2=x, y1=y, y2=y, class_="stem"))
        plot.text(plot.left - 6, y + 3.5, shortened(str(name), 16), anchor="end", class_="tick")
    if cut:
        middle = float(plot.y(half))
        plot.text(WIDTH / 2 + 40, middle + 3.5, f"{len(ordered) - 2 * half:,} more", anchor="middle", class_="tick")
    plot.dots(shown.to_numpy(float), places, "prediction", size=8)
    return plot.svg


def effect_density(predicted: np.ndarray, real: np.ndarray, unit: str) -> ElementTree.Element:
    """All predicted against all real effects, as a density; the 0.05 % largest lie on the border."""
    limit = float(np.quantile(np.abs(np.concatenate([predicted.ravel(), real.ravel()])), 0.9995)) or 1.0
    edges = np.linspace(-limit, limit, 122)
    counts, _, _ = np.histogram2d(
        np.clip(predicted.ravel(), -limit, limit), np.clip(real.ravel(), -limit, limit), bins=(edges, edges)
    )
    # A quarter up the scale: its darkest blue would vanish on a dark page.
    shade = 0.25 + 0.75 * np.log1p(counts) / np.log1p(counts.max())
    plot = Plot(
        "Density of predicted against real effects, all genes of all perturbations",
        Axis(-limit, limit, f"real effect ({unit})"),
        Axis(-limit, limit, f"predicted effect ({unit})"),
        **_SQUARE,
    )
    plot.image(heat_image(np.where(counts > 0, shade, np.nan)[::-1]))
    plot.line(np.array([-limit, limit]), np.array([-limit, limit]), "identity")
    return plot.svg


def effect_scatter(predicted: pd.Series, real: pd.Series, unit: str) -> ElementTree.Element:
    """Predicted against real effects of one perturbation; the genes that change most are named."""
    chosen = telling_dots(np.maximum(np.abs(predicted.to_numpy()), np.abs(real.to_numpy())))
    x, y = real.to_numpy()[chosen], predicted.to_numpy()[chosen]
    limit = float(np.abs(np.concatenate([x, y])).max(initial=0)) * 1.08 or 1.0
    plot = Plot(
        f"Predicted against real effects of {real.name}",
        Axis(-limit, limit, f"real effect ({unit})"),
        Axis(-limit, limit, f"predicted effect ({unit})"),
        **_SQUARE,
    )
    plot.line(np.array([-limit, limit]), np.array([-limit, limit]), "identity")
    plot.dots(x, y, "prediction", size=4.5)
    plot.name_dots(x, y, real.index.to_numpy()[chosen], np.abs(x))
    return plot.svg


def volcano_pair(
    predicted: DifferentialExpression, real: DifferentialExpression, perturbation: str
) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The volcano plots of one perturbation, real and predicted, on the same axes."""
    tables = {"real": _de_columns(real, perturbation), "predicted": _de_columns(predicted, perturbation)}
    both = tables["real"].add_suffix("_real").join(tables["predicted"].add_suffix("_predicted"), how="outer")
    called = {side: both[f"called_{side}"].fillna(False).to_numpy(bool) for side in tables}
    telling = called["real"] | called["predicted"]
    changes = np.abs(
        both.loc[telling if telling.any() else ~telling, ["change_real", "change_predicted"]].to_numpy(float)
    )
    finite = changes[np.isfinite(changes)]
    # Fold changes against a mean of zero are huge or infinite: the axis is left to the others.
    x_limit = max(1.0, 1.15 * float(np.quantile(finite, 0.97))) if finite.size else 1.0
    heights = both[["height_real", "height_predicted"]].to_numpy(float)
    y_limit = float(np.clip(np.nanmax(heights, initial=2.0), 2.0, _MAX_LOG_P)) * 1.05
    threshold = -np.log10(real.significance)
    plots = []
    for side in ("real", "predicted"):
        plot = Plot(
            f"Volcano plot of {perturbation}, {side}",
            Axis(-x_limit, x_limit, f"{side} log2 fold change"),
            Axis(0, y_limit, "−log10 adjusted p"),
            height=250,
        )
        plot.line(np.array([-x_limit, x_limit]), np.array([threshold, threshold]), "identity")
        x, y = both[f"change_{side}"].to_numpy(float), both[f"height_{side}"].to_numpy(float)
        drawn = np.isin(np.arange(len(both)), telling_dots(np.nan_to_num(y))) & ~np.isnan(x) & ~np.isnan(y)
        other = "predicted" if side == "real" else "real"
        for class_, group in {
            "neither": ~called[side],
            f"only-{side}": called[side] & ~called[other],
            "both": called["real"] & called["predicted"],
        }.items():
            plot.dots(x[drawn & group], y[drawn & group], class_, size=4.5)
        named = drawn & called[side]
        plot.name_dots(x[named], y[named], both.index.to_numpy()[named], y[named] * np.abs(x[named]))
        plots.append(plot.svg)
    return plots[0], plots[1]


def discrimination_heat(distances: pd.DataFrame) -> ElementTree.Element:
    """How close each prediction is to each real perturbation, as ranks within a row: yellow is closest."""
    size = len(distances)
    ranks = rankdata(distances.to_numpy(float), axis=1, nan_policy="omit")
    closeness = 1 - (ranks - 1) / max(size - 1, 1)
    names = [shortened(str(name), 8) for name in distances.index]
    few = size <= 26
    places = np.arange(size) + 0.5
    plot = Plot(
        "Rank of each real perturbation by its distance to each prediction; a good prediction has a yellow diagonal",
        Axis(0, size, "" if few else "real perturbation", ticks=[]),
        Axis(size, 0, "predicted perturbation", ticks=places.tolist() if few else [], names=names if few else []),
        height=372 if few else 366,
        left=72 if few else 30,
        bottom=86 if few else 38,
    )
    plot.image(heat_image(_block_means(closeness, _MAX_HEAT)))
    if few:
        plot.text(plot.left + plot.inner_width / 2, 368, "real perturbation", anchor="middle", class_="axis")
        for place, name in zip(places, names, strict=True):
            x, y = float(plot.x(place)) + 3, plot.top + plot.inner_height + 6
            plot.svg.append(
                element(
                    "text", name, transform=f"translate({x:.1f} {y:.1f}) rotate(-90)", text_anchor="end", class_="tick"
                )
            )
    return plot.svg


def overlap_curves(predicted: DifferentialExpression, real: DifferentialExpression) -> ElementTree.Element | None:
    """Share of the k strongest real DE genes among the k strongest predicted, over k; None if nothing is called.

    Strongest: largest absolute log2 fold change among the genes called at the profile's threshold. At each k only the
    perturbations with at least k real DE genes count.
    """
    order = pd.Index(predicted.genes).get_indexer(real.genes)
    rows = pd.Index(predicted.perturbations).get_indexer(real.perturbations)
    called = real.significant.sum(axis=1)
    if not called.max(initial=0):
        return None
    depths = np.unique(np.geomspace(1, min(int(called.max()), 1000), 40).round().astype(int))
    curves = np.full((len(called), len(depths)), np.nan)
    for index in range(len(called)):
        real_ranks = _strength_ranks(real, index)
        predicted_ranks = np.where(order >= 0, _strength_ranks(predicted, rows[index])[order], np.inf)
        deeper = np.sort(np.maximum(real_ranks, predicted_ranks))
        shares = np.searchsorted(deeper, depths, side="left") / depths
        curves[index] = np.where(depths <= called[index], shares, np.nan)
    plot = Plot(
        "Overlap of the strongest real and predicted differentially expressed genes",
        Axis(1, max(2.0, float(depths[-1])), "k strongest DE genes", log=True),
        Axis(0, 1, "shared of the k"),
    )
    low, middle, high = np.nanquantile(curves, [0.25, 0.5, 0.75], axis=0)
    plot.band(depths, low, high, "prediction")
    plot.line(depths, np.nanmean(curves, axis=0), "prediction")
    plot.line(depths, middle, "prediction median")
    plot.line(depths, depths / len(real.genes), "baseline")
    return plot.svg


def called_genes(predicted: DifferentialExpression, real: DifferentialExpression) -> ElementTree.Element:
    """Number of genes called in each perturbation, predicted against real (0 is drawn at 0.5)."""
    rows = pd.Index(predicted.perturbations).get_indexer(real.perturbations)
    x, y = real.significant.sum(axis=1), predicted.significant.sum(axis=1)[rows]
    high = float(max(x.max(initial=1), y.max(initial=1))) * 1.3
    ticks = [0.5, *[float(10**power) for power in range(int(np.log10(high)) + 1)]]
    names = ["0", *[number(tick) for tick in ticks[1:]]]
    plot = Plot(
        "Number of differentially expressed genes called, predicted against real",
        Axis(0.4, high, "genes called in the real cells", log=True, ticks=ticks, names=names),
        Axis(0.4, high, "genes called in the prediction", log=True, ticks=ticks, names=names),
        **_SQUARE,
    )
    plot.line(np.array([0.4, high]), np.array([0.4, high]), "identity")
    plot.dots(np.maximum(x, 0.5), np.maximum(y, 0.5), "prediction", size=6)
    return plot.svg


def _de_columns(table: DifferentialExpression, perturbation: str) -> pd.DataFrame:
    row = int(np.flatnonzero(table.perturbations == perturbation)[0])
    with np.errstate(divide="ignore"):
        height = np.minimum(-np.log10(table.fdr[row]), _MAX_LOG_P)
    return pd.DataFrame(
        {"change": table.log2_fold_change[row], "height": height, "called": table.significant[row]},
        index=pd.Index(table.genes),
    )


def _strength_ranks(table: DifferentialExpression, row: int) -> np.ndarray:
    """Rank of each called gene by absolute log2 fold change, 0 the largest; infinity for the others."""
    called = table.significant[row]
    strength = np.where(called, np.nan_to_num(np.abs(table.log2_fold_change[row]), nan=0.0, posinf=np.inf), -1.0)
    ranks = np.empty(len(strength))
    ranks[np.argsort(-strength, kind="stable")] = np.arange(len(strength))
    return np.where(called, ranks, np.inf)


def _block_means(values: np.ndarray, limit: int) -> np.ndarray:
    """The matrix averaged down so that no side is longer than the limit."""
    size = -(-max(values.shape) // limit)
    if size == 1:
        return values
    starts = [np.arange(0, length, size) for length in values.shape]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    return sums / np.outer(*[np.diff([*start, length]) for start, length in zip(starts, values.shape, strict=True)])
