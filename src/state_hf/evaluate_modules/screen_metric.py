"""The base of this package's `evaluate` modules: whole screens in, metric values out, no matrix through Arrow."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import datasets
import evaluate
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from state_hf.data.cells.open_cells import open_cells
from state_hf.data.screens.prediction_record import PERTURBATION_KEY
from state_hf.evaluate_modules.cell_collector import CellCollector
from state_hf.metrics.profiles import Profile, load_profile
from state_hf.metrics.result import EvaluationResult
from state_hf.pipelines.evaluate import evaluate_predictions

Cells: TypeAlias = AnnData | str | Path | np.ndarray | sparse.spmatrix | sparse.sparray

_CITATION = """\
@article{roohani2025virtual,
  title = {Virtual Cell Challenge: Toward a Turing test for the virtual cell},
  author = {Roohani, Yusuf H. and Hua, Tony J. and Tung, Po-Yuan and others},
  journal = {Cell},
  volume = {188},
  number = {13},
  pages = {3370--3374},
  year = {2025},
  doi = {10.1016/j.cell.2025.06.008}
}
"""

_INPUTS = """
Args:
    predictions: Predicted cells: an AnnData, the path of an .h5ad file, or a cells x genes matrix with
        `prediction_labels` and `genes`. Not needed where `add_batch` was called.
    references: Measured cells, likewise (`reference_labels`).
    profile: Name of the evaluation profile; the configuration that the module was loaded with if not given.
    perturbation_key: Column of `obs` with the perturbation labels. By default that which `state-hf predict` recorded in
        the predictions, else "perturbation".
    control: Label of the control cells. By default the recorded one, else "non-targeting".
    cell_type_key: Column of `obs` with contexts (cell types) that are scored apart from each other.
    baseline: "mean", "control", an AnnData or a path: what the scores are measured from. None for no scores.
    replicate: Whether the scores are measured against the replicate of the real cells.
    genes: Gene names, where matrices are given.
    prediction_labels, reference_labels: Perturbation of each cell, where matrices are given.
    on_error: "raise", or "nan" to go on without the metrics that fail.
    cache_dir: Folder in which what depends on the references alone is kept for the next time.
    seed: Seed of the replicate's splits.

Returns:
    Metric -> value, and with a baseline `<metric>_score` and `overall_score`.
"""


class ScreenMetric(evaluate.Metric, ABC):
    """An `evaluate` metric over perturbation screens.

    The configuration name is the evaluation profile: `evaluate.load(path, "vcc2026")`. After `compute`, the attribute
    `result` holds the whole `EvaluationResult`: per-perturbation values, DE tables, diagnostics.

    Args:
        config_name: Name of the evaluation profile, `vcc2025` if not given.
        perturbation_key: Column of `obs` with the perturbation labels; "perturbation" where nobody says.
        control: Label of the control cells; "non-targeting" where nobody says.
        cell_type_key: Column of `obs` with contexts (cell types) that are scored apart from each other.
        **options: Those of `evaluate.EvaluationModule`.
    """

    functions: ClassVar[frozenset[str] | None] = None
    """The metric functions of the profile that the module reports; None for all."""

    def __init__(
        self,
        config_name: str | None = None,
        *,
        perturbation_key: str | None = None,
        control: str | float | None = None,
        cell_type_key: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(config_name=config_name or "vcc2025", **options)
        if self.num_process != 1:
            raise ValueError("this metric gathers all cells in one process: load it with num_process=1")
        self.perturbation_key, self.control, self.cell_type_key = perturbation_key, control, cell_type_key
        self.result: EvaluationResult | None = None
        self._added: dict[str, CellCollector] = {}

    @abstractmethod
    def _info(self) -> evaluate.MetricInfo:
        """What `evaluate` shows of the module."""

    def describe(self, description: str) -> evaluate.MetricInfo:
        """The information that every module of this package shares, with the module's own description."""
        return evaluate.MetricInfo(
            description=description,
            citation=_CITATION,
            inputs_description=_INPUTS,
            # Paths: the rows of an Arrow table are no place for a cells x genes matrix.
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            license="apache-2.0",
        )

    def compute(
        self,
        *,
        predictions: Cells | None = None,
        references: Cells | None = None,
        profile: str | None = None,
        perturbation_key: str | None = None,
        control: str | float | None = None,
        cell_type_key: str | None = None,
        baseline: str | Path | AnnData | None = None,
        replicate: bool = False,
        genes: Sequence[str] | None = None,
        prediction_labels: Sequence[str] | None = None,
        reference_labels: Sequence[str] | None = None,
        on_error: Any = "raise",
        cache_dir: str | Path | None = None,
        seed: int = 0,
    ) -> dict[str, float]:
        """Score predicted against measured cells."""
        perturbation_key, cell_type_key = perturbation_key or self.perturbation_key, cell_type_key or self.cell_type_key
        if self._added and (perturbation_key, cell_type_key) != (self.perturbation_key, self.cell_type_key):
            raise ValueError(
                "cells were added with the columns of load: give perturbation_key and cell_type_key to evaluate.load"
            )
        sides: dict[str, Any] = {
            "predictions": _cells(predictions, prediction_labels, genes, perturbation_key or PERTURBATION_KEY),
            "references": _cells(references, reference_labels, genes, perturbation_key or PERTURBATION_KEY),
        }
        for side, cells in sides.items():
            if (cells is None) == (side not in self._added):
                missing = "there are no" if cells is None else "add_batch already got"
                raise ValueError(f"{missing} {side}: give them either to add_batch or to compute")
        added, self._added = self._added, {}
        sides |= {side: collector.finish() for side, collector in added.items()}
        self.result = evaluate_predictions(
            sides["predictions"],
            sides["references"],
            self._profile(profile or self.config_name),
            perturbation_key=perturbation_key,
            control=self.control if control is None else control,
            cell_type_key=cell_type_key,
            baseline=baseline,
            replicate=replicate,
            on_error=on_error,
            cache_dir=cache_dir,
            seed=seed,
        )
        return self.result.to_dict()

    def add_batch(
        self,
        *,
        predictions: Cells | None = None,
        references: Cells | None = None,
        genes: Sequence[str] | None = None,
        prediction_labels: Sequence[str] | None = None,
        reference_labels: Sequence[str] | None = None,
    ) -> None:
        """Add some of the cells of either side; they wait in a temporary file for `compute`."""
        for side, cells, labels in (
            ("predictions", predictions, prediction_labels),
            ("references", references, reference_labels),
        ):
            key = self.perturbation_key or PERTURBATION_KEY
            block = _cells(cells, labels, genes, key)
            if block is not None:
                columns = [key] if self.cell_type_key is None else [key, self.cell_type_key]
                collector = self._added.setdefault(side, CellCollector(columns, side))
                collector.add(block if isinstance(block, AnnData) else open_cells(block).matrix("X").to_memory())

    def add(self, *, prediction: Cells | None = None, reference: Cells | None = None, **labels: Any) -> None:
        """Add cells as `add_batch` does; a single cell is a block of one row."""
        self.add_batch(predictions=prediction, references=reference, **labels)

    def __len__(self) -> int:
        return sum(collector.n_cells for collector in self._added.values())

    def _profile(self, name: str) -> Profile:
        profile = load_profile(name)
        if self.functions is None:
            return profile
        metrics = tuple(metric for metric in profile.metrics if metric.function in self.functions)
        if not metrics:
            raise ValueError(f"the profile {name!r} has no metric of the module {self.name!r}")
        digest = hashlib.sha256(" ".join([profile.digest, *(metric.name for metric in metrics)]).encode()).hexdigest()
        return replace(profile, name=f"{name} ({self.name.replace('_', ' ')})", digest=digest, metrics=metrics)


def _cells(
    cells: Cells | None, labels: Sequence[str] | None, genes: Sequence[str] | None, perturbation_key: str
) -> AnnData | str | Path | None:
    """What `evaluate_predictions` takes; a matrix with its labels becomes an AnnData that shares its values."""
    if cells is None or isinstance(cells, AnnData | str | Path):
        return cells
    if labels is None or genes is None:
        raise ValueError("a matrix of cells needs its labels (prediction_labels, reference_labels) and genes")
    matrix: Any = cells if sparse.issparse(cells) else np.asarray(cells)
    if matrix.shape != (len(labels), len(genes)):
        raise ValueError(
            f"a matrix of shape {matrix.shape} does not fit {len(labels)} labels (cells) and {len(genes)} genes"
        )
    index = pd.RangeIndex(len(labels)).astype(str)
    return AnnData(
        matrix, obs=pd.DataFrame({perturbation_key: list(labels)}, index=index), var=pd.DataFrame(index=list(genes))
    )
