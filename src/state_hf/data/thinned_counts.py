"""Counts as a shallower sequencing of the same molecules would have given them."""

import numpy as np
from scipy import sparse

# Beyond this number of counts, numpy does not draw from a cell.
_LARGEST_TOTAL = 10**9


def thin_counts(counts: sparse.csr_matrix, most: int, *, first_cell: int, seed: int) -> int:
    """Take counts out of the cells that have more than `most`, so that these have so many.

    Which of a cell's molecules stay is drawn without replacement (multivariate hypergeometric), from its own random
    numbers: they depend on the seed and the cell's position alone.

    Args:
        counts: (cells, genes) whole numbers, changed in place; what becomes 0 stays stored.
        most: Counts that a cell has at most, from 1 on.
        first_cell: Position of the first cell among all.
        seed: Seed of the draws.

    Returns:
        Number of cells that lost counts.

    Raises:
        ValueError: A cell has more than a billion counts.
    """
    totals = counts.sum(axis=1, dtype=np.float64).A1
    deep = np.flatnonzero(totals > most)
    for cell in deep.tolist():
        if totals[cell] >= _LARGEST_TOTAL:
            raise ValueError(f"cell {first_cell + cell:,} has {totals[cell]:,.0f} counts, of which none can be drawn")
        place = slice(counts.indptr[cell], counts.indptr[cell + 1])
        rng = np.random.default_rng([seed, first_cell + cell])
        genes = counts.data[place].astype(np.int64)
        counts.data[place] = rng.multivariate_hypergeometric(genes, most, method="marginals")
    return len(deep)


__all__ = ["thin_counts"]
