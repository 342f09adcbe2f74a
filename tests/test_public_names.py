"""Public names are the same for the interpreter, which imports them lazily, and for type checkers, which read lists."""

import ast
import importlib
from pathlib import Path

import pytest

import state_hf
from state_hf.families import FAMILIES, FORMER_NAMES, auto_classes, config_class, public_classes

SOURCE = Path(state_hf.__file__).parent


def names_for_type_checkers(file: str) -> dict[str, str]:
    """Name -> module of the imports in a file's TYPE_CHECKING block that make a name public (`import x as x`)."""
    blocks = [
        node
        for node in ast.parse((SOURCE / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    return {
        alias.name: node.module
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def test_type_checkers_see_every_public_name():
    listed = names_for_type_checkers("__init__.py") | names_for_type_checkers("families.py")
    assert listed == state_hf._EXPORTS
    assert (SOURCE / "py.typed").is_file()


@pytest.mark.parametrize("name", sorted(state_hf._EXPORTS))
def test_every_public_name_can_be_imported(name):
    assert getattr(state_hf, name).__name__ == name


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_row_names_classes_that_know_each_other(model_type):
    config = config_class(model_type)
    assert config.model_type == model_type
    for role, (module, name) in auto_classes(model_type).items():
        found = getattr(importlib.import_module(module), name)
        if role.startswith("AutoModel"):
            assert issubclass(found.config_class, config), role
    assert set(public_classes(model_type)) <= set(state_hf.__all__)


def test_a_former_name_is_no_public_one_and_still_finds_its_class():
    for former, name in FORMER_NAMES.items():
        assert former not in state_hf.__all__
        assert getattr(state_hf, former) is getattr(state_hf, name)
