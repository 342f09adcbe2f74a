"""The lines and the page made of measurements; nothing is measured."""

import pytest
from benchmark_page import Ratio, comparisons, digits, duration, memory, page, plain_row, ratio, speed, verdicts
from growth_page import curves, draw, exponent, last_step, section


def side(seconds, peak_mb=100.0):
    return {"wall": seconds, "cpu": seconds, "peak_mb": peak_mb, "start_mb": 50.0}


def row(case="Sort cells", ours=(1.0, 2.0), theirs=(2.0, 6.0), peak_mb=100.0, **more):
    sides = {"state-hf": side(list(ours)), "pdex": side(list(theirs), peak_mb)}
    versions = {"state-hf": {"torch": "2.13"}, "pdex": {"pdex": "0.3"}}
    facts = {"items": None, "note": "", "date": "2026-01-02", "load": 0.5, "threads": 1, "versions": versions}
    return {"case": case, "sides": sides, **facts, **more}


def result(*rows, complete=True):
    return {"claim": "Sorting", "complete": complete, "device": "cpu", "rows": list(rows)}


def grown():
    rows = []
    for cells in (10, 100, 1000):
        sides = {"state-hf": side([cells / 10], peak_mb=200.0)}
        rows.append({**row(), "sides": sides, "job": "embed", "cells": cells})
    return result(*rows)


def test_ratio_is_of_neighbouring_turns():
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == Ratio(3.0, 2.0, 4.0)
    assert str(Ratio(3.0, 2.0, 4.0)) == "3.00 (2.00 to 4.00)"
    assert str(Ratio(3.0, 3.0, 3.0)) == "3.00"


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (12.34, "12.3"), (1234.5, "1,234")])
def test_digits(value, text):
    assert digits(value) == text


def test_units():
    assert [duration(seconds) for seconds in (0.05, 1.5, 180.0)] == ["50.0 ms", "1.50 s", "3.00 min"]
    assert [memory(megabytes) for megabytes in (512.4, 1536.0)] == ["512 MB", "1.5 GB"]
    assert speed(side([0.5]), "cells") == "2.00 cells/s"
    assert speed({"amount": 77.0}, "packages") == "77 packages"


def test_what_is_won_drawn_and_lost():
    rows = [row("a"), row("b", theirs=(1.0, 2.0)), row("c", theirs=(0.5, 1.0)), row("d", peak_mb=50.0)]
    won, drawn, lost = verdicts([result(*rows)])
    assert won == ["**2.50 ×** pdex: a", "**2.50 ×** pdex: d"]
    assert drawn == ["**1.00 ×** pdex: b"]
    assert lost == ["**0.50 ×** pdex: c", "**2.00 × the memory** of pdex: d"]


def test_a_yardstick_is_neither_won_nor_lost():
    assert verdicts([result(row(yardsticks=["pdex"]))]) == ([], [], [])


def test_amounts_have_one_ratio():
    amounts = row(items="MB", sides={"state-hf": {"amount": 2.0}, "arc-state": {"amount": 3.0}})
    (pair,) = comparisons(amounts)
    assert pair == ("arc-state", Ratio(1.5, 1.5, 1.5), None, None)
    assert "3 MB" in plain_row(amounts)


def test_page_shows_wins_losses_and_what_is_missing():
    text = page({"sorting": result(row(), row("Shuffle", theirs=(0.5, 1.0)))}, {"rows": "not run"}, "2 cores")
    assert "| Sort cells | 1.50 s | pdex: 4.00 s | 2.50 (2.00 to 3.00) | **2.50 (2.00 to 3.00)** |" in text
    assert "- **0.50 ×** pdex: Shuffle" in text.split("Slower")[1]
    assert "- rows: not run" in text
    assert "Measured 2026-01-02 on 2 cores" in text
    assert "| pdex |  | 0.3 |" in text


def test_exponents_and_figure(tmp_path):
    assert exponent([10, 100, 1000], [1.0, 100.0, 10_000.0]) == pytest.approx(2.0)
    curve = curves(grown())["embed"]
    assert last_step(curve, curve.seconds) == pytest.approx(1.0)
    assert "| embed, tiny model, processor time | 1.00 s | 10.0 s | 100 s | 1.00 | **1.00** |" in section(grown())
    draw(grown(), tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
