"""One page on a fine-tuned classifier: its scores beside simple baselines, class by class, and the confusion matrix."""

from pathlib import Path
from typing import Any

import pandas as pd

from state_hf.configuration.wording import counted
from state_hf.pipelines.finetune import PARTS, FineTuned
from state_hf.reporting.page import flat, render, table_of, write_page


def write_finetuning_report(tuned: FineTuned, path: str | Path) -> Path:
    """Write the page.

    Args:
        tuned: What `state_hf.finetune` returned.
        path: The `.html` file; written under a temporary name and renamed.

    Returns:
        The path.
    """
    return write_page(finetuning_page(tuned), path)


def finetuning_page(tuned: FineTuned) -> str:
    """The page as text; its styles are inside it, and every name is escaped."""
    cells, groups = tuned.record["split"]["cells"], tuned.record["split"]["groups"]
    sizes = ", ".join(
        f"{part} {cells[part]:,} cells" + (f" of {counted(len(groups[part]), 'group')}" if groups[part] else "")
        for part in PARTS
    )
    return render(
        "finetuning.html",
        title=f"Fine-tuned: {tuned.record['settings']['label_key']}",
        summary=f"{tuned.record['model']}: {sizes}.",
        audit=tuned.record["split"]["audit"],
        scores=table_of(tuned.scores, "model"),
        per_class=None if tuned.per_class is None else table_of(tuned.per_class, "class"),
        confusion=None if tuned.confusion is None else _confusion(tuned.confusion),
        settings=flat(tuned.record["settings"] | tuned.record["training"]),
    )


def _confusion(counts: pd.DataFrame) -> dict[str, Any]:
    rows = []
    for name, row in zip(counts.index, counts.to_numpy(), strict=True):
        total = max(int(row.sum()), 1)
        cells = [{"text": f"{found:,}", "share": round(100 * found / total)} for found in row.tolist()]
        rows.append({"name": name, "cells": cells})
    return {"names": list(counts.columns), "rows": rows}


__all__ = ["finetuning_page", "write_finetuning_report"]
