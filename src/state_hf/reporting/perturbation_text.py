"""What `state-hf perturb` prints."""

import math

import pandas as pd

from state_hf.analysis.in_silico_statistics import COSINES
from state_hf.analysis.perturbation_blocks import PerturbationPlan
from state_hf.analysis.perturbation_tables import InSilicoResult

_ROWS = 10


def plan_text(plan: PerturbationPlan) -> str:
    """What a run would take, in lines."""
    lines = [
        f"{plan.cells:,} cells of {plan.tokens:,.0f} tokens on average",
        f"{plan.perturbations:,} perturbations, and {plan.random_perturbations:,} of random genes to hold them against",
        f"{plan.copies:,} perturbed cells to compute, at most",
        f"{plan.copies_per_second:,.1f} of them a second in each process, measured here",
        f"{_duration(plan.seconds)} to compute",
        f"{plan.memory_bytes / 1e9:.2f} GB of memory while measuring, about {plan.table_bytes / 1e9:.2f} GB for the "
        f"tables in the end, {plan.disk_bytes / 1e9:.2f} GB of blocks on disk",
    ]
    return "\n".join(lines)


def result_text(result: InSilicoResult) -> str:
    """The strongest perturbations, and what their effects are worth, in lines."""
    return "\n".join([*_strongest(result.table), "", *check_lines(result)])


def check_lines(result: InSilicoResult) -> list[str]:
    """Whether effects are distinct, and beyond those of random genes."""
    checks = result.checks
    lines = []
    if checks["without_number"]:
        lines.append(
            f"{checks['without_number']:,} of {len(result.table):,} rows have no number: no cell has the genes among "
            "those that the model reads of it. None expresses them, or others stand before them and fill the model's "
            "length."
        )
    if checks["distinct_discrimination"] is None:
        lines.append("Distinct? Too few perturbations move cells of both halves to say.")
    else:
        lines.append(
            f"Distinct? Of {checks['distinct_compared']:,} perturbations, {checks['distinct_found_again']:.1%} are "
            "found again by their direction in the other half of the cells (by chance "
            f"{1 / checks['distinct_compared']:.1%}); discrimination {checks['distinct_discrimination']:.2f} (by "
            f"chance 0.50). Mean cosine between two of them: {checks['distinct_alike']:.2f}."
        )
    if not checks.get("tested"):
        lines.append("Beyond random genes? Not known: there are none to hold the perturbations against.")
    else:
        lines.append(
            f"Beyond random genes of like expression? {checks['beyond_95_percent_of_random']:,} of "
            f"{checks['tested']:,} move cells more than 95 % of their random genes do (by chance "
            f"{0.05 * checks['tested']:.1f}); {checks['significant']:,} differ from theirs at a false discovery rate "
            "of 5 % (Wilcoxon, over cells)."
        )
    return lines


def strongest(table: pd.DataFrame, number: int, *, effect: str = "gene_cosine") -> pd.DataFrame:
    """The rows whose perturbations move cells most, those without a number left out.

    In the order of that end of the interval (beyond random genes, where there are some) that is nearest to no effect:
    a large effect in a single cell says little. Without an interval, rows come last, by the effect.
    """
    is_cosine = effect in COSINES
    column = f"{effect}_minus_random" if f"{effect}_minus_random" in table else effect
    known = table[table["cells"] > 0]
    order = known.sort_values(effect, ascending=is_cosine, kind="stable")
    end = f"{column}_high" if is_cosine else f"{column}_low"
    return order.sort_values(end, ascending=is_cosine, kind="stable", na_position="last").head(number)


def _strongest(table: pd.DataFrame) -> list[str]:
    groups = table["group"].nunique() > 1
    columns = f"{'perturbation':<24}{'cells':>8}{'1 - gene cosine':>17}"
    lines = [f"{columns}  {'95 % interval':<22}{'- random genes':>15}{'q':>10}"]
    for row in strongest(table, _ROWS).to_dict("records"):
        name = f"{row['perturbation']} ({row['group']})" if groups else row["perturbation"]
        low, high = 1 - row["gene_cosine_high"], 1 - row["gene_cosine_low"]
        difference, q = -row.get("gene_cosine_minus_random", math.nan), row.get("gene_cosine_q", math.nan)
        interval = "-" if math.isnan(low) else f"{low:.2e} to {high:.2e}"
        lines.append(
            f"{name[:23]:<24}{row['cells']:>8,}{1 - row['gene_cosine']:>17.3e}  {interval:<22}"
            f"{_number(difference, '+.2e'):>15}{_number(q, '.1e'):>10}"
        )
    return lines


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"


__all__ = ["check_lines", "plan_text", "result_text", "strongest"]
