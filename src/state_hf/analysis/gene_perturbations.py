"""Which genes are perturbed together, and which random genes of like expression each perturbation is held against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GenePerturbation:
    """Genes of a cell that are perturbed together.

    Attributes:
        name: What tables call it.
        rows: Vocabulary rows of the genes, in the order in which they are perturbed.
    """

    name: str
    rows: tuple[int, ...]


@dataclass
class ExpressionCensus:
    """How many cells express each gene of a vocabulary, and where it stands in them.

    Args:
        genes: Size of the vocabulary.
    """

    genes: int

    def __post_init__(self) -> None:
        self.cells = 0
        self.expressing = np.zeros(self.genes, np.int64)
        self._levels = np.zeros(self.genes)

    def add(self, rows: np.ndarray, levels: np.ndarray) -> None:
        """Count cells.

        Args:
            rows: (cells, tokens) vocabulary rows.
            levels: (cells, tokens) of `CellTokenizer.gene_levels`: NaN where a token is no expressed gene.
        """
        known = ~np.isnan(levels)
        cells = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)[known]
        # A gene of several tokens is where its first is.
        _, first = np.unique(cells * self.genes + rows[known], return_index=True)
        genes = rows[known][first]
        self.cells += len(rows)
        self.expressing += np.bincount(genes, minlength=self.genes)
        self._levels += np.bincount(genes, weights=levels[known][first], minlength=self.genes)

    @property
    def levels(self) -> np.ndarray:
        """(genes,) the mean level in [0, 1] in the cells that express a gene; NaN for a gene that none does."""
        return np.divide(self._levels, self.expressing, out=np.full(self.genes, np.nan), where=self.expressing > 0)

    def like(self, row: int, number: int, *, candidates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random genes of like expression: drawn from the nearest, twice as many as are asked for.

        Genes are near where as many cells express them, and where they stand at the same level in these; both are
        compared by their ranks among the candidates.

        Args:
            row: The gene.
            number: How many genes.
            candidates: Vocabulary rows to choose from.
            rng: What draws.

        Returns:
            (number or fewer,) vocabulary rows.
        """
        others = candidates[(candidates != row) & (self.expressing[candidates] > 0)]
        distance = np.zeros(len(others))
        for values in (self.expressing.astype(float), np.nan_to_num(self.levels)):
            ordered = np.sort(values[others])
            distance += (np.searchsorted(ordered, values[others]) - np.searchsorted(ordered, values[row])) ** 2
        near = others[np.lexsort((others, distance))[: 2 * number]]
        return np.sort(rng.permutation(near)[:number])


def random_perturbations(
    perturbation: GenePerturbation,
    census: ExpressionCensus,
    number: int,
    *,
    candidates: np.ndarray,
    kept: Sequence[int] = (),
    seed: int,
) -> list[GenePerturbation]:
    """What a perturbation is held against: as many random genes, each of like expression as one of its own.

    Args:
        perturbation: What is perturbed.
        census: The expression of the genes.
        number: How many perturbations.
        candidates: Vocabulary rows of the genes to draw from.
        kept: Genes that stay as they are, as the anchor of a combination.
        seed: With the genes' rows, it decides the draws: they depend on no other perturbation.

    Returns:
        Perturbations, each with a gene at most once; fewer than asked for where there are too few genes.
    """
    taken = set(perturbation.rows)
    free = candidates[~np.isin(candidates, list(taken))]
    columns = []
    for row in perturbation.rows:
        if row in kept:
            columns.append(np.full(number, row))
            continue
        rng = np.random.default_rng([seed, *perturbation.rows, row])
        columns.append(rng.permutation(census.like(row, number, candidates=free, rng=rng)))
    drawn = zip(*columns, strict=False)
    return [GenePerturbation("", tuple(map(int, rows))) for rows in drawn if len(set(rows)) == len(rows)]


__all__ = ["ExpressionCensus", "GenePerturbation", "random_perturbations"]
