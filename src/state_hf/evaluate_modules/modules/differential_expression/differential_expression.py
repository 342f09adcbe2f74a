"""Agreement of differential expression, as an `evaluate` module."""

import evaluate

from state_hf.evaluate_modules.screen_metric import ScreenMetric

_DESCRIPTION = """\
Whether a prediction finds the genes that a perturbation really changes, and the direction and size of the change:
the differential-expression metrics of an evaluation profile.
"""


class DifferentialExpression(ScreenMetric):
    """Agreement of differential expression."""

    functions = frozenset(
        {
            "direction_fidelity_yield",
            "direction_match",
            "direction_reach",
            "fold_change_correlation",
            "fold_change_error",
            "most_significant_overlap",
            "overlap",
            "precision",
            "precision_recall_auc",
            "roc_auc",
            "significant_count",
            "significant_count_correlation",
            "significant_jaccard",
            "significant_recall",
        }
    )

    def _info(self) -> evaluate.MetricInfo:
        return self.describe(_DESCRIPTION)
