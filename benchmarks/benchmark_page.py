"""From what benchmarks measured to lines and to the page of all of them: pure functions."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from peers import PEERS

OURS = "state-hf"
MARGIN = 1.05
"""Ratios within this factor of one are called a draw: repeats of the same thing differ by as much."""

Row = Mapping[str, Any]
Result = Mapping[str, Any]


class Ratio(NamedTuple):
    """How many times as much the peer took: the median of pairs of neighbouring turns, the least and the most."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return digits(self.median)
        return f"{digits(self.median)} ({digits(self.low)} to {digits(self.high)})"


def ratio(peer: Sequence[float], ours: Sequence[float]) -> Ratio:
    pairs = [theirs / own for theirs, own in zip(peer, ours, strict=True)]
    return Ratio(statistics.median(pairs), min(pairs), max(pairs))


def digits(value: float) -> str:
    """A number with three digits that say something, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{digits(seconds / 60)} min"
    return f"{digits(seconds)} s" if seconds >= 0.1 else f"{digits(seconds * 1e3)} ms"


def memory(megabytes: float) -> str:
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.0f} MB"


def peak(side: Mapping[str, Any]) -> str:
    """Peak memory, and what was there before the call; a command has next to nothing before it."""
    before = f" (before {memory(side['start_mb'])})" if side["start_mb"] > 100 else ""
    return memory(side["peak_mb"]) + before


def speed(side: Mapping[str, Any], items: str | None) -> str:
    """What a side took (or is, where it is an amount), as one reads it."""
    if "amount" in side:
        return f"{digits(side['amount']) if side['amount'] % 1 else format(side['amount'], ',.0f')} {items}"
    median = statistics.median(side["wall"])
    return f"{digits(1 / median)} {items}/s" if items else duration(median)


class Comparison(NamedTuple):
    """One side against ours.

    Attributes:
        peer: Its name.
        clock, processor: Ratios of the time by the clock and by the processor; of amounts `clock` alone.
        memory: Ratio of the peaks of memory, where they are known.
    """

    peer: str
    clock: Ratio
    processor: Ratio | None
    memory: float | None


def comparisons(row: Row) -> list[Comparison]:
    ours = row["sides"][OURS]
    found = []
    for name, side in row["sides"].items():
        if name == OURS:
            continue
        if "amount" in side:
            found.append(Comparison(name, ratio([side["amount"]], [ours["amount"]]), None, None))
            continue
        peaks = side["peak_mb"] / ours["peak_mb"]
        found.append(Comparison(name, ratio(side["wall"], ours["wall"]), ratio(side["cpu"], ours["cpu"]), peaks))
    return found


def is_yardstick(row: Row, name: str) -> bool:
    """Whether a side is no peer but a yardstick: a bound, or the plain way to do it."""
    return name in row.get("yardsticks", ())


def plain_row(row: Row) -> str:
    """A row as lines for the terminal."""
    lines = [row["case"]]
    for name, side in row["sides"].items():
        peak = f"  peak {memory(side['peak_mb'])}" if "peak_mb" in side else ""
        cpu = f"  CPU {duration(statistics.median(side['cpu']))}" if "cpu" in side else ""
        lines.append(f"  {name:16} {speed(side, row['items'])}{cpu}{peak}")
    for pair in comparisons(row):
        cpu = f", {pair.processor} by processor time" if pair.processor else ""
        peak = f", {digits(pair.memory)} x the memory" if pair.memory else ""
        lines.append(f"  {pair.peer} over ours: {pair.clock} x by the clock{cpu}{peak}")
    if row.get("note"):
        lines.append(f"  {row['note']}")
    return "\n".join(lines)


def verdicts(results: Sequence[Result]) -> tuple[list[str], list[str], list[str]]:
    """Lines for what we win, draw and lose, by processor time; memory that we use more of is a loss of its own."""
    won, drawn, lost = [], [], []
    for result in results:
        for row in result["rows"]:
            for pair in comparisons(row):
                if is_yardstick(row, pair.peer):
                    continue
                factor = (pair.processor or pair.clock).median
                line = f"**{digits(factor)} ×** {pair.peer}: {row['case']}"
                (won if factor > MARGIN else drawn if factor > 1 / MARGIN else lost).append(line)
                if pair.memory is not None and pair.memory < 1 / MARGIN:
                    lost.append(f"**{digits(1 / pair.memory)} × the memory** of {pair.peer}: {row['case']}")
    return won, drawn, lost


def table(result: Result) -> list[str]:
    """A claim's rows as a Markdown table, and the notes below it."""
    timed = any("wall" in side for row in result["rows"] for side in row["sides"].values())
    head = ["", "ours", "the other", "by the clock", "by processor time", "peak memory"]
    if not timed:
        head = ["", "ours", "the other", "ratio"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    notes = []
    for row in result["rows"]:
        ours = row["sides"][OURS]
        for pair in comparisons(row):
            side = row["sides"][pair.peer]
            cells = [row["case"], speed(ours, row["items"]), f"{pair.peer}: {speed(side, row['items'])}"]
            if pair.processor is None:
                cells += [f"**{pair.clock}**"]
            else:
                cells += [str(pair.clock), f"**{pair.processor}**", f"{peak(ours)}; other {peak(side)}"]
            lines.append(f"| {' | '.join(cells)} |")
        if row.get("note"):
            notes += ["", f"{row['case']}: {row['note']}"]
    return lines + notes


def repeats_of(result: Result) -> str:
    numbers = sorted({len(row["sides"][OURS].get("wall", [0])) for row in result["rows"]})
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def section(title: str, result: Result) -> list[str]:
    loads = [row["load"] for row in result["rows"]]
    facts = [f"`benchmarks/{title}.py`", f"repeats: {repeats_of(result)}", f"load {min(loads):.1f} to {max(loads):.1f}"]
    if result["device"] != "cpu":
        facts.append(result["device"])
    return [f"### {result['claim'].rstrip('.')}", "", *table(result), "", f"<small>{' · '.join(facts)}</small>", ""]


def versions_table(results: Sequence[Result]) -> list[str]:
    """Versions of what matters, a column an environment."""
    columns: dict[str, dict[str, str]] = {}
    for result in results:
        for row in result["rows"]:
            for name, versions in row.get("versions", {}).items():
                if not is_yardstick(row, name):
                    columns.setdefault(PEERS.get(name, name), {}).update(versions)
    packages = sorted({package for versions in columns.values() for package in versions})
    lines = [f"| in the environment of | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for package in packages:
        row = [package, *(versions.get(package, "") for versions in columns.values())]
        lines += [f"| {' | '.join(row)} |"]
    return lines


def listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"**{title}**", "", *(f"- {line}" for line in lines), ""] if lines else []


def page(results: Mapping[str, Result], missing: Mapping[str, str], machine: str, growth: Sequence[str] = ()) -> str:
    """The page of all benchmarks.

    Args:
        results: What every benchmark measured, by its name, in the order of the page.
        missing: Benchmarks that were not run, and why.
        machine: The machine in words.
        growth: The lines of the section on growth.

    Returns:
        Markdown.
    """
    measured = list(results.values())
    rows = [row for result in measured for row in result["rows"]]
    dates = sorted({row["date"] for row in rows})
    won, drawn, lost = verdicts(measured)
    threads = sorted({row["threads"] for row in rows})
    loads = [row["load"] for row in rows]
    lines = [
        "# Benchmarks",
        "",
        "Ours against the reference tools. Both do the same work on the same generated data in the same run, in turns,",
        "each in a process and an environment of its own. A ratio is the other's time over ours, so more than 1 means",
        "that ours is faster: the median over neighbouring turns, the least and the most. Processor time counts the",
        "work of all threads, and other programs on the machine disturb it less than the clock. Peak memory is that of",
        "the whole process, with its imports and the data that were there before the call.",
        "`make bench` measures it all again and writes this page;",
        "`python benchmarks/run_all.py --quick` shows in minutes that it runs, and `--device cuda` is for a GPU.",
        "",
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {machine}; threads of each contestant:"
        f" {', '.join(map(str, threads))}; load average {min(loads):.1f} to {max(loads):.1f}, which is above the number"
        " of cores where other programs took their share: compare processor times then.",
        "Speed and memory only: weights are random; nothing here is about quality.",
        "",
        "## In short",
        "",
        *listed("Faster than the peer, by processor time, or smaller", won),
        *listed(f"No difference beyond a factor of {MARGIN}", drawn),
        *listed("Slower, or more memory", lost or ["nothing that was measured"]),
        *listed("Not measured", [f"{name}: {why}" for name, why in missing.items()]),
        "## Every measurement",
        "",
    ]
    for name, result in results.items():
        lines += section(name, result)
    lines += [*growth, "## Versions", "", *versions_table(measured), ""]
    return "\n".join(lines)
