"""Evaluate a prediction of perturbation responses against the real cells."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from transformers.utils import logging

from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.file_stamps import FileStamps
from state_hf.data.screens.evaluation_cache import content_key
from state_hf.data.screens.evaluation_scale import check_one_scale, compare_totals
from state_hf.data.screens.evaluation_scope import ScoredGenes, ScoredGroups, resolve_scope
from state_hf.data.screens.scored_screens import EvaluationOptions, RealSide, evaluate_screen
from state_hf.data.screens.screen_reading import labels_of, read_screens
from state_hf.metrics.input_check import CheckedInputs, check_inputs
from state_hf.metrics.labelled_cells import LabelledCells
from state_hf.metrics.profiles import Profile, load_profile
from state_hf.metrics.result import EvaluationResult
from state_hf.metrics.score_audit import merged_audit
from state_hf.metrics.screen import Screen
from state_hf.metrics.target_genes import target_genes_of

logger = logging.get_logger(__name__)

MadeBaseline: TypeAlias = Literal["mean", "control"] | None


def evaluate_predictions(
    prediction: AnnData | str | Path,
    reference: AnnData | str | Path,
    profile: str | Profile = "vcc2025",
    *,
    perturbation_key: str | None = None,
    control: str | float | None = None,
    cell_type_key: str | None = None,
    split: str | Path | None = None,
    groups: ScoredGroups | None = None,
    genes: ScoredGenes | None = None,
    baseline: Literal["mean", "control"] | AnnData | str | Path | None = None,
    replicate: bool = False,
    audit: bool = False,
    target_genes: Mapping[str, str | None] | None = None,
    on_error: Literal["raise", "nan"] = "raise",
    cache_dir: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
) -> EvaluationResult:
    """Score predicted cells against real ones by a frozen profile.

    Both sides need the same genes in the same order, the same perturbations, and cells of the control. Labels may be
    categories, strings or numbers, and spell a perturbation in any way ("B+A", "A+B"): it has the reference's name,
    which is noted. Numbers of cells may differ. Matrices may be sparse or dense, in memory or on disk; they are walked
    in blocks and never made dense as a whole.

    What is not given is read from what `predict` wrote into the prediction, see `PredictionRecord`. What is left out of
    a side, and why, is logged and in `settings["notes"]`.

    Args:
        prediction: Predicted cells: raw counts, or log1p-normalised values where the profile takes them.
        reference: Real cells.
        profile: `vcc2025`, `vcc2025-primer`, `vcc2026` or `full`.
        perturbation_key: The obs column of perturbation labels. By default the recorded one, else "perturbation".
        control: The label of the control cells. By default the recorded one, else "non-targeting".
        cell_type_key: An obs column (cell type, line) by which to evaluate separately. By default the recorded one
            where several cell types are scored, else none.
        split: The split that says what was held out: its TOML file, the `split.json` of a training, or the folder of a
            model. By default what the prediction records of it.
        groups: Which (cell type, perturbation) are scored, with the control cells of these cell types: those that were
            "held-out" for the test (or, without a test part, for validation), those of the "prediction", or "all",
            which both sides must have. By default those that were held out, where that is known and some were, else
            all.
        genes: Which genes are scored: those of the "prediction", in its order, or "all", which both sides must have in
            the same order. By default those of a prediction that records that they are its model's, else all.
        baseline: What a score of 0 stands for: `mean` (the mean perturbed profile, in the profile's form), `control`
            (control cells drawn again), or predicted cells. None gives no scores.
        replicate: Whether to compute what real cells score against real cells: the replicate of 2026, or the ceiling.
        audit: Whether to score, beside the prediction, control cells in its place, the prediction with larger
            deviations from its means, and the prediction at another depth, see `audit_table`: what moves a score
            without knowing anything more. It takes three further scorings, and memory for the predicted cells once
            more.
        target_genes: Perturbation -> target gene, where labels are not gene names; None for one without a target.
        on_error: `raise` stops at a metric that fails; `nan` gives it no value and notes why in `problems`.
        cache_dir: Folder for what was computed of the real side, by content; the next evaluation reuses it.
        seed: Seed of the baseline's draws and of the ceiling's split.
        device: Torch device for rank tests and distances, such as `cuda`; None for the CPU.

    Returns:
        Metrics per perturbation, their aggregate, scores, DE tables, diagnostics and all settings.

    Raises:
        FileNotFoundError: If there is no such file, or no split.
        ValueError: If the sides do not fit each other or the profile, are normalised to different totals, nothing of
            them was held out, or they change while they are read.
        MetricError: If a metric fails and `on_error` is `raise`.
    """
    rule = load_profile(profile) if isinstance(profile, str) else profile
    made = baseline is None or (isinstance(baseline, str) and baseline in ("mean", "control"))
    whole, predicted = open_cells(reference).matrix("X"), open_cells(prediction).matrix("X")
    stamps = FileStamps(reference, prediction, None if made else baseline)
    scope = resolve_scope(
        predicted,
        whole,
        perturbation_key=perturbation_key,
        control=control,
        cell_type_key=cell_type_key,
        split=split,
        groups=groups,
        genes=genes,
    )
    for note in scope.notes:
        logger.warning(note)
    targets = target_genes_of(sorted({*scope.names.values()}), whole.var_names, target_genes, control=scope.control)
    options = EvaluationOptions(rule, scope.control, replicate, audit, targets, on_error, seed, device)
    columns = _Columns(scope.perturbation_key, scope.control, scope.cell_type_key, scope.names)
    real, given, predicted = scope.apply(whole), predicted, scope.apply(predicted)
    checked = columns.check(predicted, real, rule)
    compare = partial(
        compare_totals,
        perturbation_key=scope.perturbation_key,
        control=scope.control,
        names=scope.names,
        expression=rule.settings["expression"],
    )
    ratio, notes = compare("prediction", (given, predicted), (whole, real), checked)
    cache = None if cache_dir is None else Path(cache_dir) / _key(real, options, columns)
    read_real, read_prediction = columns.reader(real), columns.reader(predicted)
    read_baseline = None
    if not made:
        given = open_cells(baseline).matrix("X")
        of_baseline = scope.with_names_of(given)
        baseline_cells = of_baseline.apply(given)
        baseline_columns = replace(columns, names=of_baseline.names)
        checked = baseline_columns.check(baseline_cells, real, rule)
        notes += compare("baseline", (given, baseline_cells), (whole, real), checked, names=of_baseline.names)[1]
        read_baseline = baseline_columns.reader(baseline_cells)
    for note in notes:
        logger.warning(note)
    results = {}
    for context in columns.contexts(real):
        results[context] = evaluate_screen(
            partial(read_prediction, context),
            RealSide(partial(read_real, context), options, None if cache is None else cache / _slug(context)),
            options,
            baseline=cast(MadeBaseline, baseline) if read_baseline is None else partial(read_baseline, context),
        )
    try:
        stamps.check()
    except ValueError:
        # What was kept may be of other cells than its name says.
        if cache is not None:
            shutil.rmtree(cache, ignore_errors=True)
        raise
    result = results[""] if scope.cell_type_key is None else _merge(results, rule)
    summary = {**result.summary, **({} if ratio is None else {"control_total_ratio": ratio})}
    return replace(result, settings={**result.settings, "notes": [*scope.notes, *notes]}, summary=summary)


@dataclass(frozen=True)
class _Columns:
    """Where the labels of the cells are."""

    perturbation_key: str
    control: str
    cell_type_key: str | None
    names: Mapping[str, str]

    def check(self, prediction: CellMatrix, reference: CellMatrix, profile: Profile) -> CheckedInputs:
        found = check_pair(
            prediction,
            reference,
            perturbation_key=self.perturbation_key,
            control=self.control,
            cell_type_key=self.cell_type_key,
            names=self.names,
            profile=profile,
        )
        check_one_scale(prediction, "prediction")
        check_one_scale(reference, "reference")
        return found

    def contexts(self, cells: CellMatrix) -> list[str]:
        return [""] if self.cell_type_key is None else sorted(set(labels_of(cells, self.cell_type_key)))

    def reader(self, cells: CellMatrix) -> Callable[[str], Screen]:
        """What reads the cells of one context; all contexts are read at once, and each is handed out once."""
        read: dict[str, Screen] = {}

        def read_context(context: str) -> Screen:
            if context not in read:
                read.update(
                    read_screens(
                        cells,
                        perturbation_key=self.perturbation_key,
                        control=self.control,
                        cell_type_key=self.cell_type_key,
                        names=self.names,
                    )
                )
            return read.pop(context)

        return read_context


def check_pair(
    prediction: LabelledCells,
    reference: LabelledCells,
    *,
    perturbation_key: str,
    control: str,
    cell_type_key: str | None,
    names: Mapping[str, str],
    profile: Profile,
) -> CheckedInputs:
    """Refuse a prediction that cannot be scored against the reference, with all reasons at once.

    Raises:
        ValueError: If there are any.
    """
    expression = profile.settings["expression"]
    return check_inputs(
        prediction,
        reference,
        "counts" if expression["space"] == "bulk_lognorm" else "lognorm",
        perturbation_key=perturbation_key,
        control=control,
        cell_type_key=cell_type_key,
        names=names,
        control_in_prediction=profile.settings["control_source"] == "own",
        max_counts_per_cell=expression["max_counts_per_cell"],
    )


def _merge(results: Mapping[str, EvaluationResult], profile: Profile) -> EvaluationResult:
    """One result over contexts: tables one below the other, aggregates and scores averaged over contexts."""
    first = next(iter(results.values()))
    names = ["context", "perturbation"]

    def average(tables: list[pd.DataFrame]) -> pd.DataFrame:
        return sum(tables[1:], start=tables[0]) / len(tables)

    tables = [result.scores for result in results.values() if result.scores is not None]
    audits = [result.audit for result in results.values() if result.audit is not None]
    settings = {**first.settings, "context": None, "contexts": list(results)}
    # Of each context there is another.
    settings.update({name: None for name in settings if name.startswith("control_genes_detected_")})
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
        audit=merged_audit(audits, profile) if audits else None,
        diagnostics=pd.concat({name: result.diagnostics for name, result in results.items()}, names=names),
        summary={name: float(np.mean([result.summary[name] for result in results.values()])) for name in first.summary},
        problems={
            f"{context}: {metric}": reasons
            for context, result in results.items()
            for metric, reasons in result.problems.items()
        },
        contexts=dict(results),
    )


def _key(cells: CellMatrix, options: EvaluationOptions, columns: _Columns) -> str:
    targets = None if options.target_genes is None else sorted(map(list, options.target_genes.items()))
    parts = {
        "profile": options.profile.digest,
        "columns": [column for column in (columns.perturbation_key, columns.cell_type_key) if column is not None],
        "control": options.control,
        "target_genes": targets,
        "names": sorted(map(list, columns.names.items())),
    }
    return content_key(cells.cells, parts)


def _slug(context: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else f"%{ord(letter):x}" for letter in context) or "all"
