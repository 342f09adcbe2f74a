"""One page on a fine-tuned classifier: its scores beside simple baselines, class by class, and the confusion matrix."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from state_hf.data.whole_files import written_whole
from state_hf.pipelines.finetune import PARTS, FineTuned
from state_hf.reporting.markup import number


def write_finetuning_report(tuned: FineTuned, path: str | Path) -> Path:
    """Write the page.

    Args:
        tuned: What `state_hf.finetune` returned.
        path: The `.html` file; written under a temporary name and renamed.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(finetuning_page(tuned), encoding="utf-8")
    return path


def finetuning_page(tuned: FineTuned) -> str:
    """The page as text; its styles are inside it, and every name is escaped."""
    room = files("state_hf.reporting")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (room / "templates" / "finetuning.html").read_text(encoding="utf-8")
    )
    cells, groups = tuned.record["split"]["cells"], tuned.record["split"]["groups"]
    sizes = ", ".join(
        f"{part} {cells[part]:,} cells" + (f" of {len(groups[part])} groups" if groups[part] else "") for part in PARTS
    )
    settings = [(name, value) for part in ("settings", "training") for name, value in tuned.record[part].items()]
    return template.render(
        title=f"Fine-tuned: {tuned.record['settings']['label_key']}",
        # The package's own text, not a user's.
        style=jinja2.utils.markupsafe.Markup((room / "report.css").read_text(encoding="utf-8")),
        summary=f"{tuned.record['model']}: {sizes}.",
        audit=tuned.record["split"]["audit"],
        scores=_table(tuned.scores),
        per_class=None if tuned.per_class is None else _table(tuned.per_class),
        confusion=None if tuned.confusion is None else _confusion(tuned.confusion),
        settings=settings,
    )


def _table(table: pd.DataFrame) -> dict[str, Any]:
    rows = [{"name": name, "texts": [number(float(value)) for value in row]} for name, row in
            zip(table.index, table.to_numpy(), strict=True)]  # fmt: skip
    return {"columns": list(table.columns), "rows": rows}


def _confusion(counts: pd.DataFrame) -> dict[str, Any]:
    rows = []
    for name, row in zip(counts.index, counts.to_numpy(), strict=True):
        total = max(int(row.sum()), 1)
        rows.append(
            {"name": name, "cells": [{"text": f"{n:,}", "share": round(100 * n / total)} for n in row.tolist()]}
        )
    return {"names": list(counts.columns), "rows": rows}


__all__ = ["finetuning_page", "write_finetuning_report"]
