"""The page on in-silico perturbations shows every part, whatever the names and however few the numbers."""

import re

import numpy as np
import pandas as pd
import pytest

from state_hf.analysis.in_silico_statistics import Combination, effect_statistics
from state_hf.analysis.perturbation_blocks import PerturbationPlan
from state_hf.analysis.perturbation_tables import InSilicoResult
from state_hf.reporting.perturbation_report import perturbation_page, write_perturbation_report
from state_hf.reporting.perturbation_text import plan_text, result_text, strongest

EFFECTS = ["gene_cosine", "cell_cosine", "cell_distance", "shift_to_goal", "cell_shift_to_goal"]


def made_up(names, *, groups=("all",), cells=20, randoms=5, affected=True) -> InSilicoResult:
    rng = np.random.default_rng(0)
    number = len(names)
    tables = []
    for group in groups:
        values = rng.normal(0, 0.01, (cells, number + randoms, len(EFFECTS)))
        values[:, :, :2] = 1 - np.abs(values[:, :, :2])
        values[:, 1] = np.nan
        held = {one: list(range(number, number + randoms)) for one in range(number)} if randoms else {}
        statistics = effect_statistics(values, EFFECTS, range(number), held, [Combination(2, 0, 3)], seed=0)
        front = {"perturbation": names, "genes": names, "change": "delete", "group": group,
                 "expression_level": np.linspace(0, 1, number)}  # fmt: skip
        tables.append(pd.DataFrame(front).join(statistics))
    genes = None
    if affected:
        pairs = [(one, other) for one in names for other in names if one != other]
        genes = pd.DataFrame(pairs, columns=["perturbation", "affected_gene"])
        genes = genes.assign(cosine=1 - rng.random(len(pairs)) / 10, cells=cells)
    checks = {"cells": cells, "perturbations": number, "random_perturbations": randoms, "without_number": 1,
              "distinct_compared": number, "distinct_alike": 0.4, "distinct_found_again": 0.5,
              "distinct_discrimination": 0.8}  # fmt: skip
    if randoms:
        checks |= {"tested": number - 1, "beyond_95_percent_of_random": 2, "significant": 1}
    record = {"change": "delete", "level": None, "goal": "goal", "source": "cells.h5ad", "model": "model", "genes": {}}
    return InSilicoResult(pd.concat(tables, ignore_index=True), genes, checks, record)


NAMES = [f"GENE{number}" for number in range(40)]


def test_page_shows_every_part():
    page = perturbation_page(made_up(NAMES, groups=("B", "T")))
    for part in (
        "gene cosine, B",
        "shift to goal, T",
        "Beyond random genes",
        "Strongest",
        "Beside the expression",
        "Rank correlation",
        "What perturbations (rows) do",
        "found again",
        "1 differ",
        "cells.h5ad",
    ):
        assert part in page, part
    assert page.count("<svg") == 2 * 2 * 3 + 1
    assert "NaN" not in page
    assert "nan" not in re.sub(r"[a-z]+", "", page)


def test_names_cannot_become_markup(tmp_path):
    names = ["<script>alert(1)</script>", 'a"b', "x&y", "</svg>", *NAMES[:6]]
    path = write_perturbation_report(made_up(names), tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("</svg>") == page.count("<svg")


@pytest.mark.parametrize("options", [{"randoms": 0}, {"cells": 1}, {"affected": False}])
def test_with_less_there_is_a_page_too(options):
    result = made_up(NAMES[:5], **options)
    page = perturbation_page(result)
    assert ("--gene-output" in page) == (options.get("affected") is False)
    text = result_text(result)
    assert "1 of 5 rows have no number" in text
    if options.get("randoms") == 0:
        assert "Beyond random genes? Not known" in text
    assert "nan" not in text


def test_the_strongest_are_those_that_are_surely_strong():
    table = made_up(NAMES).table
    rows = strongest(table, 10)
    assert rows["gene_cosine_minus_random_high"].is_monotonic_increasing
    assert "GENE1" not in strongest(table, 100)["perturbation"].tolist()
    shifts = strongest(table, 10, effect="shift_to_goal")
    assert shifts["shift_to_goal_minus_random_low"].is_monotonic_decreasing


@pytest.mark.parametrize(("seconds", "words"), [(30, "30 seconds"), (600, "10.0 minutes"), (9e5, "10.4 days")])
def test_a_plan_in_words(seconds, words):
    plan = PerturbationPlan(1000, 20, 400, 420000, 1500.0, 140.0, seconds, 2**30, 3 * 10**9, 10**9)
    text = plan_text(plan)
    assert words in text
    assert "420,000 perturbed cells to compute" in text
