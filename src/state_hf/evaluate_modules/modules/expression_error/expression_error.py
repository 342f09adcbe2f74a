"""Errors of mean expression, as an `evaluate` module."""

import evaluate

from state_hf.evaluate_modules.screen_metric import ScreenMetric

_DESCRIPTION = """\
How far predicted mean expression, or its change against control, is from the measured: the error and correlation
metrics of an evaluation profile.
"""


class ExpressionError(ScreenMetric):
    """Errors of mean expression."""

    functions = frozenset(
        {
            "mean_absolute_error",
            "mean_squared_error",
            "pearson",
            "unbiased_capped_error",
        }
    )

    def _info(self) -> evaluate.MetricInfo:
        return self.describe(_DESCRIPTION)
