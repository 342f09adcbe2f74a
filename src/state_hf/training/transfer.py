"""Takes a trained State Transition model to a new screen."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from state_hf.configuration.state_transition_vocabulary import StateTransitionVocabulary
from state_hf.modeling.state_transition import StateTransitionForPerturbation

if TYPE_CHECKING:
    from peft import PeftModel

_ATTENTION = {"llama": ["q_proj", "k_proj", "v_proj", "o_proj"], "gpt2": ["c_attn", "c_proj"]}


def replace_perturbations(model: StateTransitionForPerturbation, vocabulary: StateTransitionVocabulary) -> None:
    """Give a model the perturbations of a new screen; those that it knows keep what it learnt of them.

    Only a model that learns a row for each perturbation can; one that reads features takes any perturbation as it is.

    Args:
        model: The model, changed in place.
        vocabulary: The new names. Its genes must be the model's.

    Raises:
        ValueError: The model reads perturbation features, or the genes are others.
    """
    config, old = model.config, model.vocabulary
    if config.perturbation_features != "ids":
        raise ValueError(
            "The model reads perturbation features (perturbation_features='vectors'): it has no names to replace."
        )
    if old.genes and list(vocabulary.genes) != list(old.genes):
        raise ValueError(
            f"The model's {len(old.genes):,} genes and the screen's {len(vocabulary.genes):,} are not the same in the "
            "same order: preprocess the screen with the model's genes (state-hf preprocess --genes)."
        )
    encoder = model.state_transition.perturbation_encoder
    first: Any = encoder[0]
    new = nn.Linear(
        len(vocabulary.perturbations), first.out_features, device=first.weight.device, dtype=first.weight.dtype
    )
    with torch.no_grad():
        new.weight.normal_(std=config.initializer_range)
        new.bias.copy_(first.bias)
        for row, name in enumerate(vocabulary.perturbations):
            if name in old.perturbations:
                new.weight[:, row] = first.weight[:, old.perturbation_id(name)]
    encoder[0] = new
    offsets = model.state_transition.perturbation_offsets
    if offsets is not None:
        fitted = offsets.new_zeros(len(vocabulary.perturbations), offsets.shape[1])
        for row, name in enumerate(vocabulary.perturbations):
            if name in old.perturbations:
                fitted[row] = offsets[old.perturbation_id(name)]
        model.state_transition.perturbation_offsets = nn.Parameter(fitted, requires_grad=False)
    config.perturbation_dim = config.num_perturbations = len(vocabulary.perturbations)
    model.vocabulary = vocabulary


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


__all__ = ["add_lora", "freeze_backbone", "replace_perturbations"]
