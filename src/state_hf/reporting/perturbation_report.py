"""One page on in-silico perturbations: which ones move cells, beside random genes, and what they do to other genes."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from state_hf.analysis.in_silico_statistics import COSINES, SIGNIFICANCE
from state_hf.analysis.perturbation_tables import InSilicoResult
from state_hf.reporting.markup import element, number
from state_hf.reporting.page import drawn, flat, render, table_of, words, write_page
from state_hf.reporting.perturbation_text import check_lines, strongest
from state_hf.reporting.png_image import heat_image
from state_hf.reporting.svg_plot import Axis, Plot, shortened, telling_dots

_ROWS = 25
_TABLE_ROWS = 50
_HEAT_GENES = 24
_HEAT_CELLS = 5
_MAX_LOG_Q = 50.0


def write_perturbation_report(result: InSilicoResult, path: str | Path) -> Path:
    """Write the page.

    Args:
        result: What `state_hf.perturb` returned.
        path: The `.html` file; written under a temporary name and renamed.

    Returns:
        The path.
    """
    return write_page(perturbation_page(result), path)


def perturbation_page(result: InSilicoResult) -> str:
    """The page as text; its styles are inside it, and every name is escaped."""
    record, table = result.record, result.table
    effects = ["gene_cosine", *([f"shift_to_{record['goal']}"] if record["goal"] is not None else [])]
    level = "" if record["level"] is None else f" to level {record['level']:g}"
    return render(
        "perturbation.html",
        title=f"In-silico perturbation: {record['change']}{level}",
        summary=f"{record['source']}, {result.checks['cells']:,} cells, {result.checks['perturbations']:,} "
        f"perturbations, {result.checks['random_perturbations']:,} further ones of random genes; {record['model']}.",
        checks=check_lines(result),
        groups=[_group(table[table["group"] == group], str(group), effects) for group in table["group"].unique()],
        heat=_heat(result),
        affected=result.gene_table is not None,
        settings=flat({name: value for name, value in record.items() if name != "genes"}),
    )


def _group(table: pd.DataFrame, name: str, effects: list[str]) -> dict[str, Any]:
    parts = []
    for effect in effects:
        rows = strongest(table, len(table), effect=effect)
        figures = [
            {
                "title": "Beyond random genes",
                "svg": drawn(_volcano(rows, effect)),
                "caption": f"Right of 0: more than the mean of the random genes of like expression. Above the line: a "
                f"false discovery rate below {SIGNIFICANCE:g} (Wilcoxon rank-sum, over cells).",
            }
            if f"{effect}_q" in rows
            else None,
            {
                "title": "Strongest",
                "svg": drawn(_ranking(rows.head(_ROWS), effect)),
                "caption": "With 95 % intervals over cells, in the order of their ends that are nearest to no effect.",
            },
            {
                "title": "Beside the expression",
                "svg": drawn(_by_expression(rows, effect)),
                "caption": _expression_caption(rows, effect),
            },
        ]
        suffixes = ("", "_low", "_high", "_minus_random", "_beyond_random", "_q", "_beyond_sum", "_beyond_sum_q")
        columns = ["cells", *(f"{effect}{suffix}" for suffix in suffixes)]
        shown = rows.head(_TABLE_ROWS).set_index("perturbation")
        shown = shown[[column for column in columns if column in shown]]
        parts.append(
            {
                "title": words(effect),
                "figures": [figure for figure in figures if figure],
                "table": table_of(shown, "perturbation"),
                "cut": len(rows) > _TABLE_ROWS,
            }
        )
    return {"name": name, "parts": parts}


def _change(rows: pd.DataFrame, effect: str, suffix: str = "") -> np.ndarray:
    """What a perturbation moves, larger for more: of cosines, what is missing to 1."""
    values = rows[f"{effect}{suffix}"].to_numpy(float)
    if effect not in COSINES:
        return values
    return -values if "minus" in suffix else 1 - values


def _label(effect: str) -> str:
    return f"1 − {words(effect)}" if effect in COSINES else words(effect)


def _volcano(rows: pd.DataFrame, effect: str) -> ElementTree.Element:
    x = _change(rows, effect, "_minus_random")
    with np.errstate(divide="ignore"):
        y = np.minimum(-np.log10(rows[f"{effect}_q"].to_numpy(float)), _MAX_LOG_Q)
    known = np.isfinite(x) & np.isfinite(y)
    x, y, names = x[known], y[known], rows["perturbation"].to_numpy(object)[known]
    limit = float(np.abs(x).max(initial=0)) * 1.1 or 1.0
    top = max(2.0, float(y.max(initial=0)) * 1.1)
    plot = Plot(
        f"Volcano plot of {words(effect)}",
        Axis(-limit, limit, f"{_label(effect)}, minus random genes"),
        Axis(0, top, "−log10 false discovery rate"),
    )
    line = -np.log10(SIGNIFICANCE)
    plot.line(np.array([-limit, limit]), np.array([line, line]), "identity")
    called, shown = y > line, np.isin(np.arange(len(y)), telling_dots(y))
    plot.dots(x[shown & ~called], y[shown & ~called], "neither", size=4.5)
    plot.dots(x[shown & called], y[shown & called], "prediction", size=4.5)
    plot.name_dots(x[shown], y[shown], names[shown], (y * np.abs(x))[shown])
    return plot.svg


def _ranking(rows: pd.DataFrame, effect: str) -> ElementTree.Element:
    suffix = "_minus_random" if f"{effect}_minus_random_low" in rows else ""
    values = _change(rows, effect, suffix)
    ends = np.stack([_change(rows, effect, f"{suffix}{end}") for end in ("_low", "_high")])
    ends = np.where(np.isnan(ends), values, ends)
    places = np.arange(len(rows), dtype=float) + 0.5
    low, high = float(min(np.nanmin(ends, initial=0), 0)), float(max(np.nanmax(ends, initial=0), 0))
    plot = Plot(
        f"Strongest perturbations by {words(effect)}",
        Axis(low, high, _label(effect) + (", minus random genes" if suffix else "")),
        Axis(len(rows) or 1, 0, ticks=places.tolist(), names=[shortened(str(n), 14) for n in rows["perturbation"]]),
        height=60 + 14 * max(len(rows), 1),
        left=104,
    )
    for place, one, two in zip(places, *ends, strict=True):
        plot.line(np.array([one, two]), np.array([place, place]), "prediction")
    plot.dots(values, places, "prediction", size=6)
    return plot.svg


def _by_expression(rows: pd.DataFrame, effect: str) -> ElementTree.Element:
    x, y = rows["expression_level"].to_numpy(float), _change(rows, effect)
    known = np.isfinite(x) & np.isfinite(y)
    x, y, names = x[known], y[known], rows["perturbation"].to_numpy(object)[known]
    shown = telling_dots(np.abs(y))
    low, high = float(y.min(initial=0)), float(y.max(initial=0))
    plot = Plot(
        f"{words(effect)} against the expression level of the genes",
        Axis(0, 1, "level among the expressed genes of a cell (1: highest)"),
        Axis(low, high * 1.05 or 1.0, _label(effect)),
        left=56,
    )
    plot.dots(x[shown], y[shown], "neither", size=4.5)
    plot.name_dots(x[shown], y[shown], names[shown], np.abs(y)[shown])
    return plot.svg


def _expression_caption(rows: pd.DataFrame, effect: str) -> str:
    x, y = rows["expression_level"].to_numpy(float), _change(rows, effect)
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return "Too few perturbations for a correlation."
    found = float(spearmanr(x[known], y[known]).statistic)
    return (
        f"Rank correlation {number(found)} over {known.sum():,} perturbations: so far, the expression alone tells the "
        "effect."
    )


def _heat(result: InSilicoResult) -> Any:
    """The strongest perturbations by the genes that they change most: what is missing to a cosine of 1."""
    if result.gene_table is None:
        return None
    names = strongest(result.table, _ROWS)["perturbation"].drop_duplicates().tolist()
    # Of a few cells, the largest changes are chance.
    enough = result.gene_table["cells"] >= min(_HEAT_CELLS, result.checks["cells"])
    table = result.gene_table[enough & result.gene_table["perturbation"].isin(names)]
    if not len(table):
        return None
    matrix = 1 - table.pivot(index="perturbation", columns="affected_gene", values="cosine").reindex(names)
    genes = matrix.max(axis=0).sort_values(ascending=False, kind="stable").index[:_HEAT_GENES]
    matrix = matrix[genes]
    top = float(np.nanmax(matrix.to_numpy(), initial=0)) or 1.0
    rows, columns = matrix.shape
    plot = Plot(
        "What perturbations (rows) do to other genes (columns): yellow is most",
        Axis(0, columns, ticks=[]),
        Axis(rows, 0, ticks=(np.arange(rows) + 0.5).tolist(), names=[shortened(str(name), 12) for name in names]),
        height=90 + 12 * rows,
        left=88,
        bottom=84,
    )
    plot.image(heat_image(matrix.to_numpy() / top))
    for place, gene in enumerate(genes):
        x, y = float(plot.x(place + 0.5)) + 3, plot.top + plot.inner_height + 5
        turned = f"translate({x:.1f} {y:.1f}) rotate(-90)"
        plot.svg.append(element("text", shortened(str(gene), 12), transform=turned, text_anchor="end", class_="tick"))
    caption = (
        f"From blue (unchanged) to yellow ({number(top)} missing to a cosine of 1); empty where fewer than "
        f"{_HEAT_CELLS} cells have both genes. The {columns} genes that are changed most, all groups of cells together."
    )
    return {"svg": drawn(plot.svg), "caption": caption}


__all__ = ["perturbation_page", "write_perturbation_report"]
