"""Both sides of an evaluation, aligned, as the metrics see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from state_hf.metrics.de_tables import DifferentialExpression
from state_hf.metrics.discrimination import profile_distances
from state_hf.metrics.profiles import Profile
from state_hf.metrics.summary import ScreenSummary


@dataclass(frozen=True)
class Comparison:
    """A prediction's summary beside the reference's, of the same perturbations and genes.

    Args:
        prediction: The predicted side.
        reference: The real side.
        profile: The evaluation profile.
        target: Position of each perturbation's target gene; -1 where it is not among the genes (P).
    """

    prediction: ScreenSummary
    reference: ScreenSummary
    profile: Profile
    target: np.ndarray

    @property
    def perturbations(self) -> np.ndarray:
        """Labels (P)."""
        return self.reference.perturbations

    @property
    def origin_prediction(self) -> np.ndarray:
        """The control profile that predicted effects start from (G)."""
        own = self.profile.settings["control_source"] == "own"
        return (self.prediction if own else self.reference).profiles[-1]

    @property
    def profiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and real profiles without the control, P x G each."""
        return self.prediction.profiles[:-1], self.reference.profiles[:-1]

    @cached_property
    def effects(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and real changes against control, P x G each."""
        predicted, real = self.profiles
        return predicted - self.origin_prediction, real - self.reference.profiles[-1]

    def sides(self, of: str) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and real `profiles` or `effects`."""
        return self.effects if of == "effects" else self.profiles

    def distances(self, of: str, distance: Literal["l1", "l2", "cosine"]) -> np.ndarray:
        """Distance from each prediction to each real perturbation, without the genes that the profile excludes."""
        predicted, real = self.sides(of)
        excluded = self.profile.settings["excluded_genes"]["discrimination"]
        if excluded == "panel":
            kept = np.setdiff1d(np.arange(real.shape[1]), self.target)
            return profile_distances(predicted[:, kept], real[:, kept], distance)
        return profile_distances(predicted, real, distance, target=self.target if excluded == "own" else None)

    @cached_property
    def tables(self) -> tuple[DifferentialExpression, DifferentialExpression]:
        """Predicted and real DE over the genes that either side tested; NaN where a side did not."""
        predicted, real = self.prediction.differential_expression, self.reference.differential_expression
        tested = np.union1d(predicted.tested, real.tested)
        genes = self.reference.genes[tested]
        return predicted.over(tested, genes), real.over(tested, genes)

    @cached_property
    def called(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and real DE genes, without those that the profile excludes, P x tested genes."""
        predicted, real = self.tables
        if self.profile.settings["excluded_genes"]["differential_expression"] == "none":
            return predicted.significant, real.significant
        kept = real.tested[None, :] != self.target[:, None]
        return predicted.significant & kept, real.significant & kept

    @property
    def fold_changes(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and real log2 fold changes, P x tested genes."""
        predicted, real = self.tables
        return predicted.log2_fold_change, real.log2_fold_change

    def diagnostics(self) -> tuple[pd.DataFrame, dict[str, float]]:
        """What a score alone hides: one row a perturbation, and values of the whole panel.

        A score can be gamed: by calling every gene (compare the numbers of DE genes), by scaled effects (effect-size
        ratio), by cells that are all alike (variance ratio), by one profile for everything (share of near-copies).
        """
        called_prediction, called_reference = self.called
        effects_prediction, effects_reference = self.effects
        size_prediction, size_reference = (
            np.linalg.norm(effects, axis=1) for effects in (effects_prediction, effects_reference)
        )
        table = pd.DataFrame(
            {
                "cells_prediction": self.prediction.n_cells[:-1],
                "cells_reference": self.reference.n_cells[:-1],
                "de_genes_prediction": called_prediction.sum(axis=1),
                "de_genes_reference": called_reference.sum(axis=1),
                "effect_size_prediction": size_prediction,
                "effect_size_reference": size_reference,
                "effect_size_ratio": _divide(size_prediction, size_reference),
                "variance_ratio": _divide(self.prediction.variance[:-1], self.reference.variance[:-1]),
                "nearest_prediction_distance": nearest_distance(effects_prediction),
            },
            index=pd.Index(self.perturbations, name="perturbation"),
        )
        scale = float(np.median(size_prediction)) if len(size_prediction) else 0.0
        alike = table["nearest_prediction_distance"] <= 0.01 * scale
        summary = {
            "share_nearly_identical_predictions": float(alike.mean()) if len(table) > 1 else 0.0,
            "median_effect_size_ratio": float(table["effect_size_ratio"].median()),
            "median_variance_ratio": float(table["variance_ratio"].median()),
            "de_genes_prediction": float(called_prediction.sum()),
            "de_genes_reference": float(called_reference.sum()),
        }
        return table, summary


def target_positions(
    perturbations: np.ndarray, genes: np.ndarray, target_genes: Mapping[str, str | None] | None
) -> np.ndarray:
    """Position of each perturbation's target gene among the genes; -1 where there is none.

    Args:
        perturbations: Labels.
        genes: Gene names.
        target_genes: Label -> gene, None for a perturbation without one. Other labels are taken as gene names.
    """
    names = target_genes or {}
    position = {gene: number for number, gene in enumerate(genes)}
    return np.array([position.get(names.get(label, label), -1) for label in perturbations], dtype=np.int64)


def nearest_distance(effects: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row to the nearest other row; NaN for a single row."""
    if len(effects) < 2:
        return np.full(len(effects), np.nan)
    distances = profile_distances(effects, effects, "l2")
    np.fill_diagonal(distances, np.inf)
    return distances.min(axis=1)


def _divide(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.divide(left, right, out=np.full(len(left), np.nan), where=right > 0)
