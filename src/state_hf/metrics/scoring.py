"""Scores: where a metric stands between a baseline (0) and its best value or a replicate (1)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from state_hf.metrics.profiles import Metric, Profile


def score_table(
    prediction: Mapping[str, float],
    profile: Profile,
    *,
    baseline: Mapping[str, float] | None = None,
    replicate: Mapping[str, float] | None = None,
    ceiling: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Score the aggregate values of a prediction.

    A score is (u - b) / (top - b): u the prediction's value, b the baseline's; top is the metric's best value, or the
    replicate's where the profile scores towards replicates and one is given. For a metric whose best is 1 that is
    (u - b) / (1 - b), for one whose best is 0 it is 1 - u / b. Floors, caps and the treatment of missing values are the
    profile's. Metrics without a best value are not scored.

    Args:
        prediction: Metric -> value.
        profile: The rule.
        baseline: Metric -> the baseline's value; without it nothing is scored, but anchors are shown.
        replicate: Metric -> value of real replicates, for the scale.
        ceiling: Metric -> the highest value that the real data allow, shown beside.

    Returns:
        One row a metric and `overall` (the mean score); columns prediction, baseline, replicate or ceiling, score.

    Raises:
        ValueError: If the profile scores missing values by their worst case and a scale is degenerate.
    """
    rows = {}
    for metric in profile.metrics:
        if metric.best is None:
            continue
        row = rows[metric.name] = {"prediction": prediction[metric.name]}
        for name, anchor in (("baseline", baseline), ("replicate", replicate), ("ceiling", ceiling)):
            if anchor is not None:
                row[name] = anchor[metric.name]
        if baseline is not None:
            row["score"] = _score(
                metric, profile, row["prediction"], row["baseline"], row.get("replicate", metric.best)
            )
    table = pd.DataFrame(rows).T
    if baseline is not None:
        table.loc["overall", "score"] = table["score"].mean()
    return table.rename_axis("metric")


def _score(metric: Metric, profile: Profile, user: float, base: float, top: float) -> float:
    rule = profile.settings["score"]
    floor = rule["floor"] if metric.floor is None else metric.floor
    worst_first = metric.missing_value is not None or rule["missing"] is None
    if worst_first:
        better = top > base if metric.best else top < base
        if not (np.isfinite(base) and np.isfinite(top) and better):
            raise ValueError(
                f"metric {metric.name!r} cannot be scored: its baseline is {base:.6g} and its top {top:.6g}, "
                "so there is no scale between them"
            )
        if not np.isfinite(user):
            if metric.missing_value is None:
                return float(floor)
            user = metric.missing_value
    with np.errstate(divide="ignore", invalid="ignore"):
        score = float(np.float64(user - base) / np.float64(top - base))
    if np.isnan(score):
        score = rule["missing"]
    if floor is not None:
        score = max(score, floor)
    return score if metric.cap is None else min(score, metric.cap)
