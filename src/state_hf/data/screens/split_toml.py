"""Reads and writes the TOML file in which the field declares splits (arc-state, cell-load)."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from state_hf.configuration.near_names import nearest
from state_hf.data.cells.open_cells import holds_cells
from state_hf.data.screens.split_definition import Context, SplitDefinition, SplitPart
from state_hf.data.whole_files import written_whole
from state_hf.tokenization.text_files import read_text

_TABLES = ("datasets", "training", "zeroshot", "fewshot", "exclude")
_SUFFIXES = (".h5ad", ".h5")


def _context(key: str, datasets: Mapping[str, str], table: str, path: Path) -> Context:
    """Splits "name.cell type" after the longest name of a dataset that fits, as both may hold dots."""
    fitting = [name for name in datasets if key.startswith(f"{name}.")]
    if not fitting:
        if "." not in key:
            raise ValueError(
                f'{path}: [{table}] names {key!r}, which is not of the form "dataset.cell type" (in quotes)'
            )
        raise ValueError(f"{path}: {key!r} in [{table}] starts with no known dataset; {nearest(key, list(datasets))}")
    name = max(fitting, key=len)
    return name, key[len(name) + 1 :]


def _names(value: Any, place: str) -> list[str]:
    # Labels that are numbers may stand without quotes; a TOML true is none.
    if not isinstance(value, list) or not all(type(name) in (str, int, float) for name in value):
        raise ValueError(f"{place} must be a list of perturbations in quotes")
    return value


def _fewshot(key: str, value: Any, path: Path) -> dict[str, list[str]]:
    place = f'{path}: [fewshot."{key}"]'
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be a table with the lists val and test")
    unknown = sorted(set(value) - {"val", "test"})
    if unknown:
        raise ValueError(f"{place} has the entry {unknown[0]!r}; only val and test are lists there, the rest trains")
    return {part: _names(names, f"{place} {part}") for part, names in value.items()}


def read_split_toml(path: str | Path) -> SplitDefinition:
    """Read a split from TOML, as arc-state and cell-load understand it.

    The tables are `[datasets]` (name = folder, file or pattern), `[training]` (name = "train"), `[zeroshot]`
    ("name.cell type" = "val" or "test"), `[fewshot."name.cell type"]` (lists `val` and `test`), and `[exclude]`
    ("name.cell type" = list of perturbations that go to no part), which is ours.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not TOML, or says what has no meaning; the message names the entry.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    for table in content:
        if table not in _TABLES:
            raise ValueError(f"{path} has a table [{table}] without meaning; {nearest(table, _TABLES)}")
    datasets = content.get("datasets", {})
    for name, place in datasets.items():
        if not isinstance(place, str):
            raise ValueError(f"{path}: [datasets] {name} must be a path in quotes")
    for name, part in content.get("training", {}).items():
        if part != "train":
            raise ValueError(f'{path}: [training] {name} must be "train", and is {part!r}')
        if name not in datasets:
            raise ValueError(
                f"{path}: [training] names {name!r}, which [datasets] lacks; {nearest(name, list(datasets))}"
            )
    zeroshot: dict[Context, SplitPart] = {}
    for key, part in content.get("zeroshot", {}).items():
        if part not in get_args(SplitPart):
            hint = " (put the whole key in quotes)" if isinstance(part, dict) else ""
            raise ValueError(f'{path}: [zeroshot] {key!r} must be "val" or "test", and is {part!r}{hint}')
        zeroshot[_context(key, datasets, "zeroshot", path)] = part
    fewshot = {
        _context(key, datasets, "fewshot", path): _fewshot(key, value, path)
        for key, value in content.get("fewshot", {}).items()
    }
    exclude = {
        _context(key, datasets, "exclude", path): _names(value, f"{path}: [exclude] {key!r}")
        for key, value in content.get("exclude", {}).items()
    }
    return SplitDefinition(datasets, tuple(content.get("training", {})), zeroshot, fewshot, exclude)


def _quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"'}
    return '"' + re.sub(r'[\\"\x00-\x1f\x7f]', lambda hit: escapes.get(hit[0], f"\\u{ord(hit[0]):04x}"), text) + '"'


def _list(names: list[str]) -> str:
    return "[" + ", ".join(map(_quoted, names)) + "]"


def write_split_toml(definition: SplitDefinition, path: str | Path) -> None:
    """Write a split as TOML, which `read_split_toml` and, unless it excludes perturbations, cell-load read.

    Args:
        definition: The split.
        path: The file to write.

    Raises:
        ValueError: A dataset has no place on disk, as where it is an AnnData object.
    """
    for name in definition.used_datasets:
        if name not in definition.datasets:
            raise ValueError(f"the dataset {name!r} is not a file, so a TOML file cannot say where it is")
    lines = ["[datasets]", *(f"{_quoted(name)} = {_quoted(place)}" for name, place in definition.datasets.items())]
    lines += ["", "[training]", *(f'{_quoted(name)} = "train"' for name in definition.training)]
    lines += ["", "[zeroshot]"]
    lines += [f"{_quoted('.'.join(context))} = {_quoted(part)}" for context, part in definition.zeroshot.items()]
    for context, parts in definition.fewshot.items():
        lines += ["", f"[fewshot.{_quoted('.'.join(context))}]"]
        lines += [f"{part} = {_list(names)}" for part, names in parts.items()]
    if definition.exclude:
        lines += ["", "[exclude]"]
        lines += [f"{_quoted('.'.join(context))} = {_list(names)}" for context, names in definition.exclude.items()]
    with written_whole(Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _without_braces(pattern: str) -> list[str]:
    """Every text that a pattern with {a,b} stands for; braces do not nest."""
    group = re.search(r"\{([^{}]*)\}", pattern)
    if not group:
        return [pattern]
    before, after = pattern[: group.start()], pattern[group.end() :]
    return [text for option in group[1].split(",") for text in _without_braces(before + option.strip() + after)]


def _files_at(place: str) -> list[Path]:
    """The files that one path without braces stands for."""
    found: list[Path] = []
    path = Path(place)
    for entry in [path] if path.exists() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
        if entry.is_dir() and not holds_cells(entry):
            found += sorted(file for file in entry.iterdir() if file.suffix in _SUFFIXES)
        else:
            found.append(entry)
    return found


def dataset_files(definition: SplitDefinition, *, base: str | Path | None = None) -> dict[str, list[Path]]:
    """The files of every dataset that a split uses, for `open_screens`.

    Args:
        definition: The split.
        base: Folder that relative paths start from; `None` for the current one.

    Raises:
        FileNotFoundError: A place has no .h5ad (or .h5) files.
        ValueError: A dataset has no place.
    """
    files: dict[str, list[Path]] = {}
    for name in definition.used_datasets:
        if name not in definition.datasets:
            raise ValueError(f"the split uses the dataset {name!r} and does not say where its files are")
        found: dict[Path, None] = {}
        for place in _without_braces(definition.datasets[name]):
            at_place = _files_at(str(Path(base) / place) if base is not None else place)
            if not at_place:
                raise FileNotFoundError(f"dataset {name!r}: there are no .h5ad files at {place}")
            found |= dict.fromkeys(at_place)
        files[name] = list(found)
    return files
