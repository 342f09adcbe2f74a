"""What a State Transition model is said to be, on its card and by `inspect`."""

from collections.abc import Sequence
from pathlib import Path

from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.model_cards.facts import feature_words, first_of, name_words, read_json
from state_hf.model_cards.state_paper import CITATION, LICENCE, LICENCE_NOTE


def facts(config: StateTransitionConfig, folder: Path) -> dict[str, str]:
    """The rows of a card's table of facts."""
    found = {"Input": feature_words(config), **name_words(read_json(folder / "vocabulary.json"))}
    found["Attention"] = _attention(config)
    found["Architecture"] = (
        f"{config.backbone}, {config.num_hidden_layers} layers of width {config.hidden_size}, sets of up to "
        f"{config.cell_set_length} cells"
    )
    found["Output"] = f"{config.output_dim:,} features on the same scale" + (
        f", decoded to {config.gene_dim:,} genes ({config.gene_decoder})" if config.gene_decoder else ""
    )
    if config.mixed_effects_cell_types is not None:
        found["Profiles"] = (
            f"what a mixed model of the training screen expects, and {config.effect_scale:.2g} of the way from there "
            f"to what {_networks(config)}"
        )
    elif config.effect_scale < 1:
        found["Effects"] = (
            f"validation cells show {config.effect_scale:.2g} of them, so tilted predictions multiply them by that"
        )
    return found


def _networks(config: StateTransitionConfig) -> str:
    said = "the network says" if config.num_networks < 2 else f"{config.num_networks} networks say on average"
    return said + (f", with {config.interaction_scale:.2g} of the context's part" if config.interaction_scale else "")


def _attention(config: StateTransitionConfig) -> str:
    if config.mask_attention:
        return "each cell attends to itself alone"
    seen = "causal" if config.is_causal else "bidirectional: every cell sees every other"
    positions = "rotary positions" if config.position_embedding_type == "rotary" else "no positions"
    return f"{seen}; {positions}"


def inspection(
    config: StateTransitionConfig, *, genes: Sequence[str] | None, vocabulary: PerturbationVocabulary | None
) -> tuple[dict[str, str], list[str]]:
    """What a model is, by topic, and what a user would need and is not there."""
    total = "" if config.target_sum is None else f", {config.target_sum:g} counts a cell"
    decoded = "" if config.gene_decoder is None else f", decoded to {config.gene_dim} genes ({config.gene_decoder})"
    found = {
        "sizes": (
            f"{config.backbone} backbone, {config.num_hidden_layers} layers of width {config.hidden_size}, "
            f"{config.num_attention_heads} heads"
        ),
        "input": (
            f"{config.input_dim} features of {config.feature_key!r} ({config.feature_scale}{total}), in sets of "
            f"{config.cell_set_length} cells"
        ),
        "output": f"{config.output_dim} features, space {config.output_space!r}{decoded}",
        "attention": (
            f"{'causal' if config.is_causal else 'bidirectional'}, positions: {config.position_embedding_type}"
        ),
    }
    if vocabulary is None:
        return found, ["names of perturbations (vocabulary.json)"]
    control = vocabulary.control_perturbation
    found["vocabulary"] = (
        f"{len(vocabulary.perturbations):,} perturbations ({first_of(vocabulary.perturbations)}; control {control!r}), "
        f"{len(vocabulary.batches)} batches, {len(vocabulary.cell_types)} cell types "
        f"({first_of(vocabulary.cell_types)})"
    )
    if vocabulary.genes:
        found["genes"] = f"{len(vocabulary.genes):,}: {first_of(vocabulary.genes)}"
    elif config.num_genes is not None:
        return found, [f"names of the {config.num_genes:,} predicted genes"]
    return found, []


__all__ = ["CITATION", "LICENCE", "LICENCE_NOTE", "facts", "inspection"]
