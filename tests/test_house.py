"""The rules of the house: floors, no family above its own files, every family complete, one word for one thing."""

import ast
import functools
import importlib
import re
from collections import defaultdict
from pathlib import Path

import pytest

import state_hf
from state_hf.families import FAMILIES, public_classes

PACKAGE = Path(state_hf.__file__).parent
ROOT = PACKAGE.parents[1]
FLOORS = {
    "configuration": 0,
    "model_cards": 0,
    "tokenization": 1,
    "metrics": 1,
    "data": 2,
    "modeling": 2,
    "conversion": 3,
    "gene_embeddings": 3,
    "training": 3,
    "inference": 3,
    "analysis": 3,
    "pipelines": 4,
    "evaluate_modules": 4,
    "reporting": 4,
    "cli": 5,
}
# Room -> room of the same floor that it may go to. Analysis is written over the encoder; a card is of a configuration.
NEIGHBOURS = {
    ("analysis", "inference"),
    ("model_cards", "configuration"),
    ("reporting", "pipelines"),
    # The one reader of pickles.
    ("gene_embeddings", "conversion"),
    ("evaluate_modules", "pipelines"),
    # The page of a metric's Space.
    ("evaluate_modules", "reporting"),
}
# Files of these rooms ask what a model can do, never which family it is of.
BLIND_ROOMS = ("pipelines", "inference", "analysis", "cli")
# What builds and trains the family that is trained from screens, and the vocabulary of a corpus without a model.
VERBS_OF_THE_FIRST_FAMILIES = (
    "pipelines/train.py",
    "cli/train.py",
    "cli/corpus.py",
)


def sources() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts]


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "state_hf" and parts[1] in FLOORS else None


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import of this package in a file, those within functions and for type checkers too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("state_hf"):
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.startswith("state_hf")]
    return found


def test_every_room_has_a_floor():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(FLOORS)


def test_imports_point_to_a_lower_floor_or_stay_in_the_room():
    climbs = []
    for path in sources():
        room = path.relative_to(PACKAGE).parts[0]
        if room not in FLOORS:
            continue
        for line, module in imports_of(path):
            other = room_of(module)
            if other is None or other == room or (room, other) in NEIGHBOURS:
                continue
            if FLOORS[other] >= FLOORS[room]:
                climbs.append(f"{path.relative_to(PACKAGE)}:{line} imports {module}")
    assert not climbs, "\n".join(climbs)


def test_modules_do_not_import_each_other_in_circles():
    modules = {".".join(("state_hf", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in sources()}
    top_level: dict[str, set[str]] = defaultdict(set)
    for module, path in modules.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                top_level[module].add(node.module)
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module in done:
            return
        for other in top_level[module]:
            walk(other, (*above, module))
        done.add(module)

    for module in modules:
        walk(module, ())


def family_modules() -> set[str]:
    return {module for family in FAMILIES for module in public_classes(family).values()}


def test_no_verb_names_a_family():
    """A family's files are imported by its own files, by the table, and by the verbs that are listed with a reason."""
    named = []
    for path in sources():
        place = str(path.relative_to(PACKAGE))
        if path.relative_to(PACKAGE).parts[0] not in BLIND_ROOMS or place in VERBS_OF_THE_FIRST_FAMILIES:
            continue
        own = family_modules()
        named += [f"{place}:{line} imports {module}" for line, module in imports_of(path) if module in own]
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            if re.search(r"model_type\s*(==|!=|in\b)", line) and "FAMILIES" not in line:
                named.append(f"{place}:{number} asks for a model type: {line.strip()}")
    assert not named, "\n".join(named)


@pytest.mark.parametrize("place", VERBS_OF_THE_FIRST_FAMILIES)
def test_an_exception_is_needed(place):
    """An exception that nothing needs any more goes."""
    assert {module for _, module in imports_of(PACKAGE / place)} & family_modules()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_complete(family):
    assert (PACKAGE / "configuration" / f"{family}.py").is_file()
    assert (PACKAGE / "model_cards" / f"{family}.md").is_file()
    words = importlib.import_module(f"state_hf.model_cards.{family}")
    for name in ("facts", "inspection", "CITATION", "LICENCE", "LICENCE_NOTE"):
        assert hasattr(words, name), name
    page = ROOT / "docs" / "models" / f"{family}.md"
    assert page.is_file()
    assert f"models/{family}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    examples = re.findall(r"examples/\w+\.py", page.read_text(encoding="utf-8"))
    assert examples, "the page names no example"
    assert all((ROOT / example).is_file() for example in examples)


def test_no_two_files_have_one_name():
    """One word, one meaning: a stem is a family's, a verb's, or one file's."""
    verbs = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    shared = {"__init__", "app", *verbs, *FAMILIES}
    places: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        # An `evaluate` script is called as its folder is, which is the metric's name on the Hub.
        is_script = path.parent.parent.name == "modules"
        of_a_family = any(path.stem.startswith(f"{family}_") for family in FAMILIES)
        if not (path.stem in shared or is_script or of_a_family):
            places[path.stem].append(str(path.relative_to(PACKAGE)))
    homonyms = {stem: found for stem, found in places.items() if len(found) > 1}
    assert not homonyms, homonyms


def test_no_two_classes_or_public_functions_have_one_name():
    places: dict[str, list[str]] = defaultdict(list)
    for path in sources():
        room = path.relative_to(PACKAGE).parts[0]
        if room in ("cli", "evaluate_modules"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    # What every family's words about its models are called.
    for name in ("facts", "inspection"):
        places.pop(name, None)
    homonyms = {name: found for name, found in places.items() if len(found) > 1}
    assert not homonyms, homonyms


def test_names_without_an_idea_are_no_files():
    vague = {"utils", "helpers", "common", "misc", "util", "helper"}
    assert not [path for path in sources() if path.stem in vague]


def test_nobody_prints_but_the_commands():
    """Ruff's T20 says so, too; a file that is let off there is seen here."""
    printing = [
        str(path.relative_to(PACKAGE))
        for path in sources()
        if path.relative_to(PACKAGE).parts[0] != "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing


# Where a dependency has no public way; the reason stands beside the use.
PRIVATE_USES = {"conversion/pickled_names.py", "data/cells/damage.py", "modeling/fitting_weights.py"}


def test_private_names_of_dependencies_are_used_in_listed_places():
    using = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("state_hf"):
                parts = [*node.module.split("."), *(alias.name for alias in node.names)]
                private = any(part.startswith("_") and not part.startswith("__") for part in parts)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and not node.attr.endswith("__"):
                # `PreTrainedModel._load`, `anndata._io`: of a class or module that was imported from elsewhere.
                private = node.attr.startswith("_") and node.value.id in foreign_names(path)
            else:
                private = False
            if private:
                using.add(str(path.relative_to(PACKAGE)))
    assert using == PRIVATE_USES


@functools.cache
def foreign_names(path: Path) -> set[str]:
    """What a file imports from other packages, by the names that it gives it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("state_hf"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_contributing_lists_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = {room: int(floor) for room, floor in re.findall(r"^\| `(\w+)/` \| (\d) \|", text, re.MULTILINE)}
    assert listed == FLOORS
