"""Every way out that a message of the library names exists: as an argument in Python, as an option of the command.

Read from the source: the texts of messages, with {} for what is filled in.
"""

import argparse
import ast
import contextlib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import state_hf
from state_hf.cli import _COMMANDS, options_of
from state_hf.configuration.advice import Advised, told

SOURCE = Path(state_hf.__file__).parent
_ARGUMENT = re.compile(r"\b([a-z][a-z0-9_]*)=(?=\.\.\.|True|'|\{)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_COMMAND = re.compile(r"`state-hf ([a-z-]+)([^`]*)`")


def parser_of(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"state_hf.cli.{command.replace('-', '_')}").configure(parser)
    return parser


def options(command):
    """What an error is told in, of each of its actions: `genes` has two."""
    parser = parser_of(command)
    inner = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not inner:
        dests = {action.dest for action in parser._actions}
        return [options_of(parser, argparse.Namespace(**dict.fromkeys(dests)))]
    return [
        {action.dest: max(action.option_strings, key=len) for action in one._actions if action.option_strings}
        for one in inner[0].choices.values()
    ]


OPTIONS = {command: options(command) for command in _COMMANDS}
FLAGS = {command: {flag for one in of for flag in one.values()} for command, of in OPTIONS.items()}


def text_of(node):
    """The text of a string in the source, {} for what is filled in; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def texts(tree):
    """(text, whether it is a way out) of every string of a module but its docstrings; those of f-strings whole."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    ways = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Advised":
            ways |= {id(argument) for argument in node.args[1:]}
        # Said more than once, or made before: a constant, or what is called a way.
        if isinstance(node, ast.Assign) and re.fullmatch(r"_?[A-Z_]+|way", getattr(node.targets[0], "id", "")):
            ways.add(id(node.value))
        if isinstance(node, ast.keyword) and re.fullmatch(r"(\w+_)?way|declare|instead", node.arg or ""):
            ways.add(id(node.value))
    for node in ast.walk(tree):
        text = text_of(node)
        if text is not None and id(node) not in skipped:
            yield text, id(node) in ways


MODULES = {
    path.relative_to(SOURCE).as_posix(): list(texts(ast.parse(path.read_text(encoding="utf-8"))))
    for path in sorted(SOURCE.rglob("*.py"))
}
WAYS = [(module, text) for module, found in MODULES.items() for text, is_way in found if is_way]


def arguments_of_the_library():
    """Names of all parameters of the package's functions and classes."""
    names = set()
    for module in pkgutil.walk_packages(state_hf.__path__, "state_hf."):
        if module.name.startswith(("state_hf.cli", "state_hf.__main__", "state_hf.evaluate_modules.modules")):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if callable(value) and getattr(value, "__module__", "").startswith("state_hf"):
                with contextlib.suppress(ValueError):  # exceptions have no signature
                    names |= set(inspect.signature(value).parameters)
    return names


def test_there_are_messages_to_look_at():
    assert len(WAYS) > 40
    assert any("(overwrite=True)" in text for _, text in WAYS)


def test_every_argument_of_a_way_out_is_one_of_the_library():
    # `convert` passes on what belongs to a format.
    known = arguments_of_the_library() | {name for one in OPTIONS["convert"] for name in one}
    for module, text in WAYS:
        for name in _ARGUMENT.findall(text):
            assert name in known, f"{module}: {text}"


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith(("cli/", "reporting/"))])
def test_the_library_names_arguments_and_options_of_named_commands_only(module):
    for text, _ in MODULES[module]:
        for command, rest in _COMMAND.findall(text):
            assert command in _COMMANDS, text
            assert set(_FLAG.findall(rest)) <= FLAGS[command], text
        assert not re.search(r"(?<![\w-])--[a-z{]", _COMMAND.sub("", text)), (
            f"{text!r} names an option, not an argument"
        )


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("cli/")])
def test_advice_with_an_argument_is_a_way_out_that_a_command_can_leave_out(module):
    ours = "|".join({name for of in OPTIONS.values() for one in of for name in one})
    told_to = re.compile(
        rf"\((?:(?:{ours})=(?:\.\.\.|True|'[^'{{]*')[, ]*)+\)|\b(?:use|pass|give|try|choose) (?:{ours})="
    )
    for text, is_way in MODULES[module]:
        assert is_way or not told_to.search(text), f"{text!r} is advice: say it in `Advised`"


@pytest.mark.parametrize("command", _COMMANDS)
def test_what_a_command_is_told_it_can_do(command):
    for module, text in WAYS:
        for known in OPTIONS[command]:
            said = told(ValueError(Advised("It is wrong", text)), known)
            if said != "It is wrong":
                assert not _ARGUMENT.findall(said), f"{module}: {said}"
                assert set(_FLAG.findall(_COMMAND.sub("", said))) <= set(known.values()), f"{module}: {said}"


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_command_names_its_own_options(command):
    module = f"cli/{command.replace('-', '_')}.py"
    for text, _ in MODULES[module]:
        for other, rest in _COMMAND.findall(text):
            assert set(_FLAG.findall(rest)) <= FLAGS[other], text
        assert set(_FLAG.findall(_COMMAND.sub("", text))) <= FLAGS[command] | {"--help", "--config_file"}, text
