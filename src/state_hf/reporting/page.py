"""Pages made from templates, in one look: whatever a template shows is escaped, but for plots drawn here."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from state_hf.data.whole_files import written_whole
from state_hf.reporting.markup import number, visible


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("state_hf.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Control characters, which nobody sees, are shown as what cannot be shown.
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(number=number, words=words, breakable=breakable)
    # The package's own text, not a user's.
    environment.globals["style"] = Markup((files("state_hf.reporting") / "report.css").read_text(encoding="utf-8"))
    return environment


def render(template: str, **content: Any) -> str:
    """A page as text; its styles are inside it.

    Args:
        template: Name of a file in `templates/`.
        **content: What the template shows.
    """
    return _environment().get_template(template).render(**content)


def write_page(page: str, path: str | Path) -> Path:
    """Write a page to a file that appears whole, and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def drawn(plot: ElementTree.Element) -> Markup:
    """A plot as markup; its texts were escaped when the tree was written."""
    return Markup(ElementTree.tostring(plot, encoding="unicode", method="html"))


def words(name: Any) -> str:
    """A name in words."""
    return str(name).replace("_", " ")


def breakable(name: str) -> Markup:
    """A name that may be broken after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def table_of(table: pd.DataFrame, corner: str) -> dict[str, Any]:
    """What the template's `table` shows of a table: numbers are made readable, texts stay."""
    rows = [{"name": str(label), "texts": [_cell(value) for value in values]} for label, *values in
            table.itertuples(name=None)]  # fmt: skip
    return {"corner": corner, "columns": [words(name) for name in table.columns], "rows": rows}


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (name, value) texts."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{words(name)}: ")
        else:
            rows.append((prefix + words(name), "–" if value is None else str(value)))
    return rows


def _cell(value: Any) -> str:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number(float(value)) if is_number else str(value)


__all__ = ["breakable", "drawn", "flat", "render", "table_of", "words", "write_page"]
