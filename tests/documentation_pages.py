"""Runs the code of a documentation page in order, and holds what it prints against what the page shows.

A `python` block is executed, a `console` block is a command of `state-hf` with what it prints (or nothing, where the
page does not show it), a `text` block is what the block before it printed. A line `...` stands for any lines.
"""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state_hf.cli import main

DOCS = Path(__file__).parents[1] / "docs"
_NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?(?:e-?\d+)?%?")


def run_page(name: str, capsys: Any, *, tolerance: float = 0.0) -> dict[str, Any]:
    """Run a page of docs/ in the current folder.

    Args:
        name: Its path below docs/.
        capsys: pytest's fixture.
        tolerance: How far a number may be from that on the page, as a share of it (and as a difference below 1): for
            pages that train a model, where processors differ in the last digits of a sum.

    Returns:
        The names that its Python code defined.
    """
    names: dict[str, Any] = {}
    printed = ""
    for language, text in blocks(name):
        if language == "python":
            exec(compile(text, name, "exec"), names)
            printed = capsys.readouterr().out
        elif language == "console":
            for command, expected in commands(text):
                assert main(shlex.split(command.removeprefix("state-hf "))) == 0, command
                printed = capsys.readouterr().out
                assert not expected or same(printed, expected, tolerance), f"{command}\n{printed}"
        elif language == "text":
            assert same(printed, text, tolerance), printed
    return names


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a page."""
    return re.findall(r"```(\w+)\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def commands(text: str) -> list[tuple[str, str]]:
    """(command, what it prints) of a console block; a command may go on after a backslash."""
    parts = re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]
    return [(command, expected) for command, _, expected in (part.partition("\n") for part in parts)]


def same(printed: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether a text is the one that the page shows, `...` standing for any lines."""
    lines, start = printed.splitlines(), 0
    first, *rest = re.split(r"^\.\.\.\n", expected, flags=re.MULTILINE)
    if not _equal(lines[: len(first.splitlines())], first.splitlines(), tolerance):
        return False
    start = len(first.splitlines())
    for part in rest:
        wanted = part.splitlines()
        places = range(start, len(lines) - len(wanted) + 1)
        place = next((at for at in places if _equal(lines[at : at + len(wanted)], wanted, tolerance)), None)
        if place is None:
            return False
        start = place + len(wanted)
    return start == len(lines) or expected.endswith("...\n")


def _equal(printed: Sequence[str], expected: Sequence[str], tolerance: float) -> bool:
    if not tolerance:
        return printed == expected
    # Columns may be wider or narrower by a digit.
    words = [[word for line in lines for word in (*line.split(), "\n")] for lines in (printed, expected)]
    return len(words[0]) == len(words[1]) and all(_close(*pair, tolerance) for pair in zip(*words, strict=True))


def _close(word: str, other: str, tolerance: float) -> bool:
    if word == other or not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(other)):
        return word == other
    values = [float(text.replace("−", "-").rstrip("%")) for text in (word, other)]
    return math.isclose(*values, rel_tol=tolerance, abs_tol=tolerance)
