"""What a model is that predicts perturbed cells: it knows the names of what it predicts, and what it reads for it."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import cached_file

from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.modeling.layers.mixed_effects_tables import MixedEffectsTables
from state_hf.modeling.layers.network_effects import NetworkEffects

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class PerturbationModelMixin:
    """For a `PreTrainedModel` that predicts perturbed cells, and can be asked for it by `state_hf.predict`.

    Keeps a vocabulary with it, and saves and loads it with the weights as `vocabulary.json`. Whoever predicts with a
    model asks what it reads beside control cells and a perturbation, and not what class it is of.

    Attributes:
        reads_cell_types: Whether it takes `cell_type_ids`, (sets,).
        reads_control_means: Whether it takes `control_mean`, (sets, input_dim), of all of a cell type's controls, and
            `control_cells`, (sets,), their number.
        simulates_controls: Whether its prediction of the control perturbation differs from the control cells, and so
            has an error of its own that a difference takes out.
        mixed_effects: What a mixed model of its training screen expects, which predicted profiles start from; None
            without one.
        network_effects: Effects that networks of the same training predict on average over its contexts; None without
            them, and a network's effect in the context at hand is taken.
    """

    reads_cell_types = False
    reads_control_means = False
    simulates_controls = True
    mixed_effects: MixedEffectsTables | None
    network_effects: NetworkEffects | None

    config: StateTransitionConfig
    base_model: Any
    _vocabulary: PerturbationVocabulary | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixed_effects = self.network_effects = None

    @property
    def has_vocabulary(self) -> bool:
        """Whether the names of the model's perturbations are known."""
        return self.base_model._vocabulary is not None

    @property
    def vocabulary(self) -> PerturbationVocabulary:
        """Names of the model's perturbations, batches, cell types and genes.

        Raises:
            ValueError: If the model has none, or one is set that does not fit its sizes.
        """
        vocabulary = self.base_model._vocabulary
        if vocabulary is None:
            raise ValueError(
                f"The model {self.config.name_or_path!r} has no vocabulary ({PerturbationVocabulary.FILE_NAME}). "
                "Set `model.vocabulary = PerturbationVocabulary(...)`."
            )
        return vocabulary

    @vocabulary.setter
    def vocabulary(self, vocabulary: PerturbationVocabulary) -> None:
        config = self.config
        rows = config.num_perturbations or None
        batches = config.num_batches if config.use_batch_encoder or config.use_batch_token else None
        for name, size in (("perturbations", rows), ("batches", batches), ("genes", config.num_genes)):
            named = len(getattr(vocabulary, name))
            # Genes may stay unnamed: some original checkpoints do not say what theirs are.
            if size is not None and named != size and not (name == "genes" and named == 0):
                raise ValueError(f"The vocabulary names {named} {name}, but the model has {size}.")
        self.base_model._vocabulary = vocabulary

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save weights, configuration and vocabulary. See `PreTrainedModel.save_pretrained`."""
        if self.has_vocabulary and kwargs.get("is_main_process", True):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.vocabulary.save(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    def acting_ids(self, perturbation_ids: torch.Tensor) -> torch.Tensor:
        """(sets, combined). Ids of perturbations, and -1 for the control; from (sets,), or (sets, combined)."""
        ids = perturbation_ids.unsqueeze(-1) if perturbation_ids.dim() == 1 else perturbation_ids
        if not self.has_vocabulary or self.vocabulary.control_perturbation is None:
            return ids
        return ids.masked_fill(ids == self.vocabulary.perturbation_id(self.vocabulary.control_perturbation), -1)

    def cell_type_id(self, name: str) -> int:
        """What stands for a cell type in `cell_type_ids`: a mixed model has a row, -1, for those that it does not know.

        Raises:
            ValueError: If the model cannot predict without having trained with it, and has not.
        """
        names = list(self.vocabulary.cell_types)
        if name not in names and self.mixed_effects is not None:
            return -1
        if name not in names:
            raise ValueError(
                f"The model has a mean profile for {', '.join(map(repr, names))}, and not for the cell type {name!r}."
            )
        return names.index(name)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load weights, configuration and vocabulary. See `PreTrainedModel.from_pretrained`."""
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        path = None
        if pretrained_model_name_or_path is not None:
            path = cached_file(
                pretrained_model_name_or_path,
                PerturbationVocabulary.FILE_NAME,
                _raise_exceptions_for_missing_entries=False,
                **hub,
            )
        if path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.vocabulary = PerturbationVocabulary.load(path)
        return loaded


__all__ = ["PerturbationModelMixin"]
