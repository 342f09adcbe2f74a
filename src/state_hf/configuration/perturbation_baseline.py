"""Configuration of the baselines that every perturbation model is to be compared with."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from state_hf.configuration.auto_map import PortableConfigMixin
from state_hf.configuration.number_ranges import check_numbers

BaselineMethod = Literal[
    "control_copy",
    "context_mean",
    "perturbation_mean",
    "perturbation_ridge",
    "perturbation_profile",
    "treated_mean",
    "context_profile",
    "nearest_perturbation",
    "bilinear",
    "kernel_ridge",
    "mixed_effects",
]
# What a prediction starts from: each of the control cells, their mean, what is made of their mean, or the cell type.
_STARTS: dict[BaselineMethod, str] = {
    "control_copy": "cells",
    "context_mean": "cells",
    "perturbation_mean": "cells",
    "perturbation_ridge": "cells",
    "perturbation_profile": "control_mean",
    "treated_mean": "treated_mean",
    "context_profile": "cell_type",
    "nearest_perturbation": "treated_mean",
    "bilinear": "treated_mean",
    "kernel_ridge": "treated_mean",
    "mixed_effects": "mixed_effects",
}
_LIKENESS: dict[str, Literal["linear", "gaussian", "nearest"]] = {
    "bilinear": "linear",
    "nearest_perturbation": "nearest",
}


@strict
class PerturbationBaselineConfig(PortableConfigMixin, PreTrainedConfig):
    """What a baseline is.

    Args:
        method: "control_copy" returns the control cells. "context_mean" adds the mean effect of all perturbations to
            them, "perturbation_mean" that of the perturbation over the training contexts, and "perturbation_ridge" what
            a ridge regression on perturbation features predicts. "perturbation_profile" gives every cell the mean of
            the context's controls plus the perturbation's mean effect, "treated_mean" the perturbation's mean cell over
            the training contexts, "context_profile" the mean of the perturbations that the context was trained with.
            "nearest_perturbation", "bilinear" and "kernel_ridge" add to the mean of the context's controls the effect
            of the perturbation with the nearest features, what a linear model of factors of genes and of perturbations
            predicts (see `state_hf.training.bilinear_effects`), or what a kernel ridge regression does (see
            `state_hf.training.kernel_ridge`). "mixed_effects" gives every cell what a mixed model of the training means
            expects, see `state_hf.training.mixed_effects`: effects shrunk as far as they are noise, and levels that
            contexts lend each other as far as they are alike.
        input_dim: Features of a cell.
        num_perturbations: Perturbations of the vocabulary.
        perturbation_dim: Width of the perturbation features; 0 for methods that read none.
        num_supports: Known perturbations, or axes, whose features say what one with other features does; 0 without.
        num_levels: Contexts whose control cells say what other ones change in "kernel_ridge"; 0 for the others.
        num_cell_types: Cell types of the vocabulary.
        feature_key: Where the features come from in an AnnData, as in `StateTransitionConfig`.
        feature_scale: Scale of the features.
        target_sum: Counts per cell that they were normalised to, or None if that is not known or not done.
        cell_set_length: Cells that are predicted together.
        nonnegative_output: Whether predictions below 0 become 0. By default, unless the features are an embedding.
    """

    model_type: ClassVar[str] = "perturbation_baseline"
    # A baseline reads no batches; what checks a vocabulary asks.
    use_batch_encoder: ClassVar[bool] = False
    use_batch_token: ClassVar[bool] = False
    num_batches: ClassVar[int] = 1
    gene_decoder: ClassVar[None] = None

    method: BaselineMethod = "control_copy"
    input_dim: int = 2000
    num_perturbations: int = 1
    perturbation_dim: int = 0
    num_supports: int = 0
    num_levels: int = 0
    num_cell_types: int = 1
    feature_key: str = "X_hvg"
    feature_scale: Literal["counts", "log1p", "embedding"] = "log1p"
    target_sum: float | None = None
    cell_set_length: int = 512
    nonnegative_output: bool | None = None

    def __post_init__(self, **kwargs: object) -> None:
        """Derive what was left to be derived."""
        super().__post_init__(**kwargs)
        if self.nonnegative_output is None:
            self.nonnegative_output = self.feature_scale != "embedding"

    def validate_architecture(self) -> None:
        """Check the sizes."""
        check_numbers(self, ("input_dim", "num_perturbations", "num_cell_types", "cell_set_length"))
        for name in ("perturbation_dim", "num_supports", "num_levels"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, but is {getattr(self, name)}")

    @property
    def start(self) -> str:
        """What a prediction starts from: "cells", "control_mean", "treated_mean", "cell_type" or "mixed_effects"."""
        return _STARTS[self.method]

    @property
    def likeness(self) -> Literal["linear", "gaussian", "nearest"]:
        """How features of perturbations are compared."""
        return _LIKENESS.get(self.method, "gaussian")

    @property
    def num_genes(self) -> int | None:
        """Genes of the predicted expression; None for an embedding."""
        return None if self.feature_scale == "embedding" else self.input_dim


__all__ = ["PerturbationBaselineConfig"]
