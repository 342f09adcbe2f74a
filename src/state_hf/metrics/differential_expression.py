"""Differential expression of every perturbation against control, kept as arrays and shown as a long table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class DifferentialExpression:
    """The DE table of one side, perturbations x genes.

    Args:
        perturbations: Labels (P).
        genes: Names of the genes tested (G), the order of the columns below.
        target_mean: Mean expression of each perturbation's cells in count space (P x G).
        reference_mean: Mean expression of the control cells in count space (G).
        target_cells: Cells of each perturbation (P).
        reference_cells: Number of control cells.
        log2_fold_change: P x G.
        p_value: Two-sided p-values, P x G.
        statistic: Mann-Whitney U of the perturbation's cells, P x G.
        fdr: Benjamini-Hochberg within each perturbation, P x G.
        significance: The threshold on `fdr`.
    """

    perturbations: np.ndarray
    genes: np.ndarray
    target_mean: np.ndarray
    reference_mean: np.ndarray
    target_cells: np.ndarray
    reference_cells: int
    log2_fold_change: np.ndarray
    p_value: np.ndarray
    statistic: np.ndarray
    fdr: np.ndarray
    significance: float

    @property
    def significant(self) -> np.ndarray:
        """Whether each gene is called, P x G."""
        return self.fdr < self.significance

    def to_frame(self) -> pd.DataFrame:
        """The long table: one row a (perturbation, gene), labels as categoricals."""
        n_perturbations, n_genes = self.p_value.shape
        reference = np.tile(self.reference_mean, n_perturbations)
        target = self.target_mean.ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            percent = (target - reference) / reference
        percent[(target == 0) & (reference == 0)] = 0.0
        return pd.DataFrame(
            {
                "target": pd.Categorical.from_codes(
                    np.repeat(np.arange(n_perturbations), n_genes), categories=pd.Index(self.perturbations)
                ),
                "feature": pd.Categorical.from_codes(
                    np.tile(np.arange(n_genes), n_perturbations), categories=pd.Index(self.genes)
                ),
                "target_mean": target,
                "ref_mean": reference,
                "target_membership": np.repeat(self.target_cells, n_genes),
                "ref_membership": self.reference_cells,
                "log2_fold_change": self.log2_fold_change.ravel(),
                "percent_change": percent,
                "p_value": self.p_value.ravel(),
                "statistic": self.statistic.ravel(),
                "fdr": self.fdr.ravel(),
            }
        )
