"""Small screens for the tests of this folder."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import scipy.sparse as sp

from state_hf.metrics.screen import Screen, ScreenBuilder


def build(
    matrix: np.ndarray | sp.csr_matrix | Sequence[Sequence[float]],
    labels: Sequence[str],
    *,
    genes: Sequence[str] | None = None,
    control: str = "ctrl",
    compact: bool = False,
    split: int | None = None,
) -> Screen:
    """A screen of one block, or of two where `split` is given."""
    matrix = matrix if sp.issparse(matrix) else np.array(matrix, dtype=getattr(matrix, "dtype", np.float64))
    genes = [f"g{gene}" for gene in range(matrix.shape[1])] if genes is None else genes
    builder = ScreenBuilder(genes, control, compact=compact)
    bounds = [0, *([split] if split else []), len(labels)]
    for start, stop in pairwise(bounds):
        builder.add(matrix[start:stop], list(labels[start:stop]))
    return builder.build()


def random_counts(seed: int, cells: int, genes: int, depth: float = 2.0) -> np.ndarray:
    """Overdispersed counts with many zeros and ties; the last gene is silent."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.5, depth, genes) * rng.gamma(2.0, 0.5, (cells, 1))
    counts = rng.poisson(rates).astype(np.float64)
    counts[:, -1] = 0
    return counts
