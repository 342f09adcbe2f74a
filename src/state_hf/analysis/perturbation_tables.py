"""The tables of a run of perturbations, and whether their effects are distinct and beyond those of random genes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from state_hf.analysis.in_silico_perturbation import PerturbationEffects
from state_hf.analysis.in_silico_statistics import (
    SIGNIFICANCE,
    distinctness,
    effect_statistics,
    impact_probabilities,
)
from state_hf.analysis.perturbation_list import PerturbationList


@dataclass(frozen=True)
class InSilicoResult:
    """What in-silico perturbations do to cells.

    Attributes:
        table: One row a perturbation and group of cells.
        gene_table: One row a perturbation and affected gene, or None.
        checks: How many cells and perturbations, and whether effects are distinct and beyond those of random genes.
        record: All that the numbers depend on.
    """

    table: pd.DataFrame
    gene_table: pd.DataFrame | None
    checks: dict[str, Any]
    record: dict[str, Any]


def cell_table(
    effects: PerturbationEffects,
    effect_names: Sequence[str],
    groups: np.ndarray,
    work: PerturbationList,
    *,
    change: str,
    level: float | None,
    seed: int,
) -> pd.DataFrame:
    """One row for every perturbation that is asked for and every group of cells.

    Args:
        effects: Those on all cells.
        effect_names: What they are.
        groups: (cells,) the group of each.
        work: What was perturbed.
        change: What was done to genes.
        level: Of the change "level".
        seed: Of resamplings and draws.
    """
    asked, levels = work.perturbations[: work.asked], work.census.levels
    tables = []
    for group in sorted(set(groups.tolist())):
        statistics = effect_statistics(
            effects.values[groups == group], effect_names, range(work.asked), work.randoms, work.combinations, seed=seed
        )
        front: dict[str, Any] = {
            "perturbation": [one.name for one in asked],
            "genes": ["+".join(work.names[row] for row in one.rows) for one in asked],
            "change": change,
            **({} if level is None else {"level": level}),
            "group": group,
            "expression_level": [_mean_of_known([float(levels[row]) for row in one.rows]) for one in asked],
        }
        impact = impact_probabilities(statistics["gene_cosine"].to_numpy(), seed=seed)
        behind = {} if impact is None else {"impact_probability": impact}
        tables.append(pd.DataFrame(front).join(statistics).assign(**behind))
    return pd.concat(tables, ignore_index=True)


def affected_table(effects: PerturbationEffects, affected: np.ndarray, work: PerturbationList) -> pd.DataFrame:
    """One row for every perturbation and other gene of the cells: the mean cosine of the gene's state, strongest first.

    Args:
        effects: With sums of genes.
        affected: Vocabulary rows of their columns.
        work: What was perturbed.
    """
    if effects.gene_cosines is None or effects.gene_cells is None:
        raise ValueError("The effects on genes were not summed.")
    which, gene = np.nonzero(effects.gene_cells[: work.asked])
    cells = effects.gene_cells[which, gene]
    columns = {
        "perturbation": np.array([one.name for one in work.perturbations[: work.asked]], dtype=object)[which],
        "affected_gene": np.array([work.names[int(row)] for row in affected], dtype=object)[gene],
        "cosine": effects.gene_cosines[which, gene] / cells,
        "cells": np.rint(cells).astype(np.int64),
    }
    order = np.lexsort((columns["cosine"], which))
    return pd.DataFrame(columns).iloc[order].reset_index(drop=True)


def effect_checks(
    table: pd.DataFrame, effects: PerturbationEffects, work: PerturbationList, *, seed: int
) -> dict[str, Any]:
    """What a reader has to know before the effects: are they distinct, and beyond those of random genes?

    Args:
        table: Of `cell_table`.
        effects: Those on all cells.
        work: What was perturbed.
        seed: Of draws.

    Returns:
        Numbers by name: those of `distinctness` as `distinct_...`; of the rows that have random genes, how many are
        `tested`, are `beyond_95_percent_of_random` genes (by chance, one in twenty), and are `significant`.
    """
    asked = work.asked
    found = distinctness(effects.displacement[:, :asked], effects.displaced[:, :asked], seed=seed)
    checks = {
        "cells": len(effects.values),
        "perturbations": asked,
        "random_perturbations": len(work.perturbations) - asked,
        "without_number": int((table["cells"] == 0).sum()),
        **{f"distinct_{name}": value for name, value in found.items()},
    }
    if "gene_cosine_beyond_random" in table:
        beyond = table["gene_cosine_beyond_random"].dropna()
        checks["tested"] = len(beyond)
        checks["beyond_95_percent_of_random"] = int((beyond > 0.95).sum())
        checks["significant"] = int((table["gene_cosine_q"] < SIGNIFICANCE).sum())
    return checks


def _mean_of_known(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


__all__ = ["InSilicoResult", "affected_table", "cell_table", "effect_checks"]
