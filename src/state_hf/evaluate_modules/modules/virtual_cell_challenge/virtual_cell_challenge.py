"""All metrics of a Virtual Cell Challenge profile, as one `evaluate` module."""

import evaluate

from state_hf.evaluate_modules.screen_metric import ScreenMetric

_DESCRIPTION = """\
How well predicted cells match measured ones after a perturbation, scored as in the Virtual Cell Challenge: all
metrics of an evaluation profile (vcc2025, vcc2025-primer, vcc2026 or full).
"""


class VirtualCellChallenge(ScreenMetric):
    """All metrics of a Virtual Cell Challenge profile."""

    def _info(self) -> evaluate.MetricInfo:
        return self.describe(_DESCRIPTION)
