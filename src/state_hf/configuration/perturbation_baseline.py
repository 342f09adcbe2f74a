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
    "context_profile",
    "mixed_effects",
]


@strict
class PerturbationBaselineConfig(PortableConfigMixin, PreTrainedConfig):
    """What a baseline is.

    Args:
        method: "control_copy" returns the control cells. "context_mean" adds the mean effect of all perturbations to
            them, "perturbation_mean" that of the perturbation over the training contexts, and "perturbation_ridge" what
            a ridge regression on perturbation features predicts. "perturbation_profile" gives every cell the mean of
            the context's controls plus the perturbation's mean effect, "context_profile" the mean of the perturbations
            that the context was trained with. "mixed_effects" gives every cell what a mixed model of the training means
            expects, see `state_hf.training.mixed_effects`: effects shrunk as far as they are noise, and levels that
            contexts lend each other as far as they are alike.
        input_dim: Features of a cell.
        num_perturbations: Perturbations of the vocabulary.
        perturbation_dim: Width of the perturbation features of "perturbation_ridge"; 0 for the others.
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
        if self.perturbation_dim < 0:
            raise ValueError(f"perturbation_dim must be at least 0, but is {self.perturbation_dim}")

    @property
    def num_genes(self) -> int | None:
        """Genes of the predicted expression; None for an embedding."""
        return None if self.feature_scale == "embedding" else self.input_dim


__all__ = ["PerturbationBaselineConfig"]
