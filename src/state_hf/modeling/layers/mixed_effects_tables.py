"""What a mixed model of a screen expects of a perturbation in a context."""

import numpy as np
import torch
from torch import nn

from state_hf.modeling.layers.feature_effects import FeatureEffects

NORMAL_95 = 1.959964
"""Standard errors that a 95 % interval goes to each side."""


class MixedEffectsVariances(nn.Module):
    """How far a mixed model may be off.

    Args:
        num_perturbations: Perturbations.
        num_cell_types: Cell types; a further row is for all others.
        width: Features of a cell.
    """

    def __init__(self, num_perturbations: int, num_cell_types: int, width: int) -> None:
        super().__init__()
        self.treated = _constant(num_cell_types + 1, width)
        self.effects, self.interaction = _constant(num_perturbations, width), _constant(width)


class MixedEffectsTables(nn.Module):
    """Mean cells by perturbation and cell type, given the mean of control cells.

    The formula is that of `state_hf.training.mixed_effects.MixedEffects`. Nothing trains the tables.

    Args:
        num_perturbations: Perturbations.
        num_cell_types: Cell types; a further row is for all others.
        width: Features of a cell.
        supports: Perturbations whose features say what one with other features does; 0 without features.
        dim: Features of a perturbation.
        variances: Whether there are tables of variances, too.
    """

    def __init__(
        self,
        num_perturbations: int,
        num_cell_types: int,
        width: int,
        *,
        supports: int = 0,
        dim: int = 0,
        variances: bool = False,
    ) -> None:
        super().__init__()
        self.effects = _constant(num_perturbations, width)
        for_cell_types = (num_cell_types + 1, width)
        self.level, self.level_variance = _constant(*for_cell_types), _constant(*for_cell_types)
        self.treated, self.covariance = _constant(*for_cell_types), _constant(*for_cell_types)
        self.noise = _constant(*for_cell_types)
        self.by_features = FeatureEffects(supports, dim, width, "gaussian") if supports else None
        sizes = (num_perturbations, num_cell_types, width)
        self.variances = MixedEffectsVariances(*sizes) if variances else None

    def add_perturbations(self, features: np.ndarray) -> None:
        """Make room for further perturbations, with the own effects that their features tell, if any do.

        How far these are off is as much as others' effects are large.

        Args:
            features: (further perturbations, features).
        """
        if self.variances is not None:
            usual = (self.effects.square() + self.variances.effects).mean(dim=0, keepdim=True)
            self.variances.effects = _longer(self.variances.effects, usual.expand(len(features), -1))
        told = torch.zeros(len(features), self.effects.shape[1])
        if self.by_features is not None:
            told = torch.from_numpy(self.by_features.of_array(features))
        self.effects = _longer(self.effects, told)

    def forward(
        self,
        perturbation_ids: torch.Tensor,
        cell_type_ids: torch.Tensor | None,
        control_mean: torch.Tensor,
        control_cells: torch.Tensor,
    ) -> torch.Tensor:
        """Expect mean cells.

        Args:
            perturbation_ids: (sets, combined). Own effects add up; -1 has none, and a set of them alone is the control.
            cell_type_ids: (sets,). -1 for a cell type that has no row; None where all have none.
            control_mean: (sets, width). Mean of control cells of the set's cell type.
            control_cells: (sets,). Their number.

        Returns:
            (sets, width).
        """
        if cell_type_ids is None:
            cell_type_ids = torch.full((len(control_mean),), -1, device=control_mean.device)
        acting = perturbation_ids >= 0
        perturbed = acting.any(dim=1, keepdim=True)
        level, variance = self.level[cell_type_ids], self.level_variance[cell_type_ids]
        shared = torch.where(perturbed, self.covariance[cell_type_ids], variance)
        gain = shared / (variance + self.noise[cell_type_ids] / control_cells[:, None])
        start = torch.where(perturbed, self.treated[cell_type_ids], level)
        effects = self.effects[perturbation_ids.clamp(min=0)] * acting.unsqueeze(-1)
        return start + gain * (control_mean - level) + effects.sum(dim=1)

    @torch.no_grad()
    def profiles(
        self, perturbation_ids: torch.Tensor, cell_type_id: int, control_mean: np.ndarray, control_cells: int
    ) -> np.ndarray:
        """(sets, width) float64. `forward` for sets of one cell type.

        Args:
            perturbation_ids: (sets, combined), as in `forward`.
            cell_type_id: The cell type; -1 for one that has no row.
            control_mean: (width,). Mean of its control cells.
            control_cells: Their number.
        """
        sets, device = len(perturbation_ids), self.level.device
        expected = self(
            perturbation_ids.to(device),
            torch.full((sets,), cell_type_id, device=device),
            torch.from_numpy(control_mean).to(self.level).expand(sets, -1),
            torch.full((sets,), control_cells, device=device),
        )
        return np.asarray(expected.double().cpu())

    @torch.no_grad()
    def profile_variances(self, perturbation_ids: torch.Tensor, cell_type_id: int, control_cells: int) -> np.ndarray:
        """(sets, width) float64. Variances of what `profiles` expects around the true mean cells.

        That of the level and the effects that perturbations share, once the control cells are seen; what the own effect
        adds to it in any context; and the variance of its interaction with this one.

        Args:
            perturbation_ids: (sets, combined), as in `forward`.
            cell_type_id: The cell type; -1 for one that has no row.
            control_cells: Number of its control cells.

        Raises:
            ValueError: The tables have no variances.
        """
        if self.variances is None:
            raise ValueError("The mixed model was saved without variances: fit it again.")
        ids = perturbation_ids.to(self.level.device)
        acting = ids >= 0
        perturbed = acting.any(dim=1, keepdim=True)
        level, covariance = self.level_variance[cell_type_id], self.covariance[cell_type_id]
        observed = level + self.noise[cell_type_id] / control_cells
        treated = self.variances.treated[cell_type_id] - covariance.square() / observed
        start = torch.where(perturbed, treated, level - level.square() / observed)
        own = (self.variances.effects + self.variances.interaction)[ids.clamp(min=0)] * acting.unsqueeze(-1)
        return np.asarray((start.clamp(min=0) + own.sum(dim=1)).double().cpu())


def _longer(table: torch.Tensor, rows: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([table, rows.to(table)]), requires_grad=False)


def _constant(*shape: int) -> nn.Parameter:
    """A parameter, so that it is saved and moved with the model, that nothing trains."""
    return nn.Parameter(torch.zeros(*shape), requires_grad=False)


__all__ = ["NORMAL_95", "MixedEffectsTables", "MixedEffectsVariances"]
