"""Expression from ranks: the level of a gene by a line over the logarithm of its rank."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from scipy import stats

Points = Literal["pairs", "rank_means"]
_POINTS: tuple[Points, ...] = ("pairs", "rank_means")


@dataclass(frozen=True)
class RankExpressionModel:
    """log10(1 + normalised counts) of a gene as `intercept + slope * log10(1 + rank)`, the first rank being 0.

    Args:
        slope: Change per tenfold rank; below 0.
        intercept: Level of the most expressed gene.
        target_sum: Counts that the cells of the fit were normalised to; None where that is not known.
        points: What the line was fitted to: `"pairs"`, every expressed gene of every cell, as in the original; or
            `"rank_means"`, the mean level of every rank, as in another published implementation.
        r_squared: Share of the variance of the points that the line explains.
        pearson: Correlation of their levels with the line's.
        spearman: The same of ranks.
        cells: How many cells they are from.
    """

    slope: float
    intercept: float
    target_sum: float | None = None
    points: Points = "pairs"
    r_squared: float | None = None
    pearson: float | None = None
    spearman: float | None = None
    cells: int | None = None

    FILE_NAME = "rank_expression.json"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept)):
            raise ValueError(f"the line has the slope {self.slope} and the intercept {self.intercept}")

    @classmethod
    def fit(
        cls,
        cells: Any,
        *,
        points: Points = "pairs",
        target_sum: float | None = None,
        max_log_rank: float = 3.0,
        max_cells: int = 1024,
        seed: int = 0,
    ) -> Self:
        """Fit the line to cells, by ordinary least squares.

        Args:
            cells: (cells, genes) raw counts, dense or sparse.
            points: What the line is fitted to.
            target_sum: Counts that every cell is normalised to. Default: the median of the cells' totals.
            max_log_rank: Points of log10(1 + rank) from here on are left out of the fit (not of the correlations).
            max_cells: Of more cells, so many are drawn.
            seed: Of the draw.

        Raises:
            ValueError: The values are no counts, or there are not two ranks to draw a line through.
        """
        if points not in _POINTS:
            raise ValueError(f"points is {points!r}; it has to be {' or '.join(map(repr, _POINTS))}")
        matrix = sp.csr_array(cells, dtype=np.float64)
        if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
            raise ValueError("the cells hold values that are negative or not finite; the line is fitted to counts")
        totals = np.asarray(matrix.sum(axis=1)).reshape(-1)
        if target_sum is None:
            target_sum = float(np.median(totals[totals > 0])) if (totals > 0).any() else math.nan
        if matrix.shape[0] > max_cells:
            chosen = np.sort(np.random.default_rng(seed).choice(matrix.shape[0], max_cells, replace=False))
            matrix, totals = matrix[chosen], totals[chosen]
        levels = [
            np.sort(np.log10(1 + values[values > 0] * (target_sum / total)))[::-1]
            for values, total in zip(np.split(matrix.data, matrix.indptr[1:-1]), totals, strict=True)
            if total > 0
        ]
        return cls.fit_levels(levels, points=points, target_sum=target_sum, max_log_rank=max_log_rank)

    @classmethod
    def fit_levels(
        cls,
        levels: Sequence[np.ndarray],
        *,
        points: Points = "pairs",
        target_sum: float | None = None,
        max_log_rank: float = 3.0,
    ) -> Self:
        """Fit the line to the levels of cells, log10(1 + normalised counts) of the expressed genes, falling."""
        y = np.concatenate([np.empty(0), *levels])
        ranks = np.concatenate([np.empty(0, np.int64), *(np.arange(len(values)) for values in levels)])
        if points == "rank_means" and len(y):
            counts = np.bincount(ranks)
            y, ranks = np.bincount(ranks, weights=y) / counts, np.arange(len(counts))
        t = np.log10(1.0 + ranks)
        near = t < max_log_rank
        if len(np.unique(t[near])) < 2:
            raise ValueError(
                f"{len(levels):,} cells with {len(y):,} expressed genes have not two ranks below {max_log_rank} to "
                "draw a line through"
            )
        spread = t[near] - t[near].mean()
        slope = float(spread @ (y[near] - y[near].mean()) / (spread @ spread))
        intercept = float(y[near].mean() - slope * t[near].mean())
        residuals, around = y - (intercept + slope * t), y - y.mean()
        varies = bool((around @ around) > 0)
        return cls(
            slope,
            intercept,
            target_sum,
            points,
            r_squared=float(1 - (residuals @ residuals) / (around @ around)) if varies else None,
            pearson=float(stats.pearsonr(intercept + slope * t, y).statistic) if varies else None,
            spearman=float(stats.spearmanr(intercept + slope * t, y).statistic) if varies else None,
            cells=len(levels),
        )

    def levels(self, number: int) -> np.ndarray:
        """(number,) float64 levels of the first ranks, log10(1 + normalised counts): 0 where the line is below."""
        return np.maximum(self.intercept + self.slope * np.log10(1.0 + np.arange(number)), 0.0)

    def expression(self, cells: Sequence[Sequence[int]], num_genes: int) -> sp.csr_array:
        """Expression of cells from their genes in order.

        Args:
            cells: Vocabulary rows of each cell, the most expressed first.
            num_genes: Size of the vocabulary.

        Returns:
            (cells, genes) float32, log10(1 + normalised counts): 0 for genes that a cell does not name.
        """
        known = self.levels(max((len(rows) for rows in cells), default=0)).astype(np.float32)
        indptr = np.concatenate([[0], np.cumsum([len(rows) for rows in cells])]).astype(np.int64)
        indices = np.concatenate([np.empty(0, np.int64), *(np.asarray(rows, np.int64) for rows in cells)])
        data = np.concatenate([np.empty(0, np.float32), *(known[: len(rows)] for rows in cells)])
        matrix = sp.csr_array((data, indices, indptr), shape=(len(cells), num_genes))
        matrix.sort_indices()
        matrix.eliminate_zeros()
        return matrix

    def save(self, path: str | Path) -> None:
        """Write the line as JSON."""
        Path(path).write_text(self.text, encoding="utf-8")

    @property
    def text(self) -> str:
        """The content of its file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: The file holds no line.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**content)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no line of expression over ranks: {error}") from error


__all__ = ["Points", "RankExpressionModel"]
