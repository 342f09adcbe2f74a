"""Highly variable genes from moments that are summed over blocks of cells."""

import numpy as np
import pandas as pd
from scipy import sparse

_BINS = 20


class GeneMoments:
    """Mean and variance of every gene, from blocks of cells.

    Args:
        num_genes: Number of genes.
    """

    def __init__(self, num_genes: int) -> None:
        self.num_cells = 0
        self._sums, self._squares = np.zeros(num_genes), np.zeros(num_genes)

    def add(self, block: sparse.csr_matrix) -> None:
        """Count in a block (cells, genes) of normalised expression, not logged."""
        values = block.data.astype(np.float64)
        self._sums += np.bincount(block.indices, weights=values, minlength=len(self._sums))
        self._squares += np.bincount(block.indices, weights=values * values, minlength=len(self._sums))
        self.num_cells += block.shape[0]

    @property
    def mean(self) -> np.ndarray:
        """(genes,)."""
        return self._sums / self.num_cells

    @property
    def variance(self) -> np.ndarray:
        """(genes,), with the number of cells less one as divisor."""
        spread = np.maximum(self._squares / self.num_cells - self.mean**2, 0.0)
        return spread * (self.num_cells / max(self.num_cells - 1, 1))


def rank_variable_genes(mean: np.ndarray, variance: np.ndarray, *, num_genes: int) -> pd.DataFrame:
    """Choose the genes that vary most for their mean, as scanpy's `highly_variable_genes(flavor="seurat")` does.

    The dispersion, log(variance / mean), is compared with that of genes of a like mean: log1p means are cut into 20
    bins of equal width, and a gene's score is its distance from its bin's mean in standard deviations of the bin
    (Satija et al. 2015, Nature Biotechnology 33:495). A bin of one gene gives it the score 1; constant genes have none.

    Args:
        mean: (genes,) mean of normalised expression, not logged.
        variance: (genes,) its variance.
        num_genes: Number of genes to choose; ties with the last one are chosen too, and all that have a score if fewer.

    Returns:
        One row a gene: `highly_variable`, `means`, `dispersions`, `dispersions_norm`, as scanpy writes them to `var`.
    """
    positive_mean = np.where(mean == 0, 1e-12, mean)
    ratio = variance / positive_mean
    dispersions = np.log(ratio, out=np.full(len(ratio), np.nan), where=ratio > 0)
    table = pd.DataFrame({"means": np.log1p(positive_mean), "dispersions": dispersions})
    bins = table["dispersions"].groupby(pd.cut(table["means"], bins=_BINS), observed=True)
    average, deviation = bins.transform("mean"), bins.transform("std")
    alone = deviation.isna()
    scores = (table["dispersions"] - average.mask(alone, 0.0)) / deviation.mask(alone, average)
    scored = np.sort(scores.dropna().to_numpy())[::-1]
    chosen = scores >= scored[min(num_genes, len(scored)) - 1] if len(scored) else pd.Series(False, index=scores.index)
    return pd.DataFrame({"highly_variable": chosen, **table, "dispersions_norm": scores})
