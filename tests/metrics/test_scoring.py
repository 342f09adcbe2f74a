import numpy as np
import pytest

from state_hf.metrics.profiles import load_profile
from state_hf.metrics.scoring import score_table


def test_2025_by_hand():
    # (0.9 - 0.6) / (1 - 0.6), 1 - 0.1 / 0.2, and (0.1 - 0.2) / (1 - 0.2) counted as 0.
    table = score_table(
        {"pds": 0.9, "mae": 0.1, "des": 0.1}, load_profile("vcc2025"), baseline={"pds": 0.6, "mae": 0.2, "des": 0.2}
    )
    assert list(table.columns) == ["prediction", "baseline", "score"]
    assert table["score"].to_dict() == pytest.approx({"mae": 0.5, "pds": 0.75, "des": 0.0, "overall": 1.25 / 3})


def test_2025_without_a_value_scores_nothing():
    table = score_table(
        {"pds": np.nan, "mae": 0.1, "des": 1.0}, load_profile("vcc2025"), baseline={"pds": 0.6, "mae": 0.2, "des": 1.0}
    )
    assert table["score"].to_dict() == pytest.approx({"mae": 0.5, "pds": 0.0, "des": 0.0, "overall": 0.5 / 3})


NAMES = [metric.name for metric in load_profile("vcc2026").metrics]
BASELINE = dict(zip(NAMES, [0.5, 1.0, 0.2, 0.1, 0.0, 1.0], strict=True))
REPLICATE = dict(zip(NAMES, [0.9, 0.2, 0.6, 0.9, 0.5, 0.5], strict=True))


def scored(values, **options):
    prediction = dict(zip(NAMES, values, strict=True))
    return score_table(prediction, load_profile("vcc2026"), baseline=BASELINE, **options)["score"]


def test_2026_by_hand():
    found = scored([0.7, 0.6, 0.6, 0.5, 0.25, 0.75], replicate=REPLICATE)
    np.testing.assert_allclose(found, [0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 3.5 / 6])
    to_best = scored([0.75, 0.6, 0.6, 0.55, 0.25, 0.75])
    np.testing.assert_allclose(to_best[:-1], [0.5, 0.4, 0.5, 0.5, 0.25, 0.25])


def test_2026_limits():
    # The expression error stays within [0, 1] and the fold-change error above -6; all others are open.
    low, high = (
        scored([0.0, 9.0, 0.0, 0.0, 0.0, 99.0], replicate=REPLICATE),
        scored([1, -9, 1, 1, 1, 0], replicate=REPLICATE),
    )
    np.testing.assert_allclose(low[:-1], [-1.25, 0.0, -0.5, -1 / 8, 0.0, -6.0])
    np.testing.assert_allclose(high[:-1], [1.25, 1.0, 2.0, 9 / 8, 2.0, 2.0])


def test_2026_missing_values_score_their_worst():
    found = scored([np.nan] * 6, replicate=REPLICATE)
    np.testing.assert_allclose(found[:-1], [-1.25, 0.0, -0.5, -1 / 8, 0.0, -6.0])


def test_2026_needs_a_scale():
    with pytest.raises(ValueError, match=r"'pds_cosine' cannot be scored: its baseline is 0.5 and its top 0.4"):
        scored([0.7] * 6, replicate={**REPLICATE, "pds_cosine": 0.4})


def test_a_ceiling_is_shown_but_scores_nothing():
    values = {"pds": 0.9, "mae": 0.1, "des": 0.1}
    table = score_table(values, load_profile("vcc2025"), ceiling={"pds": 0.95, "mae": np.nan, "des": 0.7})
    assert list(table.columns) == ["prediction", "ceiling"]
