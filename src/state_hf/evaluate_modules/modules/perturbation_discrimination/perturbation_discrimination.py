"""Perturbation discrimination, as an `evaluate` module."""

import evaluate

from state_hf.evaluate_modules.screen_metric import ScreenMetric

_DESCRIPTION = """\
Whether the predicted effect of a perturbation lies closer to its own measured effect than to those of the other
perturbations: the discrimination metrics of an evaluation profile.
"""


class PerturbationDiscrimination(ScreenMetric):
    """Perturbation discrimination."""

    functions = frozenset({"discrimination", "discrimination_rank"})

    def _info(self) -> evaluate.MetricInfo:
        return self.describe(_DESCRIPTION)
