"""Scores of mean cells, and how far they would be others with other perturbations."""

import numpy as np
import pytest

from state_hf.training.profile_scores import score_profiles, scores_text
from state_hf.training.screen_means import ScreenMeans

A, B = ("screen", 0), ("screen", 1)


def scores_of(errors):
    """Of predictions that are so far, in both genes, from the mean cells of (context, perturbation id)."""
    real = {group: np.array([5.0, 7.0]) for group in errors}
    means = ScreenMeans({A: np.array([1.0, 2.0]), B: np.array([3.0, 1.0])}, real, {}, {}, {})
    return score_profiles("one", {group: real[group] + error for group, error in errors.items()}, means)


def test_the_standard_error_is_over_perturbations():
    errors = np.array([1.0, 4.0, 1.0])
    scores = scores_of({(A, number): error for number, error in enumerate(errors)})
    assert scores.loc["one", "mae"] == pytest.approx(2)
    assert scores.loc["one", "mae_se"] == pytest.approx(errors.std(ddof=1) / np.sqrt(3))


def test_groups_of_one_perturbation_are_one_draw():
    twice = scores_of({(context, number): error for context in (A, B) for number, error in enumerate((1, 4, 1))})
    once = scores_of({(A, number): error for number, error in enumerate((1, 4, 1))})
    assert twice.loc["one", "mae_se"] == pytest.approx(once.loc["one", "mae_se"])
    # Sums of 5, of two groups, and of 1, of one; around the mean of 2: 1 and -1.
    uneven = scores_of({(A, 0): 1.0, (B, 0): 4.0, (A, 1): 1.0})
    assert uneven.loc["one", "mae_se"] == pytest.approx(np.sqrt(2 / 1 * (1 + 1)) / 3)


def test_one_perturbation_has_no_error():
    scores = scores_of({(A, 0): 1.0, (B, 0): 2.0})
    assert np.isnan(scores.loc["one", "mae_se"])
    assert scores_text(scores).split()[-1] == "nan"
    assert "1.5000 " in scores_text(scores)
    assert "2.0000 ± 1.0000" in scores_text(scores_of({(A, number): error for number, error in enumerate((1, 4, 1))}))
