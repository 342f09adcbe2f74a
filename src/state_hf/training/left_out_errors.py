"""Weights of covariances, chosen by how well rows are predicted that are left out, in closed form."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

# Of a covariance, in units of the mean noise of a row.
_WEIGHTS = (0.0, *(10 ** (exponent / 2) for exponent in range(-3, 8)))
_SWEEPS = 4
# Differences of rounding are none.
_BETTER = 1 - 1e-9

Partition: TypeAlias = Sequence[np.ndarray]
"""Rows that are left out together, every row once."""

Weights: TypeAlias = dict[str, tuple[int, float]]
"""By name of a covariance, which alternative it is, and its weight."""


@dataclass(frozen=True, eq=False)
class Regression:
    """Rows that are normal around a common mean, with a covariance that is a weighted sum, and noise.

    Attributes:
        outputs: (rows, features).
        noise: (rows,) variances of the rows' own noise, 1 on average.
        covariances: By name (rows, rows) alternatives; the weighted sum has one of each name.
        partitions: Of several parts each; the errors of all of them are added up.
        has_mean: Whether the common mean is not 0, and is estimated.
    """

    outputs: np.ndarray
    noise: np.ndarray
    covariances: Mapping[str, Sequence[np.ndarray]]
    partitions: Sequence[Partition]
    has_mean: bool = True

    def covariance(self, chosen: Weights) -> np.ndarray:
        """(rows, rows) of the rows, noise included, with an alternative and a weight of every name."""
        total = np.diag(self.noise)
        for name, (alternative, weight) in chosen.items():
            if weight > 0:
                total = total + weight * self.covariances[name][alternative]
        return total

    def left_out(self, chosen: Weights) -> list[np.ndarray]:
        """By partition, (rows,) squared errors of rows that are predicted from all that are not of their part.

        They are summed over features. With Q = V^-1 - V^-1 1 1' V^-1 / 1' V^-1 1 (V^-1 for a mean of 0), the errors of
        a part B are (Q_BB)^-1 (Q y)_B (R. Christensen, L. M. Pearson, W. Johnson, Technometrics 34, 38, 1992).
        """
        precision = np.linalg.inv(self.covariance(chosen))
        if self.has_mean:
            sums = precision.sum(axis=1)
            precision -= np.outer(sums, sums) / sums.sum()
        weighted, found = precision @ self.outputs, []
        for partition in self.partitions:
            errors = np.zeros(len(self.noise))
            for parts in _of_one_size(partition):
                apart = np.linalg.solve(precision[parts[:, :, None], parts[:, None]], weighted[parts])
                errors[parts] = np.square(apart).sum(axis=2)
            found.append(errors)
        return found

    def error(self, chosen: Weights) -> float:
        """Mean squared error of rows that are left out, in units of their noise, added up over the partitions."""
        return float(sum((errors / self.noise).mean() for errors in self.left_out(chosen)))

    def choose(self, start: Weights, names: Sequence[str]) -> Weights:
        """Alternatives and weights with the least error, in the noise's units, one name after the other.

        Args:
            start: Where to start; of equal ones, the first that was tried is kept.
            names: Those that are to be chosen.
        """
        chosen = dict(start)
        least = self.error(chosen)
        for _ in range(_SWEEPS):
            before = dict(chosen)
            for name in names:
                for alternative in range(len(self.covariances[name])):
                    for weight in _WEIGHTS:
                        changed = {**chosen, name: (alternative, weight)}
                        error = self.error(changed)
                        if error < least * _BETTER:
                            chosen, least = changed, error
            if chosen == before:
                break
        return chosen

    def solve(self, chosen: Weights, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean, (features,), and what the covariances are multiplied with to predict, (rows, features)."""
        inverse = np.linalg.inv(self.covariance(chosen))
        mean = np.zeros(outputs.shape[1])
        if self.has_mean:
            sums = inverse.sum(axis=1)
            mean = sums @ outputs / sums.sum()
        return mean, inverse @ (outputs - mean)


def gains(worse: np.ndarray, better: np.ndarray, groups: np.ndarray) -> bool:
    """Whether errors (rows,) fall by more than one standard error of their fall over groups, such as perturbations.

    Args:
        worse: (rows,) squared errors.
        better: (rows,) those that are to be less.
        groups: (rows,) numbers of groups.
    """
    falls = np.array([(worse - better)[groups == number].sum() for number in np.unique(groups)])
    return len(falls) > 1 and bool(falls.mean() > falls.std(ddof=1) / np.sqrt(len(falls)))


def in_fewer_columns(outputs: np.ndarray) -> np.ndarray:
    """(rows, rows): the same products and distances of outputs, in no more columns than rows."""
    values, vectors = np.linalg.eigh(outputs @ outputs.T)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _of_one_size(partition: Partition) -> Iterator[np.ndarray]:
    """(parts, rows of one): the parts, those of one size together."""
    for size in np.unique([len(part) for part in partition]):
        yield np.stack([part for part in partition if len(part) == size])


def parts_of(labels: np.ndarray) -> list[np.ndarray]:
    """Rows by label."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


__all__ = ["Partition", "Regression", "Weights", "gains", "in_fewer_columns", "parts_of"]
