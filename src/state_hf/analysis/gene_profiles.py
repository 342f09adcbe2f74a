"""What a gene's expression in some cells says of it, without any model: features for simple models of genes."""

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA

_COMPONENTS = 50


def gene_profiles(
    cells: sparse.csr_array, columns: np.ndarray, rows: np.ndarray, *, is_counts: bool, seed: int = 0
) -> np.ndarray:
    """Features of genes, from their expression in cells, whatever the genes' classes.

    Of each gene: the mean and the standard deviation of log1p of its counts per 10,000, the share of the cells that
    express it, the mean over these, and 50 principal components of its standardised log1p expression over the cells.

    Args:
        cells: (cells, dataset genes) values.
        columns: (dataset genes,) vocabulary row of each, -1 for none.
        rows: (genes,) vocabulary rows of the genes.
        is_counts: Whether values are counts; else they are log1p of normalised ones, and taken as they are.
        seed: Of the components' solver.

    Returns:
        (genes, features) float64.
    """
    values = sparse.csr_matrix(cells, dtype=np.float64)
    if is_counts:
        totals = np.asarray(values.sum(axis=1)).ravel()
        values = sparse.csr_matrix(sparse.diags_array(1e4 / np.maximum(totals, 1)) @ values)
        values.data = np.log1p(values.data)
    known = np.flatnonzero(columns >= 0)
    places = np.searchsorted(rows, columns[known])
    mine = (places < len(rows)) & (rows[np.minimum(places, len(rows) - 1)] == columns[known])
    spread = sparse.csr_matrix((np.ones(mine.sum()), (known[mine], places[mine])), shape=(len(columns), len(rows)))
    expression = (values @ spread).toarray().T
    mean, deviation = expression.mean(axis=1), expression.std(axis=1)
    share = (expression > 0).mean(axis=1)
    among = mean / np.maximum(share, 1e-12)
    standard = (expression - mean[:, None]) / np.where(deviation > 0, deviation, 1)[:, None]
    size = min(_COMPONENTS, *standard.shape)
    components = PCA(size, random_state=seed).fit_transform(standard)
    return np.column_stack([mean, deviation, share, among, components])


__all__ = ["gene_profiles"]
