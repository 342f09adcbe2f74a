"""Evaluate a prediction of perturbation responses against the real cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from anndata import AnnData

from state_hf.metrics.profiles import Profile
from state_hf.metrics.result import EvaluationResult


def evaluate_predictions(
    prediction: AnnData | str | Path,
    reference: AnnData | str | Path,
    profile: str | Profile = "vcc2025",
    *,
    pert_col: str = "target_gene",
    control: str = "non-targeting",
    context_col: str | None = None,
    baseline: Literal["mean", "control"] | AnnData | str | Path | None = None,
    replicate: bool = False,
    target_genes: Mapping[str, str | None] | None = None,
    on_error: Literal["raise", "nan"] = "raise",
    cache_dir: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
) -> EvaluationResult:
    """Score predicted cells against real ones by a frozen profile."""
    raise NotImplementedError
