"""Differential expression of every perturbation against control, kept as arrays and shown as a long table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from state_hf.metrics.multiple_testing import benjamini_hochberg
from state_hf.metrics.rank_test import GeneStatistics, mann_whitney_p_values


@dataclass(frozen=True)
class DifferentialExpression:
    """The DE table of one side, perturbations x genes.

    Args:
        perturbations: Labels (P).
        genes: Names of the genes tested (G), the order of the columns below.
        tested: Their positions among all genes of the screen (G).
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
    tested: np.ndarray
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

    def over(self, tested: np.ndarray, genes: np.ndarray) -> "DifferentialExpression":
        """This table over other genes (positions among all genes, and names); genes that it did not test are NaN."""
        if np.array_equal(tested, self.tested):
            return self
        place = np.searchsorted(tested, self.tested)
        known = np.isin(self.tested, tested)

        def spread(values: np.ndarray) -> np.ndarray:
            wide = np.full((*values.shape[:-1], len(tested)), np.nan)
            wide[..., place[known]] = values[..., known]
            return wide

        return replace(
            self,
            tested=tested,
            genes=genes,
            target_mean=spread(self.target_mean),
            reference_mean=spread(self.reference_mean),
            log2_fold_change=spread(self.log2_fold_change),
            p_value=spread(self.p_value),
            statistic=spread(self.statistic),
            fdr=spread(self.fdr),
        )

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


def compare_with_control(
    statistics: GeneStatistics, perturbations: np.ndarray, genes: np.ndarray, settings: Mapping[str, Any]
) -> DifferentialExpression:
    """Turn ranks and sums into the DE table of a profile.

    Args:
        statistics: Of the values that the profile ranks.
        perturbations: Labels.
        genes: Names of all genes.
        settings: The profile's `differential_expression` settings. Fold changes compare means in count space:
            `geometric` is expm1(mean(lognorm)), `arithmetic` the mean; epsilon is added to both, and 0/0 is no change.
    """
    means = np.expm1(statistics.means) if settings["means"] == "geometric" else statistics.means
    minimum = settings["min_control_cpm"]
    tested = np.arange(len(genes)) if minimum is None else np.flatnonzero(means[-1] > minimum)
    means, epsilon = means[:, tested], settings["epsilon"]
    with np.errstate(divide="ignore", invalid="ignore"):
        fold_change = np.log2((means[:-1] + epsilon) / (means[-1] + epsilon))
    fold_change[np.isnan(fold_change)] = 0.0
    n_target, n_control = statistics.n_cells[:-1], int(statistics.n_cells[-1])
    p_values = mann_whitney_p_values(
        statistics.statistic[:, tested],
        statistics.ties[:, tested],
        n_target,
        n_control,
        continuity=settings["continuity_correction"],
    )
    return DifferentialExpression(
        perturbations=perturbations,
        genes=genes[tested],
        tested=tested,
        target_mean=means[:-1],
        reference_mean=means[-1],
        target_cells=n_target,
        reference_cells=n_control,
        log2_fold_change=fold_change,
        p_value=p_values,
        statistic=statistics.statistic[:, tested],
        fdr=benjamini_hochberg(p_values),
        significance=settings["significance"],
    )
