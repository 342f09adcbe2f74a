"""Baselines with the interface of a State Transition model: means of training cells, and a linear model."""

from typing import Any

import torch
from torch import nn
from transformers.utils import can_return_tuple

from state_hf.configuration.perturbation_baseline import PerturbationBaselineConfig
from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.modeling.layers.mixed_effects_tables import MixedEffectsTables
from state_hf.modeling.losses import make_set_loss
from state_hf.modeling.losses.pairwise_distances import without_padding
from state_hf.modeling.state_transition import StateTransitionForPerturbationOutput, StateTransitionPreTrainedModel


class PerturbationBaseline(StateTransitionPreTrainedModel):
    """A prediction from means of training cells; see `PerturbationBaselineConfig` for what there is.

    It is fitted by `state_hf.training.fit_baselines`, and saved and loaded like any model.

    Example:
        >>> baseline = PerturbationBaseline.from_pretrained(folder)
        >>> ids = torch.tensor([baseline.vocabulary.perturbation_id("TP53")])
        >>> baseline(control=cells.unsqueeze(0), perturbation_ids=ids).predicted_cells.shape
        torch.Size([1, 512, 2000])
    """

    config: PerturbationBaselineConfig  # type: ignore[assignment]
    config_class = PerturbationBaselineConfig  # type: ignore[assignment]
    base_model_prefix = "baseline"
    supports_gradient_checkpointing = False
    simulates_controls = False

    def __init__(self, config: PerturbationBaselineConfig) -> None:
        super().__init__(config)
        start, size, width = config.start, config.num_perturbations, config.input_dim
        self.shifts: nn.Parameter | None = None
        self.profiles: nn.Parameter | None = None
        self.perturbation_table: nn.Parameter | None = None
        self.by_features: FeatureEffects | None = None
        self.by_level: FeatureEffects | None = None
        if config.method == "perturbation_ridge":
            self.perturbation_table = _constant(size, config.perturbation_dim)
            # The last row is the intercept.
            self.coefficients = _constant(config.perturbation_dim + 1, width)
        elif start in ("cells", "control_mean", "treated_mean"):
            self.shifts = _constant(size, width)
        if start == "treated_mean":
            self.common, self.share = _constant(width), _constant()
            if config.num_supports:
                self.by_features = FeatureEffects(config.num_supports, config.perturbation_dim, width, config.likeness)
            if config.num_levels:
                self.by_level = FeatureEffects(config.num_levels, width, width, "linear")
        if start == "cell_type":
            self.profiles = _constant(config.num_cell_types, width)
        if start == "mixed_effects":
            self.mixed_effects = MixedEffectsTables(
                size, config.num_cell_types, width, supports=config.num_supports, dim=config.perturbation_dim
            )
        self.reads_cell_types = start in ("cell_type", "mixed_effects")
        self.reads_control_means = start in ("control_mean", "treated_mean", "mixed_effects")
        self.loss = make_set_loss("energy")
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Leave everything at 0: a baseline is fitted, not trained."""

    def _shift(self, perturbation_ids: torch.Tensor) -> torch.Tensor:
        """(sets, input_dim). Effects of perturbations; those of a combination add up, and the control has none."""
        ids = self.acting_ids(perturbation_ids)
        acting = ids >= 0
        if self.perturbation_table is not None:
            rows = self.perturbation_table[ids.clamp(min=0)] @ self.coefficients[:-1] + self.coefficients[-1]
        else:
            rows = self.shifts[ids.clamp(min=0)]  # type: ignore[index]
        return (rows * acting.unsqueeze(-1)).sum(dim=1)

    @can_return_tuple
    def forward(
        self,
        control: torch.Tensor,
        perturbation_ids: torch.Tensor,
        batch_ids: torch.Tensor | None = None,
        cell_mask: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
        cell_type_ids: torch.Tensor | None = None,
        control_mean: torch.Tensor | None = None,
        control_cells: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> StateTransitionForPerturbationOutput:
        """Predict sets of perturbed cells.

        Args:
            control: (sets, cells, input_dim). The control cells of each set.
            perturbation_ids: (sets,), or (sets, combined) for combinations, -1 where there are fewer.
            batch_ids: Not used; models share their arguments.
            cell_mask: (sets, cells), True for cells and False for padding.
            target: (sets, target cells, input_dim). Real perturbed cells, for the loss: the energy distance.
            target_mask: (sets, target cells), True for cells and False for padding.
            cell_type_ids: (sets,). Cell type of each set in the vocabulary's order; "context_profile" needs it. -1 is
                one that the vocabulary does not have, which "mixed_effects" takes, and does by default.
            control_mean: (sets, input_dim). Mean of all control cells of the set's cell type, for
                methods that read it; the mean of the set's own by default.
            control_cells: (sets,). Number of the cells of `control_mean`, for "mixed_effects".
            **kwargs: Not used; models share their arguments.

        Returns:
            `StateTransitionForPerturbationOutput`, the loss being there where the target is.

        Raises:
            ValueError: If a cell type is needed and missing, or one without training perturbations.
        """
        if cell_mask is not None:
            control = without_padding(control, cell_mask.bool())
        start = self.config.start
        if start == "cells":
            predicted = control + self._shift(perturbation_ids).unsqueeze(1)
        elif start == "cell_type":
            predicted = self._profile(cell_type_ids).unsqueeze(1).expand_as(control)
        else:
            if control_mean is None or control_cells is None:
                control_cells = torch.full((len(control),), control.shape[1], device=control.device)
                if cell_mask is not None:
                    control_cells = cell_mask.sum(dim=1).clamp(min=1)
            if control_mean is None:
                control_mean = control.sum(dim=1) / control_cells[:, None]
            if self.mixed_effects is not None:
                ids = self.acting_ids(perturbation_ids)
                profile = self.mixed_effects(ids, cell_type_ids, control_mean, control_cells)
            else:
                profile = control_mean + self._shift(perturbation_ids)
                if start == "treated_mean":
                    profile = profile + self._treated(perturbation_ids, control_mean)
            predicted = profile.unsqueeze(1).expand_as(control)
        predicted = predicted.clamp(min=0) if self.config.nonnegative_output else predicted
        predicted = without_padding(predicted, cell_mask)
        result = StateTransitionForPerturbationOutput(predicted_cells=predicted)
        if target is not None:
            result.loss = result.distribution_loss = self.loss(predicted, target, cell_mask, target_mask).mean()
        return result

    def _treated(self, perturbation_ids: torch.Tensor, control_mean: torch.Tensor) -> torch.Tensor:
        """(sets, input_dim). What any perturbation makes of the control mean, beyond it; the control nothing."""
        acting = (self.acting_ids(perturbation_ids) >= 0).any(dim=1, keepdim=True)
        made = (self.share - 1) * control_mean + self.common
        if self.by_level is not None:
            made = made + self.by_level(control_mean)
        return made * acting

    def _profile(self, cell_type_ids: torch.Tensor | None) -> torch.Tensor:
        if cell_type_ids is None:
            raise ValueError('A baseline with method="context_profile" needs cell_type_ids.')
        profiles = self.profiles[cell_type_ids]  # type: ignore[index]
        without = cell_type_ids[profiles.isnan().any(dim=1)].tolist()
        if without:
            name = self.vocabulary.cell_types[without[0]] if self.has_vocabulary else without[0]
            raise ValueError(
                f"The cell type {name!r} has no perturbed cells in training, so it has no mean profile "
                '(method="context_profile"): this baseline is for few-shot splits.'
            )
        return profiles


def _constant(*shape: int) -> nn.Parameter:
    """A parameter, so that it is saved and moved with the model, that nothing trains."""
    return nn.Parameter(torch.zeros(shape), requires_grad=False)


__all__ = ["PerturbationBaseline"]
