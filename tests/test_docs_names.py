"""Commands, options and configuration fields that the pages name exist, and no metric is missing from its page."""

import argparse
import dataclasses
import importlib
import re

import pytest

from state_hf import StateEmbeddingConfig, StateTransitionConfig, StateTransitionTrainingArguments
from state_hf.cli import _COMMANDS
from state_hf.data.screens.prediction_record import PredictionRecord
from state_hf.metrics.profiles import load_profile, profile_names
from tests.documentation_pages import DOCS

README = DOCS.parent / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]


def options_of(command: str) -> set[str]:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"state_hf.cli.{command.replace('-', '_')}").configure(parser)
    parsers = [parser, *(p for a in parser._actions if isinstance(a.choices, dict) for p in a.choices.values())]
    return {option for one in parsers for action in one._actions for option in action.option_strings}


OPTIONS = {command: options_of(command) for command in _COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    # Longer than a line: a command of a block, to its end.
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command, arguments in re.findall(r"state-hf ([a-z][a-z-]*)([^`\n#|]*)", text):
        if command not in _COMMANDS:
            assert not arguments.lstrip().startswith("-"), f"state-hf {command} is no command"
            continue
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", arguments):
            assert option in OPTIONS[command] | {"--help"}, f"state-hf {command} has no {option}"


def rows(name: str) -> list[list[str]]:
    lines = (DOCS / name).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_the_names_of_ours_in_the_map_exist():
    options = set().union(*OPTIONS.values())
    classes = (StateEmbeddingConfig, StateTransitionConfig, StateTransitionTrainingArguments)
    fields = {field.name for cls in classes for field in dataclasses.fields(cls)} | {"attn_implementation"}
    checked = 0
    for _, ours, *_ in rows("from-arc-state.md"):
        command = re.search(r"of `state-hf ([\w-]+)`", ours)
        for name in re.findall(r"`([^`]+)`", ours):
            word = name.split()[0]
            if word.startswith("--"):
                assert word in (OPTIONS[command[1]] if command else options), name
            elif re.fullmatch(r"[a-z]+(_[a-z]+)+", word) and word != "from_pretrained":
                assert word in fields, name
            else:
                continue
            checked += 1
    assert checked > 60


def test_what_a_prediction_records_is_described():
    page = (DOCS / "state-transition.md").read_text(encoding="utf-8").partition("### What a prediction records")[2]
    described = [word for line in page.splitlines() if line.startswith("| `") for word in _words(line.split("|")[1])]
    assert sorted(described) == sorted(field.name for field in dataclasses.fields(PredictionRecord))


def test_old_names_of_the_configurations_are_those_that_are_accepted():
    table = {old: new for cells in rows("from-arc-state.md") for old, new in zip(*map(_words, cells[:2]), strict=False)}
    for config in (StateEmbeddingConfig, StateTransitionConfig):
        for old, new in config.attribute_map.items():
            assert old in table, f"the map lacks {old}"
            assert table[old] in (new, "--feature-key"), (old, table[old])


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_metric_of_every_profile_is_described():
    described = {_words(cells[0])[0]: cells for cells in rows("metrics.md") if len(cells) == 5 and _words(cells[1])}
    of_profiles: dict[str, list[str]] = {}
    for name in profile_names():
        for metric in load_profile(name).metrics:
            of_profiles.setdefault(metric.name, []).append(name)
            best = "none" if metric.best is None else f"{metric.best:g}"
            assert described[metric.name][3] == best, metric.name
            page = re.search(r"\((metrics/[\w-]+\.md)\)", described[metric.name][0])
            assert page, f"{metric.name} has no page"
            assert f"`{metric.name}`" in (DOCS / page[1]).read_text(encoding="utf-8"), metric.name
    assert {name: sorted(_words(cells[1])) for name, cells in described.items()} == {
        name: sorted(profiles) for name, profiles in of_profiles.items()
    }
