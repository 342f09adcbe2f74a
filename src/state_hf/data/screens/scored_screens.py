"""Evaluate one screen against another, with baseline, replicate and a cache of what the real side alone decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from state_hf.data.screens.evaluation_cache import load_summary, load_values, store_summary, store_values
from state_hf.metrics.baseline_screens import constant_screen, mean_profile, resampled_screen
from state_hf.metrics.cell_depths import genes_detected
from state_hf.metrics.evaluation import evaluate_summaries
from state_hf.metrics.profiles import Profile
from state_hf.metrics.replicate import ceiling, replicate_values
from state_hf.metrics.result import EvaluationResult
from state_hf.metrics.score_audit import OVERALL, audit_table, deeper_screen, inflated_screen
from state_hf.metrics.scoring import score_table
from state_hf.metrics.screen import CellBlock, Screen
from state_hf.metrics.summary import ScreenSummary, check_counts, summarise


@dataclass(frozen=True)
class EvaluationOptions:
    """What holds for every context of an evaluation; see `state_hf.evaluate_predictions`."""

    profile: Profile
    control: str
    replicate: bool = False
    audit: bool = False
    target_genes: Mapping[str, str | None] | None = None
    on_error: Literal["raise", "nan"] = "raise"
    seed: int = 0
    device: str | None = None

    @property
    def common(self) -> dict[str, Any]:
        """The arguments that most steps take."""
        return {"target_genes": self.target_genes, "device": self.device}

    def check_scale(self, screen: Screen) -> None:
        """Refuse values that are not counts, where the profile needs counts."""
        if self.profile.settings["expression"]["space"] == "bulk_lognorm":
            check_counts(screen, self.profile.settings["expression"])


class RealSide:
    """The real cells of one context: read only when something about them is not in the cache.

    Args:
        read: Reads the cells.
        options: The evaluation's options.
        cache: Folder for this context's artefacts; None to keep nothing.
    """

    def __init__(self, read: Callable[[], Screen], options: EvaluationOptions, cache: Path | None) -> None:
        self.read, self.options, self.cache = read, options, cache
        self._screen: Screen | None = None

    @property
    def screen(self) -> Screen:
        """The real cells."""
        if self._screen is None:
            self._screen = self.read()
            self.options.check_scale(self._screen)
        return self._screen

    def release(self) -> None:
        """Free the cells; the prediction's half needs the memory."""
        self._screen = None

    def summary(self) -> tuple[ScreenSummary, tuple[CellBlock, ...]]:
        """The summary of the real cells, and the control cells that predictions are compared with."""
        stored = None if self.cache is None else load_summary(self.cache, "summary")
        if stored is not None:
            return stored
        summary = summarise(self.screen, self.options.profile, device=self.options.device)
        shared = self.options.profile.settings["control_source"] == "reference"
        control = self.screen.control_blocks() if shared else ()
        if self.cache is not None:
            store_summary(self.cache, "summary", summary, control)
        return summary, control

    def values(self, name: str, compute: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Metric values that depend on the real side alone."""
        values = None if self.cache is None else load_values(self.cache, name)
        if values is None:
            values = dict(compute())
            if self.cache is not None:
                store_values(self.cache, name, values)
        return values


def evaluate_screen(
    read_prediction: Callable[[], Screen],
    real: RealSide,
    options: EvaluationOptions,
    *,
    baseline: Literal["mean", "control"] | Callable[[], Screen] | None,
) -> EvaluationResult:
    """Evaluate one context: the real side first, then, with its cells freed, the prediction.

    Args:
        read_prediction: Reads the predicted cells.
        real: The real side.
        options: The evaluation's options.
        baseline: `mean`, `control`, or what reads the cells of another baseline; None for no scores.
    """
    summary, control = real.summary()
    anchors = {}
    if baseline is not None:
        anchors["baseline"] = _baseline_values(baseline, real, summary, control, options)
    if options.replicate:
        anchors |= _replicate(real, summary, options)
    labels = [*map(str, summary.perturbations), options.control]
    real_depths = real.values(
        "genes-detected", lambda: dict(zip(labels, genes_detected(real.screen).tolist(), strict=True))
    )
    versions = {}
    if options.audit:
        versions["control_copy"] = real.values(
            f"control-copy-{options.seed}",
            lambda: _version_values(_control_copy(real, options), summary, control, options),
        )
    real.release()
    predicted = read_prediction()
    options.check_scale(predicted)
    result = _with_depths(
        _compare(predicted, summary, control, options),
        genes_detected(predicted),
        [real_depths[name] for name in labels],
    )
    if options.audit:
        versions["prediction"] = _means(result)
        # One after the other: each is as large as the prediction.
        for name, make in (("inflated_variance", inflated_screen), ("depth_shifted", deeper_screen)):
            made = make(predicted, options.profile, seed=options.seed)
            versions[name] = _version_values(made, summary, control, options)
            del made
        scored = {name: _with_overall(values, anchors, options) for name, values in versions.items()}
        result = replace(result, audit=audit_table(scored, options.profile))
    return replace(
        result,
        scores=_scores(result, anchors, options),
        settings={
            **result.settings,
            "baseline": baseline if baseline is None or isinstance(baseline, str) else "given cells",
            "replicate": options.replicate,
            "seed": options.seed,
        },
    )


def _compare(
    predicted: Screen, reference: ScreenSummary, control: tuple[CellBlock, ...], options: EvaluationOptions
) -> EvaluationResult:
    summary = summarise(predicted, options.profile, control_blocks=control or None, device=options.device)
    return evaluate_summaries(
        summary,
        reference,
        options.profile,
        control=options.control,
        target_genes=options.target_genes,
        on_error=options.on_error,
    )


def _with_depths(result: EvaluationResult, predicted: np.ndarray, measured: Sequence[float]) -> EvaluationResult:
    """The result with the genes detected of both sides, of each perturbation and of the control, which is last."""
    real = np.array(measured)
    ratios = np.divide(predicted[:-1], real[:-1], out=np.full(len(real) - 1, np.nan), where=real[:-1] > 0)
    return replace(
        result,
        diagnostics=result.diagnostics.assign(
            genes_detected_prediction=predicted[:-1], genes_detected_reference=real[:-1]
        ),
        summary={**result.summary, "median_depth_ratio": float(pd.Series(ratios).median())},
        settings={
            **result.settings,
            "control_genes_detected_prediction": None if np.isnan(predicted[-1]) else float(predicted[-1]),
            "control_genes_detected_reference": None if np.isnan(real[-1]) else float(real[-1]),
        },
    )


def _version_values(
    version: Screen, reference: ScreenSummary, control: tuple[CellBlock, ...], options: EvaluationOptions
) -> dict[str, float]:
    """Metric values of what nobody predicted; one that it makes undefined is NaN."""
    return _means(_compare(version, reference, control, replace(options, on_error="nan")))


def _with_overall(
    values: Mapping[str, float], anchors: Mapping[str, Mapping[str, float]], options: EvaluationOptions
) -> Mapping[str, float]:
    if "baseline" not in anchors:
        return values
    scores = score_table(values, options.profile, **anchors)
    return {**values, OVERALL: float(scores["score"].to_dict()["overall"])}


def _control_copy(real: RealSide, options: EvaluationOptions) -> Screen:
    return resampled_screen(real.screen, seed=options.seed, target_genes=options.target_genes, shift=False)


def _baseline_values(
    baseline: Literal["mean", "control"] | Callable[[], Screen],
    real: RealSide,
    summary: ScreenSummary,
    control: tuple[CellBlock, ...],
    options: EvaluationOptions,
) -> Mapping[str, float]:
    if not isinstance(baseline, str):
        return _means(_compare(baseline(), summary, control, options))

    def compute() -> Mapping[str, float]:
        rule = options.profile.settings["score"]
        if baseline == "mean" and rule["baseline"] == "mean":
            profile = mean_profile(summary, include_control=rule["baseline_includes_control"])
            made = constant_screen(real.screen, profile, options.profile.settings["expression"])
        else:
            made = resampled_screen(
                real.screen, seed=options.seed, target_genes=options.target_genes, shift=baseline == "mean"
            )
        return _means(_compare(made, summary, control, options))

    return real.values(f"baseline-{baseline}-{options.seed}", compute)


def _replicate(real: RealSide, summary: ScreenSummary, options: EvaluationOptions) -> dict[str, Mapping[str, float]]:
    profile = options.profile
    if profile.settings["score"]["toward"] == "replicate":
        values = real.values("replicate", lambda: replicate_values(real.screen, summary, profile, **options.common))
        return {"replicate": values}
    seed = options.seed
    values = real.values(f"ceiling-{seed}", lambda: ceiling(real.screen, profile, seed=seed, **options.common))
    return {"ceiling": values}


def _scores(
    result: EvaluationResult, anchors: Mapping[str, Mapping[str, float]], options: EvaluationOptions
) -> pd.DataFrame | None:
    if not anchors:
        return None
    return score_table(_means(result), profile=options.profile, **anchors)


def _means(result: EvaluationResult) -> dict[str, float]:
    return {str(name): float(value) for name, value in result.aggregate["mean"].items()}
