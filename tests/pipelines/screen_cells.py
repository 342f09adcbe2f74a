"""Cells of small screens as AnnData, for the tests of evaluations."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

CONTROL = "non-targeting"
FOLDER = Path(__file__).parents[1] / "fixtures" / "cell_eval"


def counts(side: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts and labels of the stored screen; `side` is `prediction` or `reference`."""
    with np.load(FOLDER / "screens.npz") as stored:
        return stored[f"counts_{side}_counts"].astype(np.float32), stored[f"counts_{side}_labels"]


def as_cells(matrix: np.ndarray | sp.csr_matrix, labels: np.ndarray, **obs: np.ndarray) -> anndata.AnnData:
    """An AnnData with genes g0, g1, ... and labels in `perturbation`."""
    table = pd.DataFrame({"perturbation": labels, **obs}, index=[f"cell{cell}" for cell in range(len(labels))])
    return anndata.AnnData(matrix, obs=table, var=pd.DataFrame(index=[f"g{gene}" for gene in range(matrix.shape[1])]))


def log_normalised(matrix: np.ndarray) -> np.ndarray:
    """log1p of counts normalised to the median total."""
    totals = matrix.sum(axis=1, keepdims=True)
    return np.log1p(matrix / np.where(totals > 0, totals, 1) * np.median(totals[totals > 0]))


def pseudobulks(matrix: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Mean of each label's cells."""
    return {label: matrix[labels == label].mean(axis=0) for label in np.unique(labels)}
