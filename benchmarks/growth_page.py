"""The growth benchmark as a figure and as the section of the page."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark_page import duration, memory

WORDS = {"embed": "embed, tiny model", "evaluate": "evaluate, `vcc2025`", "read": "read one epoch of sets"}
COLOURS = {"embed": "#0072b2", "evaluate": "#d55e00", "read": "#009e73"}


class Curve(NamedTuple):
    """One job's cost by the number of cells: processor seconds, and the peak and the start of memory in MB."""

    cells: list[int]
    seconds: list[float]
    peak_mb: list[float]
    start_mb: list[float]


def curves(result: Mapping[str, Any]) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    for row in result["rows"]:
        curve, side = found.setdefault(row["job"], Curve([], [], [], [])), row["sides"]["state-hf"]
        curve.cells.append(row["cells"])
        curve.seconds.append(statistics.median(side["cpu"]))
        curve.peak_mb.append(side["peak_mb"])
        curve.start_mb.append(side["start_mb"])
    return found


def exponent(cells: Sequence[float], cost: Sequence[float]) -> float:
    """The power of the number of cells that a cost grows with: the slope of a line through the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (cells, cost))
    return statistics.linear_regression(x, y).slope


def last_step(curve: Curve, cost: Sequence[float]) -> float:
    return exponent(curve.cells[-2:], cost[-2:])


def section(result: Mapping[str, Any]) -> list[str]:
    """Markdown lines: the figure, and the numbers in it."""
    found = curves(result)
    cells = next(iter(found.values())).cells
    head = ["", *(f"{number:,} cells" for number in cells), "exponent, all", f"exponent, from {cells[-2]:,}"]
    lines = ["## Growth", "", "![Processor time and peak memory by the number of cells](images/growth.png)", ""]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for job, curve in found.items():
        fits = [f"{exponent(curve.cells, curve.seconds):.2f}", f"**{last_step(curve, curve.seconds):.2f}**"]
        lines.append(f"| {WORDS[job]}, processor time | {' | '.join([*map(duration, curve.seconds), *fits])} |")
        fits = [f"{exponent(curve.cells, curve.peak_mb):.2f}", f"**{last_step(curve, curve.peak_mb):.2f}**"]
        lines.append(f"| {WORDS[job]}, peak memory | {' | '.join([*map(memory, curve.peak_mb), *fits])} |")
    start = memory(min(min(curve.start_mb) for curve in found.values()))
    lines += [
        "",
        "Cost grows as the number of cells to the power of the exponent; 1 is linear. Costs that do not depend on the",
        f"cells lower it at small sizes, so the last step tells more. Imports take {start} and more of the memory.",
        "Screens have 20 perturbations and 500 genes; an evaluation reads two files. Sets draw cells from a whole",
        "file: in a small one several lie close enough to be read together, in a large one each is a read of its own.",
        "With a million cells nearly all are, so that from there on an epoch of sets is linear, too.",
        "",
        "<small>`benchmarks/growth.py`</small>",
        "",
    ]
    return lines


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the curves of time and memory, with lines of exponent one to compare them with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for job, curve in curves(result).items():
        name = WORDS[job].replace("`", "")
        label = f"{name}: n$^{{{last_step(curve, curve.seconds):.2f}}}$"
        left.plot(curve.cells, curve.seconds, "o-", color=COLOURS[job], label=label)
        label = f"{name}: n$^{{{last_step(curve, curve.peak_mb):.2f}}}$"
        right.plot(curve.cells, curve.peak_mb, "o-", color=COLOURS[job], label=label)
    ends = [min(curve.cells), max(curve.cells)]
    most = max(curve.seconds[-1] for curve in curves(result).values())
    left.plot(ends, [2 * most * end / ends[-1] for end in ends], ":", color="0.6", label="linear")
    left.set(ylabel="processor time (s)")
    right.set(ylabel="peak memory (MB)")
    right.set_ylim(100, max(10_000, *(2 * max(curve.peak_mb) for curve in curves(result).values())))
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="cells (n)")
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=130)
    plt.close(figure)
