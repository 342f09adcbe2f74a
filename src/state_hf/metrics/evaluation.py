"""Compute the metrics of a profile from the summaries of both sides."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from state_hf.configuration.advice import Advised
from state_hf.metrics.catalogue import METRICS, MetricValues
from state_hf.metrics.comparison import Comparison, target_positions
from state_hf.metrics.profiles import Metric, Profile
from state_hf.metrics.result import AGGREGATE_COLUMNS, EvaluationResult
from state_hf.metrics.summary import ScreenSummary

WHOLE_PANEL = "(all)"


class MetricError(ValueError):
    """A metric could not be computed.

    Args:
        metric: Its name.
        perturbation: Where it failed; `(all)` for the whole panel.
        reason: Why.
    """

    def __init__(self, metric: str, perturbation: str, reason: str) -> None:
        super().__init__(f"metric {metric!r} failed for perturbation {perturbation!r}: {reason}")
        self.metric, self.perturbation, self.reason = metric, perturbation, reason


def evaluate_summaries(
    prediction: ScreenSummary,
    reference: ScreenSummary,
    profile: Profile,
    *,
    control: str,
    target_genes: Mapping[str, str | None] | None = None,
    on_error: Literal["raise", "nan"] = "raise",
) -> EvaluationResult:
    """Compare two sides by a profile.

    Args:
        prediction: Summary of the predicted cells.
        reference: Summary of the real cells, of the same perturbations and genes.
        profile: The rule.
        control: The control's label, for the record.
        target_genes: Perturbation -> target gene, None for one without; others are taken as gene names.
        on_error: `raise` stops at a metric that fails; `nan` gives it no value and notes why.

    Raises:
        MetricError: If a metric fails and `on_error` is `raise`.
    """
    target = target_positions(reference.perturbations, reference.genes, target_genes)
    _check_targets(profile, target)
    comparison = Comparison(prediction, reference, profile, target)
    per_perturbation: dict[str, np.ndarray] = {}
    aggregate: dict[str, pd.Series] = {}
    problems: dict[str, dict[str, str]] = {}
    parts: dict[str, np.ndarray] = {}
    for metric in profile.metrics:
        values, problems[metric.name] = _compute(metric, comparison, on_error)
        if values.values is not None:
            per_perturbation[metric.name] = values.values
        parts.update(values.parts)
        aggregate[metric.name] = _aggregate(values)
    diagnostics, summary = comparison.diagnostics()
    return EvaluationResult(
        profile=profile,
        settings=_settings(comparison, control),
        per_perturbation=_table(per_perturbation, comparison.perturbations),
        aggregate=pd.DataFrame(aggregate).T.rename_axis("metric"),
        scores=None,
        de_tables=(prediction.differential_expression, reference.differential_expression),
        discrimination=_discrimination(comparison),
        effects_prediction=_effects(comparison, 0),
        effects_reference=_effects(comparison, 1),
        diagnostics=diagnostics.assign(**parts),
        summary=summary,
        problems={metric: reasons for metric, reasons in problems.items() if reasons},
    )


def _compute(
    metric: Metric, comparison: Comparison, on_error: Literal["raise", "nan"]
) -> tuple[MetricValues, dict[str, str]]:
    try:
        values = METRICS[metric.function](comparison, **metric.parameters)
        _check_defined(metric, values, comparison.perturbations)
    except MetricError as error:
        failure = error
    except (ValueError, ImportError) as error:
        failure = MetricError(metric.name, WHOLE_PANEL, str(error))
        failure.__cause__ = error
    else:
        return values, _reasons(values, comparison.perturbations)
    if on_error == "raise":
        raise failure
    return MetricValues(total=np.nan), {failure.perturbation: failure.reason}


def _check_defined(metric: Metric, values: MetricValues, perturbations: np.ndarray) -> None:
    if values.values is None:
        if values.total is None or np.isinf(values.total) or (np.isnan(values.total) and not values.undefined):
            raise MetricError(metric.name, WHOLE_PANEL, f"the value is {values.total}")
        return
    wrong = np.isinf(values.values) | (np.isnan(values.values) & (not values.undefined))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise MetricError(metric.name, perturbations[first], f"the value is {values.values[first]}")


def _reasons(values: MetricValues, perturbations: np.ndarray) -> dict[str, str]:
    if values.values is None:
        return {WHOLE_PANEL: values.undefined} if values.total is not None and np.isnan(values.total) else {}
    return dict.fromkeys(perturbations[np.isnan(values.values)], values.undefined)


def _aggregate(values: MetricValues) -> pd.Series:
    """Count, mean, standard deviation (n - 1), extremes and quartiles of the values that are defined."""
    if values.values is None:
        defined = np.array([]) if values.total is None or np.isnan(values.total) else np.array([values.total])
        return pd.Series([float(len(defined)), values.total, *[np.nan] * 6], index=AGGREGATE_COLUMNS)
    return pd.Series(values.values).describe().set_axis(list(AGGREGATE_COLUMNS))


def _table(columns: Mapping[str, np.ndarray], perturbations: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(perturbations, name="perturbation"))


def _effects(comparison: Comparison, side: int) -> pd.DataFrame:
    return pd.DataFrame(
        comparison.effects[side],
        index=pd.Index(comparison.perturbations, name="perturbation"),
        columns=pd.Index(comparison.reference.genes, name="gene"),
    )


def _discrimination(comparison: Comparison) -> pd.DataFrame | None:
    for metric in comparison.profile.metrics:
        if metric.function in ("discrimination", "discrimination_rank"):
            distances = comparison.distances(metric.parameters["of"], metric.parameters["distance"])
            labels = comparison.perturbations
            return pd.DataFrame(
                distances, index=pd.Index(labels, name="prediction"), columns=pd.Index(labels, name="reference")
            )
    return None


def _settings(comparison: Comparison, control: str) -> dict[str, Any]:
    return {
        **comparison.profile.to_dict(),
        "control": control,
        "n_perturbations": len(comparison.perturbations),
        "n_genes": len(comparison.reference.genes),
        "n_genes_tested": len(comparison.reference.differential_expression.tested),
        "n_target_genes_found": int((comparison.target >= 0).sum()),
        "n_cells_prediction": int(comparison.prediction.n_cells[:-1].sum()),
        "n_cells_reference": int(comparison.reference.n_cells[:-1].sum()),
        "n_control_cells_prediction": int(comparison.prediction.n_cells[-1]),
        "n_control_cells_reference": int(comparison.reference.n_cells[-1]),
    }


def _check_targets(profile: Profile, target: np.ndarray) -> None:
    """A profile that leaves target genes out everywhere must not be fooled by labels that name no gene."""
    excluded = profile.settings["excluded_genes"]
    if excluded["differential_expression"] == "own" and not (target >= 0).any():
        raise ValueError(
            Advised(
                f"profile {profile.name!r} leaves out target genes, but no perturbation's label is a gene name",
                "give the gene of each label, None for a perturbation that has no target gene (target_genes=...)",
            )
        )
