"""Evaluate a prediction of perturbation responses against the real cells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from state_hf.metrics.baselines import constant_screen, mean_profile, resampled_screen
from state_hf.metrics.evaluation import evaluate_summaries
from state_hf.metrics.input_check import check_inputs
from state_hf.metrics.profiles import Profile, load_profile
from state_hf.metrics.replicate import ceiling, replicate_values
from state_hf.metrics.result import EvaluationResult
from state_hf.metrics.scoring import score_table
from state_hf.metrics.screen import CellBlock, Screen
from state_hf.metrics.summary import ScreenSummary, check_counts, summarise
from state_hf.pipelines.evaluation_cache import content_key, load_summary, load_values, store_summary, store_values
from state_hf.pipelines.reading import open_cells, read_screens


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
    """Score predicted cells against real ones by a frozen profile.

    Both sides need the same genes in the same order, the same perturbation labels, and cells of the control. Labels may
    be categories, strings or numbers. Numbers of cells may differ. Matrices may be sparse or dense, in memory or on
    disk; they are walked in blocks and never made dense as a whole.

    Args:
        prediction: Predicted cells: raw counts, or log1p-normalised values where the profile takes them.
        reference: Real cells.
        profile: `vcc2025`, `vcc2025-primer`, `vcc2026` or `full`.
        pert_col: The obs column of perturbation labels.
        control: The label of the control cells.
        context_col: An obs column (cell type, line) by which to evaluate separately.
        baseline: What a score of 0 stands for: `mean` (the mean perturbed profile, in the profile's form), `control`
            (control cells drawn again), or predicted cells. None gives no scores.
        replicate: Whether to compute what real cells score against real cells: the replicate of 2026, or the ceiling.
        target_genes: Perturbation -> target gene, where labels are not gene names; None for one without a target.
        on_error: `raise` stops at a metric that fails; `nan` gives it no value and notes why in `problems`.
        cache_dir: Folder for what was computed of the real side, by content; the next evaluation reuses it.
        seed: Seed of the baseline's draws and of the ceiling's split.
        device: Torch device for rank tests and distances, such as `cuda`; None for the CPU.

    Returns:
        Metrics per perturbation, their aggregate, scores, DE tables, diagnostics and all settings.

    Raises:
        ValueError: If the sides do not fit each other or the profile.
        MetricError: If a metric fails and `on_error` is `raise`.
    """
    rule = load_profile(profile) if isinstance(profile, str) else profile
    options = _Options(rule, pert_col, control, context_col, baseline, replicate, target_genes, on_error, seed, device)
    real_cells = open_cells(reference)
    predicted_cells = open_cells(prediction)
    check_pair(predicted_cells, real_cells, pert_col=pert_col, control=control, context_col=context_col, profile=rule)
    cache = None if cache_dir is None else Path(cache_dir) / _key(real_cells, reference, options)
    real = _RealSide(real_cells, options, cache)
    predicted = read_screens(predicted_cells, pert_col=pert_col, control=control, context_col=context_col)
    results = {}
    for context in list(predicted):
        results[context] = _evaluate_context(predicted.pop(context), real, context, options)
    return results[""] if context_col is None else _merge(results, rule)


def check_pair(
    prediction: AnnData,
    reference: AnnData,
    *,
    pert_col: str,
    control: str,
    context_col: str | None,
    profile: Profile,
) -> None:
    """Refuse a prediction that cannot be scored against the reference, with all reasons at once.

    Raises:
        ValueError: If there are any.
    """
    expression = profile.settings["expression"]
    check_inputs(
        prediction,
        reference,
        "counts" if expression["space"] == "bulk_lognorm" else "lognorm",
        pert_col=pert_col,
        control=control,
        context_col=context_col,
        control_in_prediction=profile.settings["control_source"] == "own",
        max_counts_per_cell=expression["max_counts_per_cell"],
    )


@dataclass(frozen=True)
class _Options:
    profile: Profile
    pert_col: str
    control: str
    context_col: str | None
    baseline: Any
    replicate: bool
    target_genes: Mapping[str, str | None] | None
    on_error: Literal["raise", "nan"]
    seed: int
    device: str | None

    @property
    def own_control(self) -> bool:
        return self.profile.settings["control_source"] == "own"

    def check(self, screen: Screen) -> None:
        if self.profile.settings["expression"]["space"] == "bulk_lognorm":
            check_counts(screen, self.profile.settings["expression"])


class _RealSide:
    """The real cells: read only when something about them is not in the cache."""

    def __init__(self, cells: AnnData, options: _Options, cache: Path | None) -> None:
        self.cells, self.options, self.cache = cells, options, cache

    @cached_property
    def screens(self) -> dict[str, Screen]:
        options = self.options
        screens = read_screens(
            self.cells, pert_col=options.pert_col, control=options.control, context_col=options.context_col
        )
        for screen in screens.values():
            options.check(screen)
        return screens

    def summary(self, context: str) -> tuple[ScreenSummary, tuple[CellBlock, ...]]:
        """The summary of a context, and its control cells."""
        stored = None if self.cache is None else load_summary(self.cache, f"summary-{_slug(context)}")
        if stored is not None:
            return stored
        screen = self.screens[context]
        summary, control = summarise(screen, self.options.profile, device=self.options.device), screen.control_blocks()
        if self.cache is not None:
            store_summary(self.cache, f"summary-{_slug(context)}", summary, control)
        return summary, control

    def values(self, name: str, context: str, compute: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Metric values that depend on the real side alone."""
        name = f"{name}-{_slug(context)}"
        stored = None if self.cache is None else load_values(self.cache, name)
        if stored is None:
            stored = dict(compute())
            if self.cache is not None:
                store_values(self.cache, name, stored)
        return stored


def _evaluate_context(predicted: Screen, real: _RealSide, context: str, options: _Options) -> EvaluationResult:
    options.check(predicted)
    summary, control = real.summary(context)
    if not options.replicate and options.baseline is None:
        real.__dict__.pop("screens", None)  # the prediction's half needs the memory
    result = _compare(predicted, summary, control, options)
    del predicted
    settings = {"baseline": None, "replicate": options.replicate, "seed": options.seed, "context": context or None}
    scores = None
    if options.baseline is not None:
        baseline, settings["baseline"] = _baseline_values(real, context, summary, control, options)
        scores = _scores(result, baseline, real, context, summary, options)
    return replace(result, scores=scores, settings={**result.settings, **settings})


def _compare(
    predicted: Screen, reference: ScreenSummary, control: tuple[CellBlock, ...], options: _Options
) -> EvaluationResult:
    summary = summarise(
        predicted, options.profile, control_blocks=None if options.own_control else control, device=options.device
    )
    return evaluate_summaries(
        summary,
        reference,
        options.profile,
        control=options.control,
        target_genes=options.target_genes,
        on_error=options.on_error,
    )


def _baseline_values(
    real: _RealSide, context: str, summary: ScreenSummary, control: tuple[CellBlock, ...], options: _Options
) -> tuple[Mapping[str, float], str]:
    """Aggregate values of the baseline, and its name."""
    if not (isinstance(options.baseline, str) and options.baseline in ("mean", "control")):
        cells = open_cells(options.baseline)
        check_pair(
            cells,
            real.cells,
            pert_col=options.pert_col,
            control=options.control,
            context_col=options.context_col,
            profile=options.profile,
        )
        screens = read_screens(
            cells, pert_col=options.pert_col, control=options.control, context_col=options.context_col
        )
        return _means(_compare(screens[context], summary, control, options)), "given cells"

    def compute() -> Mapping[str, float]:
        screen = real.screens[context]
        rule = options.profile.settings["score"]
        if options.baseline == "mean" and rule["baseline"] == "mean":
            profile = mean_profile(summary, include_control=rule["baseline_includes_control"])
            made = constant_screen(screen, profile, options.profile.settings["expression"])
        else:
            made = resampled_screen(
                screen,
                seed=options.seed,
                target_genes=options.target_genes,
                shift=options.baseline == "mean",
            )
        return _means(_compare(made, summary, control, options))

    return real.values(f"baseline-{options.baseline}-{options.seed}", context, compute), options.baseline


def _scores(
    result: EvaluationResult,
    baseline: Mapping[str, float],
    real: _RealSide,
    context: str,
    summary: ScreenSummary,
    options: _Options,
) -> pd.DataFrame:
    profile, tops = options.profile, {}
    if options.replicate and profile.settings["score"]["toward"] == "replicate":
        tops["replicate"] = real.values(
            "replicate",
            context,
            lambda: replicate_values(
                real.screens[context], summary, profile, target_genes=options.target_genes, device=options.device
            ),
        )
    elif options.replicate:
        tops["ceiling"] = real.values(
            f"ceiling-{options.seed}",
            context,
            lambda: ceiling(
                real.screens[context],
                profile,
                seed=options.seed,
                target_genes=options.target_genes,
                device=options.device,
            ),
        )
    return score_table(_means(result), baseline, profile, **tops)


def _means(result: EvaluationResult) -> dict[str, float]:
    return {str(name): float(value) for name, value in result.aggregate["mean"].items()}


def _merge(results: Mapping[str, EvaluationResult], profile: Profile) -> EvaluationResult:
    """One result over contexts: tables one below the other, aggregates and scores averaged over contexts."""
    first = next(iter(results.values()))
    names = ["context", "perturbation"]

    def average(tables: list[pd.DataFrame]) -> pd.DataFrame:
        return sum(tables[1:], start=tables[0]) / len(tables)

    tables = [result.scores for result in results.values() if result.scores is not None]
    settings = {**first.settings, "context": None, "contexts": list(results)}
    counted = [name for name in settings if name.startswith("n_") and name not in ("n_genes", "n_genes_tested")]
    settings.update({name: sum(result.settings[name] for result in results.values()) for name in counted})
    return EvaluationResult(
        profile=profile,
        settings=settings,
        per_perturbation=pd.concat({name: result.per_perturbation for name, result in results.items()}, names=names),
        aggregate=average([result.aggregate for result in results.values()]),
        scores=average(tables) if tables else None,
        de_tables=None,
        discrimination=None,
        effects_prediction=None,
        effects_reference=None,
        diagnostics=pd.concat({name: result.diagnostics for name, result in results.items()}, names=names),
        summary={name: float(np.mean([result.summary[name] for result in results.values()])) for name in first.summary},
        problems={
            f"{context}: {metric}": reasons
            for context, result in results.items()
            for metric, reasons in result.problems.items()
        },
        contexts=dict(results),
    )


def _key(cells: AnnData, source: AnnData | str | Path, options: _Options) -> str:
    columns = [options.pert_col] if options.context_col is None else [options.pert_col, options.context_col]
    targets = None if options.target_genes is None else sorted(map(list, options.target_genes.items()))
    parts = {
        "profile": options.profile.digest,
        "columns": columns,
        "control": options.control,
        "target_genes": targets,
    }
    return content_key(cells, source, parts)


def _slug(context: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else f"%{ord(letter):x}" for letter in context) or "all"
