"""The examples of docs/evaluation.md run as they stand, and print what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from state_hf.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"


def test_examples_run_and_print_what_the_page_says(tmp_path, monkeypatch, capsys):
    pytest.importorskip("state_hf.data.synthetic_screen")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    printed = None
    for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        if language == "python":
            exec(text, names)
            printed = capsys.readouterr().out
        elif language == "console":
            command, _, expected = text.partition("\n")
            assert main(shlex.split(command.removeprefix("$ state-hf "))) == 0
            printed = capsys.readouterr().out
            assert not expected or printed == expected
        elif language == "text":
            assert printed == text
    assert (tmp_path / "predicted.prep.vcc").is_file()
