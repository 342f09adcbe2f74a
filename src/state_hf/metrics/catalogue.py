"""The metrics that a profile can name: each takes a comparison and the parameters of the profile's entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

from state_hf.metrics import de_agreement, de_direction, expression_error
from state_hf.metrics.clustering import clustering_agreement
from state_hf.metrics.comparison import Comparison
from state_hf.metrics.discrimination import discrimination_score

Distance: TypeAlias = Literal["l1", "l2", "cosine"]


@dataclass(frozen=True)
class MetricValues:
    """Values of one metric.

    Args:
        values: One a perturbation, NaN where undefined; None for a metric of the whole panel.
        total: The metric's value for the panel; None for the mean of `values` that are defined.
        undefined: Why a value is NaN.
        parts: Per-perturbation components of a total, for the diagnostics.
    """

    values: np.ndarray | None = None
    total: float | None = None
    undefined: str = ""
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


def _mean_absolute_error(comparison: Comparison, *, of: str) -> MetricValues:
    return MetricValues(expression_error.mean_absolute_error(*comparison.sides(of)))


def _mean_squared_error(comparison: Comparison, *, of: str) -> MetricValues:
    return MetricValues(expression_error.mean_squared_error(*comparison.sides(of)))


def _pearson(comparison: Comparison, *, of: str) -> MetricValues:
    return MetricValues(expression_error.pearson(*comparison.sides(of)), undefined="one side is the same for all genes")


def _discrimination(comparison: Comparison, *, of: str, distance: Distance) -> MetricValues:
    settings = comparison.profile.settings["discrimination"]
    return MetricValues(discrimination_score(comparison.distances(of, distance), **settings))


def _discrimination_rank(comparison: Comparison, *, of: str, distance: Distance, normalised: bool) -> MetricValues:
    settings = comparison.profile.settings["discrimination"]
    rank = 1.0 - discrimination_score(comparison.distances(of, distance), **settings)
    return MetricValues(1.0 - 2.0 * rank if normalised else rank)


def _unbiased_capped_error(comparison: Comparison) -> MetricValues:
    prediction, reference = comparison.prediction, comparison.reference
    if prediction.noise is None or reference.noise is None:
        raise ValueError("this error needs the jackknife noise of count profiles")
    error, effect = expression_error.unbiased_capped_error(
        *comparison.profiles,
        reference.profiles[-1],
        prediction.noise[:-1],
        reference.noise[:-1],
        reference.noise[-1],
        comparison.target,
    )
    if not effect.sum() > 0:
        raise ValueError(
            "the real effects, freed of sampling noise, add up to nothing: this reference is too shallow to measure "
            "expression errors against"
        )
    parts = {"expression_error": error, "expression_effect": effect}
    return MetricValues(total=float(error.sum() / effect.sum()), parts=parts)


def _energy_distance_correlation(comparison: Comparison) -> MetricValues:
    predicted, real = comparison.prediction.energy, comparison.reference.energy
    if predicted is None or real is None:
        raise ValueError("the energy distances were not computed")
    value = float(expression_error.pearson(predicted[None, :], real[None, :])[0]) if len(real) > 1 else np.nan
    return MetricValues(total=value, undefined="energy distances do not vary over perturbations")


def _clustering_agreement(comparison: Comparison) -> MetricValues:
    return MetricValues(total=clustering_agreement(*comparison.profiles))


def _top_genes(comparison: Comparison, *, k: int | None, of: str) -> MetricValues:
    called_prediction, called_reference = comparison.called
    predicted, real = (np.abs(change) for change in comparison.fold_changes)
    return MetricValues(
        de_agreement.top_genes_agreement(called_reference, called_prediction, real, predicted, k=k, of=of)
    )


def _overlap(comparison: Comparison, *, k: int | None) -> MetricValues:
    return _top_genes(comparison, k=k, of="reference")


def _precision(comparison: Comparison, *, k: int | None) -> MetricValues:
    return _top_genes(comparison, k=k, of="prediction")


def _most_significant_overlap(comparison: Comparison) -> MetricValues:
    called_prediction, called_reference = comparison.called
    values = de_agreement.most_significant_overlap(called_reference, called_prediction, comparison.tables[0].p_value)
    return MetricValues(values)


_NO_REAL_GENE = "the reference has no significant gene"


def _significant_recall(comparison: Comparison) -> MetricValues:
    called_prediction, called_reference = comparison.called
    return MetricValues(de_agreement.significant_recall(called_reference, called_prediction), undefined=_NO_REAL_GENE)


def _significant_jaccard(comparison: Comparison) -> MetricValues:
    called_prediction, called_reference = comparison.called
    return MetricValues(de_agreement.significant_jaccard(called_reference, called_prediction))


def _significant_count(comparison: Comparison, *, side: str) -> MetricValues:
    called_prediction, called_reference = comparison.called
    called = called_prediction if side == "prediction" else called_reference
    return MetricValues(called.sum(axis=1).astype(np.float64))


def _significant_count_correlation(comparison: Comparison) -> MetricValues:
    called_prediction, called_reference = comparison.called
    value = de_agreement.significant_count_correlation(called_reference, called_prediction)
    return MetricValues(total=value, undefined="the numbers of significant genes do not vary over perturbations")


def _direction_match(comparison: Comparison) -> MetricValues:
    predicted, real = comparison.fold_changes
    return MetricValues(de_agreement.direction_match(comparison.called[1], real, predicted), undefined=_NO_REAL_GENE)


def _fold_change_correlation(comparison: Comparison) -> MetricValues:
    predicted, real = comparison.fold_changes
    return MetricValues(
        de_agreement.fold_change_correlation(comparison.called[1], real, predicted),
        undefined="fewer than two real significant genes, or fold changes that do not vary over them",
    )


def _confidence(comparison: Comparison) -> np.ndarray:
    return -np.log10(np.clip(comparison.tables[0].fdr, 1e-10, 1.0))


def _precision_recall_auc(comparison: Comparison) -> MetricValues:
    values = de_agreement.average_precision(comparison.called[1], _confidence(comparison))
    return MetricValues(values, undefined="no gene, or every gene, of the reference is significant")


def _roc_auc(comparison: Comparison) -> MetricValues:
    values = de_agreement.roc_area(comparison.called[1], _confidence(comparison))
    return MetricValues(values, undefined="no gene, or every gene, of the reference is significant")


def _direction_fidelity_yield(comparison: Comparison) -> MetricValues:
    called_prediction, called_reference = comparison.called
    predicted, real = comparison.fold_changes
    return MetricValues(
        de_direction.direction_fidelity_yield(called_reference, called_prediction, real, predicted),
        undefined="neither side has a significant gene",
    )


def _direction_reach(comparison: Comparison, *, purity: float) -> MetricValues:
    called_prediction, called_reference = comparison.called
    predicted, real = comparison.fold_changes
    table = comparison.tables[0]
    values = de_direction.direction_reach(
        called_reference, real, predicted, called_prediction, table.fdr, table.p_value, table.genes, purity=purity
    )
    return MetricValues(values, undefined=_NO_REAL_GENE)


def _fold_change_error(comparison: Comparison, *, min_genes: int) -> MetricValues:
    predicted, real = comparison.fold_changes
    values = de_agreement.fold_change_error(comparison.called[1], real, predicted, min_genes=min_genes)
    return MetricValues(values, undefined=f"the reference has fewer than {min_genes} significant genes")


METRICS: Mapping[str, Callable[..., MetricValues]] = MappingProxyType(
    {
        "clustering_agreement": _clustering_agreement,
        "direction_fidelity_yield": _direction_fidelity_yield,
        "direction_match": _direction_match,
        "direction_reach": _direction_reach,
        "discrimination": _discrimination,
        "discrimination_rank": _discrimination_rank,
        "energy_distance_correlation": _energy_distance_correlation,
        "fold_change_correlation": _fold_change_correlation,
        "fold_change_error": _fold_change_error,
        "mean_absolute_error": _mean_absolute_error,
        "mean_squared_error": _mean_squared_error,
        "most_significant_overlap": _most_significant_overlap,
        "overlap": _overlap,
        "pearson": _pearson,
        "precision": _precision,
        "precision_recall_auc": _precision_recall_auc,
        "roc_auc": _roc_auc,
        "significant_count": _significant_count,
        "significant_count_correlation": _significant_count_correlation,
        "significant_jaccard": _significant_jaccard,
        "significant_recall": _significant_recall,
        "unbiased_capped_error": _unbiased_capped_error,
    }
)
