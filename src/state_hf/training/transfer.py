"""Takes a trained State Transition model to a new screen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from state_hf.configuration.labels import FoundLabels, refuse_look_alikes
from state_hf.configuration.perturbation_labels import label_parts
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.modeling.layers.feature_effects import FeatureEffects
from state_hf.modeling.perturbation_baseline import PerturbationBaseline
from state_hf.modeling.state_transition import StateTransitionForPerturbation, StateTransitionPreTrainedModel

if TYPE_CHECKING:
    from peft import PeftModel

_ATTENTION = {"llama": ["q_proj", "k_proj", "v_proj", "o_proj"], "gpt2": ["c_attn", "c_proj"]}


def replace_perturbations(
    model: StateTransitionForPerturbation,
    vocabulary: PerturbationVocabulary,
    features: np.ndarray | None = None,
    *,
    distinct_case: bool = False,
) -> None:
    """Give a model the perturbations of a new screen.

    Where it learns a row for each perturbation, those that it knows, however they are spelt, keep what it learnt of
    them, and the new control what it learnt of the old. Where it reads features, it gets those of the new
    perturbations. Its `effect_scale` is 1 again, and its mixed model is gone: those of the old screen say nothing of a
    new one.

    Args:
        model: The model, changed in place.
        vocabulary: The new names. Its genes must be the model's.
        features: (perturbations, perturbation_dim), for a model that reads features.
        distinct_case: Whether perturbations that differ in upper and lower case only are different things.

    Raises:
        ValueError: Features are missing or not to be given, the genes are others, or a new name looks like one of which
            the model learnt a row.
    """
    config, old = model.config, model.vocabulary
    if (config.perturbation_features == "vectors") != (features is not None):
        raise ValueError(
            f"The model has perturbation_features={config.perturbation_features!r}: it needs the features of the new "
            "perturbations where it reads vectors, and there only."
        )
    if old.genes and list(vocabulary.genes) != list(old.genes):
        raise ValueError(
            f"The model's {len(old.genes):,} genes and the screen's {len(vocabulary.genes):,} are not the same in the "
            "same order: preprocess the screen with the model's genes (`state-hf preprocess --genes FILE`)."
        )
    config.effect_scale, config.interaction_scale, config.error_scale, config.num_networks = 1.0, None, None, 0
    model.mixed_effects, config.mixed_effects_cell_types, config.mixed_effects_supports = None, None, 0
    model.network_effects = None
    if features is not None:
        set_perturbation_table(model, vocabulary, features)
        return
    refuse_look_alikes(
        [FoundLabels("the screen", vocabulary.perturbations)],
        known=[
            FoundLabels("the model to start from", old.perturbations),
            # What the control is called, the user has said.
            FoundLabels("the screen", [vocabulary.control_perturbation or ""]),
        ],
        distinct_case=distinct_case,
        parts=label_parts,
    )
    known = [_known_row(old, name, vocabulary.control_perturbation) for name in vocabulary.perturbations]
    encoder = model.state_transition.perturbation_encoder
    first: Any = encoder[0]
    new = nn.Linear(
        len(vocabulary.perturbations), first.out_features, device=first.weight.device, dtype=first.weight.dtype
    )
    with torch.no_grad():
        new.weight.normal_(std=config.initializer_range)
        new.bias.copy_(first.bias)
        for row, number in enumerate(known):
            if number is not None:
                new.weight[:, row] = first.weight[:, number]
    encoder[0] = new
    offsets = model.state_transition.perturbation_offsets
    if offsets is not None:
        fitted = offsets.new_zeros(len(vocabulary.perturbations), offsets.shape[1])
        for row, number in enumerate(known):
            if number is not None:
                fitted[row] = offsets[number]
        model.state_transition.perturbation_offsets = nn.Parameter(fitted, requires_grad=False)
    config.perturbation_dim = config.num_perturbations = len(vocabulary.perturbations)
    model.vocabulary = vocabulary


def _known_row(vocabulary: PerturbationVocabulary, name: str, control: str | None) -> int | None:
    """Row of a perturbation of a screen whose control is `control`; None if the model does not know it."""
    known = vocabulary.perturbation_names.find(name, control=control)
    return None if known is None else vocabulary.perturbation_id(known)


def set_perturbation_table(
    model: StateTransitionForPerturbation, vocabulary: PerturbationVocabulary, features: np.ndarray
) -> None:
    """Give a model that reads perturbation features those of a vocabulary, so that it takes names.

    Args:
        model: The model, changed in place.
        vocabulary: The names.
        features: (perturbations, perturbation_dim) in their order.

    Raises:
        ValueError: The features have another width.
    """
    config, base = model.config, model.state_transition
    if features.shape != (len(vocabulary.perturbations), config.perturbation_dim):
        raise ValueError(
            f"Features of the shape {features.shape} are not those of {len(vocabulary.perturbations)} perturbations "
            f"with {config.perturbation_dim} features each (perturbation_dim)."
        )
    weight = torch.from_numpy(np.asarray(features)).to(device=model.device, dtype=model.dtype)
    base.perturbation_table = nn.Embedding.from_pretrained(weight)
    config.num_perturbations = len(vocabulary.perturbations)
    model.vocabulary = vocabulary


def add_perturbations(model: StateTransitionPreTrainedModel, features: Mapping[str, np.ndarray]) -> None:
    """Let a model that reads perturbation features predict further perturbations, by their features.

    Args:
        model: A State Transition model or a baseline, changed in place.
        features: Vectors (perturbation_dim,) by name; of names that it knows, its own are kept.

    Raises:
        ValueError: The model learnt its perturbations by name, or the features have another width.
    """
    if not reads_perturbation_features(model):
        raise ValueError(
            "The model learnt its perturbations by their names, and not by features: it can predict no others."
        )
    old, config = model.vocabulary, model.config
    added = [name for name in features if old.perturbation_names.find(name) is None]
    if not added:
        return
    rows = np.stack([features[name] for name in added])
    if rows.shape[1] != config.perturbation_dim:
        raise ValueError(
            f"The perturbations have {rows.shape[1]} features, but the model reads {config.perturbation_dim}."
        )
    vocabulary = replace(old, perturbations=(*old.perturbations, *added))
    if model.mixed_effects is not None:
        model.mixed_effects.add_perturbations(rows)
    if model.network_effects is not None:
        model.network_effects.add_perturbations(len(rows))
    if isinstance(model, PerturbationBaseline):
        if model.shifts is not None:
            model.shifts = _with_effects(model.shifts, model.by_features, rows)
        if model.perturbation_table is not None:
            model.perturbation_table = _with_rows(model.perturbation_table, torch.from_numpy(rows))
        config.num_perturbations = len(vocabulary.perturbations)
        model.vocabulary = vocabulary
    else:
        network = cast(StateTransitionForPerturbation, model)
        known = cast(nn.Embedding, network.state_transition.perturbation_table).weight
        set_perturbation_table(network, vocabulary, np.concatenate([known.detach().float().cpu().numpy(), rows]))


def reads_perturbation_features(model: StateTransitionPreTrainedModel) -> bool:
    """Whether a model can be given further perturbations, by features."""
    if isinstance(model, PerturbationBaseline):
        table, tables = model.perturbation_table, model.mixed_effects
        if table is not None:
            return not torch.equal(table, torch.eye(*table.shape).to(table))
        return model.by_features is not None or (tables is not None and tables.by_features is not None)
    return getattr(model.base_model, "perturbation_table", None) is not None


def _with_effects(effects: nn.Parameter, by_features: FeatureEffects | None, features: np.ndarray) -> nn.Parameter:
    """Effects with those of further perturbations by their features; 0 where features say nothing."""
    if by_features is None:
        return _with_rows(effects, torch.zeros(len(features), effects.shape[1]))
    return _with_rows(effects, torch.from_numpy(by_features.of_array(features)))


def _with_rows(table: nn.Parameter, rows: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([table, rows.to(table)]), requires_grad=False)


def freeze_backbone(model: StateTransitionForPerturbation) -> None:
    """Keep the backbone and the output projection as they are in training; the encoders still learn."""
    for module in (model.state_transition.backbone, model.state_transition.output_projection):
        module.requires_grad_(False)


def add_lora(model: StateTransitionForPerturbation, *, rank: int = 16, alpha: int = 32) -> "PeftModel":
    """Wrap a model so that low-rank changes of its attention are trained, and its perturbation encoder as a whole.

    Args:
        model: The model.
        rank: Rank of the changes.
        alpha: The changes are scaled by alpha / rank.

    Returns:
        The model wrapped by PEFT; `merge_and_unload` makes it a plain one again.

    Raises:
        ImportError: The package peft is missing.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs the package peft: pip install 'state-hf[peft]'") from error
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=_ATTENTION[model.config.backbone],
        modules_to_save=["perturbation_encoder"],
        fan_in_fan_out=model.config.backbone == "gpt2",
    )
    return get_peft_model(model, config)


__all__ = [
    "add_lora",
    "add_perturbations",
    "freeze_backbone",
    "reads_perturbation_features",
    "replace_perturbations",
    "set_perturbation_table",
]
