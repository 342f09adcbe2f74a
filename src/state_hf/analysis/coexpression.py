"""What any network of a model has to be better than: which genes vary together over cells, and how much there is."""

import numpy as np
from scipy import sparse

from state_hf.analysis.gene_networks import MatrixScores
from state_hf.data.cells.open_cells import open_cells
from state_hf.inference.embedding_task import EmbeddingTask

_CELLS_AT_ONCE = 512


def expression_scores(
    task: EmbeddingTask, positions: np.ndarray, rows: np.ndarray, names: list[str]
) -> tuple[MatrixScores, MatrixScores]:
    """Scores of pairs by their log1p expression per 10,000 counts (or by log1p values as they are), without a model.

    Args:
        task: The data set.
        positions: (cells,) of its cells.
        rows: Vocabulary rows of the genes; of several columns of one gene, the first counts.
        names: What the genes are called.

    Returns:
        Absolute Pearson correlations over cells, and sums of the two genes' mean expression; NaN for a gene that the
        data lack, and in the first for one that does not vary.
    """
    column_of = np.full(task.genes.vocabulary_size, -1)
    known = np.flatnonzero(task.genes.columns >= 0)[::-1]
    column_of[task.genes.columns[known]] = known
    columns = column_of[rows]
    there = columns >= 0
    sums, products = np.zeros(int(there.sum())), np.zeros((int(there.sum()),) * 2)
    with open_cells(task.source).expression(task.layer) as cells:
        for start in range(0, len(positions), _CELLS_AT_ONCE):
            part = positions[start : start + _CELLS_AT_ONCE]
            values = sparse.csr_matrix(cells.rows(part).dense(part, len(part))).astype(np.float64)
            if task.input_type == "counts":
                totals = np.maximum(np.asarray(values.sum(axis=1)).ravel(), 1)
                values = sparse.csr_matrix(sparse.diags_array(1e4 / totals) @ values)
                values.data = np.log1p(values.data)
            chosen = values[:, columns[there]].toarray()
            sums += chosen.sum(axis=0)
            products += chosen.T @ chosen
    number = len(positions)
    covariance = products / number - np.outer(sums, sums) / number**2
    spread = np.sqrt(np.maximum(covariance.diagonal(), 0))
    matrix = np.full((len(rows), len(rows)), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix[np.ix_(there, there)] = np.abs(covariance / np.outer(spread, spread))
    means = np.full(len(rows), np.nan)
    means[there] = sums / number
    return (
        MatrixScores(names, matrix, "absolute correlation of log1p expression", directed=False),
        MatrixScores(names, means[:, None] + means, "mean log1p expression of the two genes, added", directed=False),
    )


__all__ = ["expression_scores"]
