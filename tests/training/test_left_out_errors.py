"""Closed forms against rows that are really left out."""

import numpy as np
import pytest

from state_hf.training.left_out_errors import Regression, gains, in_fewer_columns, parts_of

LABELS = np.array([0, 0, 1, 2, 2, 2])


def regression(*, has_mean, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(6, 3))
    noise = rng.uniform(0.5, 2, 6)
    outputs = rng.normal(size=(6, 4)) + 3
    return Regression(outputs, noise, {"a": [np.eye(6), inputs @ inputs.T]}, [parts_of(LABELS)], has_mean=has_mean)


@pytest.mark.parametrize("has_mean", [True, False])
def test_errors_are_those_of_rows_that_are_left_out(has_mean):
    data, chosen = regression(has_mean=has_mean), {"a": (1, 0.7)}
    (errors,) = data.left_out(chosen)
    covariance = data.covariance(chosen)
    for part in parts_of(LABELS):
        rest = np.setdiff1d(np.arange(6), part)
        inverse = np.linalg.inv(covariance[np.ix_(rest, rest)])
        mean = inverse.sum(axis=1) @ data.outputs[rest] / inverse.sum() if has_mean else 0
        predicted = mean + covariance[np.ix_(part, rest)] @ inverse @ (data.outputs[rest] - mean)
        np.testing.assert_allclose(errors[part], np.square(data.outputs[part] - predicted).sum(axis=1), rtol=1e-9)


def test_the_solution_predicts_its_own_rows():
    data, chosen = regression(has_mean=True), {"a": (1, 0.7)}
    mean, dual = data.solve(chosen, data.outputs)
    # Outputs minus the noise's share of them.
    fitted = mean + 0.7 * data.covariances["a"][1] @ dual
    np.testing.assert_allclose(fitted, data.outputs - data.noise[:, None] * dual, rtol=1e-9)


def test_the_choice_has_the_least_error():
    data = regression(has_mean=True)
    chosen = data.choose({"a": (0, 1.0)}, ["a"])
    tried = [(alternative, weight) for alternative in (0, 1) for weight in (0, 0.1, 1, 10, 100)]
    assert data.error(chosen) <= min(data.error({"a": pair}) for pair in tried)
    assert data.choose({"a": (0, 1.0)}, []) == {"a": (0, 1.0)}


def test_fewer_columns_say_the_same():
    outputs = np.random.default_rng(1).normal(size=(5, 40))
    assert in_fewer_columns(outputs).shape == (5, 5)
    np.testing.assert_allclose(in_fewer_columns(outputs) @ in_fewer_columns(outputs).T, outputs @ outputs.T, rtol=1e-9)


def test_a_gain_is_more_than_its_standard_error():
    groups = np.array([0, 0, 1, 2])
    better = np.zeros(4)
    assert gains(np.array([1.0, 1.0, 2.0, 2.0]), better, groups)
    # Falls of 4, 0 and -1: a mean of 1, and a standard error of 1.53.
    assert not gains(np.array([2.0, 2.0, 0.0, -1.0]), better, groups)
    assert not gains(np.array([1.0]), np.zeros(1), np.zeros(1))
