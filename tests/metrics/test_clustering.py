import numpy as np
import pytest

from state_hf.metrics.clustering import clustering_agreement

pytest.importorskip("igraph")
pytest.importorskip("scanpy")


def two_groups(seed):
    rng = np.random.default_rng(seed)
    return np.vstack([rng.normal(0, 0.1, (20, 5)), rng.normal(5, 0.1, (20, 5))])


def test_the_same_groups_agree():
    # Both sides fall into two groups of 20; two different draws of the same groups agree at one of the resolutions.
    assert clustering_agreement(two_groups(0), two_groups(0)) == pytest.approx(1.0)


def test_other_groups_do_not():
    rng = np.random.default_rng(1)
    mixed = two_groups(0)[rng.permutation(40)]
    assert 0.0 <= clustering_agreement(mixed, two_groups(0)) < 0.4


def test_too_few():
    with pytest.raises(ValueError, match="at least 3 perturbations, there are 2"):
        clustering_agreement(np.eye(2), np.eye(2))
