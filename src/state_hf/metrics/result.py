"""What an evaluation returns: values per perturbation, their aggregate, scores, DE tables and diagnostics."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from state_hf.configuration.advice import refuse_existing
from state_hf.metrics.de_tables import DifferentialExpression
from state_hf.metrics.profiles import Profile

AGGREGATE_COLUMNS = ("count", "mean", "std", "min", "25%", "50%", "75%", "max")


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that one evaluation found.

    Args:
        profile: The rule that was applied.
        settings: Name, digest and settings of the profile, and what this evaluation chose: control label, its source,
            number of perturbations, genes and cells, target genes found, baseline, replicate, seed.
        per_perturbation: One row a perturbation, one column a metric, in the metric's own unit; NaN where a metric is
            undefined for it. Metrics that exist only for the whole panel are in `aggregate` alone.
            With contexts: a (context, perturbation) index.
        aggregate: One row a metric; columns `count` (perturbations that have a value), `mean`, `std`, `min`, quartiles,
            `max`. `mean` is the metric's value, also where it is not an average.
        scores: One row a metric and `overall`; columns `prediction`, `baseline`, `replicate` or `ceiling` where asked
            for, `score` (with a baseline). None where neither was asked for.
        de_tables: The prediction's and the reference's differential expression, as arrays. None with contexts.
        discrimination: Distance from each prediction (row) to each real perturbation (column). None where the profile
            has no such metric.
        effects_prediction: Perturbations x genes, predicted change against control.
        effects_reference: Perturbations x genes, real change against control.
        diagnostics: One row a perturbation: what a score alone hides.
        summary: Diagnostics of the whole panel.
        audit: Versions of the prediction that know nothing more, see `audit_table`. None where they were not asked for.
        problems: Metric -> perturbation -> why there is no value.
        contexts: One result a context, where a context column was given.
    """

    profile: Profile
    settings: Mapping[str, Any]
    per_perturbation: pd.DataFrame
    aggregate: pd.DataFrame
    scores: pd.DataFrame | None
    de_tables: tuple[DifferentialExpression, DifferentialExpression] | None
    discrimination: pd.DataFrame | None
    effects_prediction: pd.DataFrame | None
    effects_reference: pd.DataFrame | None
    diagnostics: pd.DataFrame
    summary: Mapping[str, float]
    audit: pd.DataFrame | None = None
    problems: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    contexts: Mapping[str, "EvaluationResult"] = field(default_factory=dict)

    @cached_property
    def de_prediction(self) -> pd.DataFrame | None:
        """The prediction's DE table, one row a (perturbation, gene)."""
        return None if self.de_tables is None else self.de_tables[0].to_frame()

    @cached_property
    def de_reference(self) -> pd.DataFrame | None:
        """The reference's DE table, one row a (perturbation, gene)."""
        return None if self.de_tables is None else self.de_tables[1].to_frame()

    def to_dict(self) -> dict[str, float]:
        """Metric -> value, and `<metric>_score` and `overall_score` where there are scores."""
        values = {str(metric): float(value) for metric, value in self.aggregate["mean"].items()}
        if self.scores is not None and "score" in self.scores:
            values.update({f"{metric}_score": float(value) for metric, value in self.scores["score"].items()})
        return values

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write tables (CSV), DE tables and matrices (parquet) and settings (JSON) into a folder.

        A new folder appears when all of them are complete. In one that exists they replace those of the same names,
        one by one, and nothing else.

        Args:
            folder: The folder.
            overwrite: Whether files in a folder that exists are replaced.

        Returns:
            The files written.

        Raises:
            FileExistsError: The folder exists, is not empty, and is not to be replaced.
        """
        folder = Path(folder)
        refuse_existing(folder, overwrite=overwrite)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as place:
            complete = Path(place) / "complete"
            self._write_into(complete)
            files = [path.relative_to(complete) for path in sorted(complete.rglob("*")) if path.is_file()]
            if folder.exists():
                for file in files:
                    (folder / file).parent.mkdir(exist_ok=True)
                    (complete / file).replace(folder / file)
            else:
                complete.replace(folder)
        return [folder / file for file in files]

    def _write_into(self, folder: Path) -> None:
        folder.mkdir()
        for name, table in self._csv_tables().items():
            table.to_csv(folder / f"{name}.csv")
        for name, table in self._parquet_tables().items():
            table.to_parquet(folder / f"{name}.parquet")
        text = json.dumps(self._json(), indent=1, allow_nan=False, default=_plain)
        (folder / "evaluation.json").write_text(text, encoding="utf-8")
        for context, result in self.contexts.items():
            result._write_into(folder / _file_name(context))

    def _csv_tables(self) -> dict[str, pd.DataFrame]:
        tables = {
            "per_perturbation": self.per_perturbation,
            "aggregate": self.aggregate,
            "diagnostics": self.diagnostics,
            "scores": self.scores,
            "audit": self.audit,
        }
        return {name: table for name, table in tables.items() if table is not None}

    def _parquet_tables(self) -> dict[str, pd.DataFrame]:
        tables = {
            "de_prediction": self.de_prediction,
            "de_reference": self.de_reference,
            "discrimination": self.discrimination,
            "effects_prediction": self.effects_prediction,
            "effects_reference": self.effects_reference,
        }
        return {name: table for name, table in tables.items() if table is not None}

    def _json(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "values": {name: value if np.isfinite(value) else None for name, value in self.to_dict().items()},
            "summary": {name: value if np.isfinite(value) else None for name, value in self.summary.items()},
            "problems": {metric: dict(reasons) for metric, reasons in self.problems.items()},
            "contexts": list(self.contexts),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _file_name(context: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in context)
