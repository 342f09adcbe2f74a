"""Which genes are perturbed together, and which random genes of like expression each perturbation is held against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree


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


class LikeGenes:
    """Finds genes of like expression.

    Genes are near where as many cells express them, and where they stand at the same level in these; both are compared
    by their ranks among the candidates.

    Args:
        census: The expression of the genes.
        candidates: Vocabulary rows of the genes to find; those that no cell expresses are left out.
    """

    def __init__(self, census: ExpressionCensus, candidates: np.ndarray) -> None:
        self.candidates = candidates[census.expressing[candidates] > 0]
        measures = (census.expressing.astype(float), np.nan_to_num(census.levels))
        self._places = np.stack(
            [np.searchsorted(np.sort(values[self.candidates]), values).astype(float) for values in measures], axis=1
        )
        self._tree = KDTree(self._places[self.candidates]) if len(self.candidates) else None

    def near(self, row: int, number: int, *, without: Sequence[int] = ()) -> np.ndarray:
        """(number or fewer,) vocabulary rows of the nearest genes, ascending.

        Args:
            row: The gene, which is not among them.
            number: How many genes.
            without: Further genes that are not.
        """
        excluded = {row, *without}
        if self._tree is None:
            return np.empty(0, np.int64)
        wanted = min(number + len(excluded), len(self.candidates))
        found = self.candidates[np.atleast_1d(self._tree.query(self._places[row], k=wanted)[1])]
        return np.sort(found[~np.isin(found, list(excluded))][:number])


def random_perturbations(
    perturbation: GenePerturbation, like: LikeGenes, number: int, *, kept: Sequence[int] = (), seed: int
) -> list[GenePerturbation]:
    """What a perturbation is held against: as many random genes, each of like expression as one of its own.

    Each is drawn from the nearest genes, twice as many as are asked for.

    Args:
        perturbation: What is perturbed.
        like: Finds genes.
        number: How many perturbations.
        kept: Genes that stay as they are, as the anchor of a combination.
        seed: With the genes' rows, it decides the draws: they depend on no other perturbation.

    Returns:
        Perturbations, each with a gene at most once; fewer than asked for where there are too few genes.
    """
    columns = []
    for row in perturbation.rows:
        if row in kept:
            columns.append(np.full(number, row))
            continue
        rng = np.random.default_rng([seed, *perturbation.rows, row])
        columns.append(rng.permutation(like.near(row, 2 * number, without=perturbation.rows))[:number])
    drawn = zip(*columns, strict=False)
    return [GenePerturbation("", tuple(map(int, rows))) for rows in drawn if len(set(rows)) == len(rows)]


__all__ = ["ExpressionCensus", "GenePerturbation", "LikeGenes", "random_perturbations"]
