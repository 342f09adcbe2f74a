"""Which cells a converted State Transition model's cells see, and in what order: what the original did."""

from dataclasses import dataclass
from typing import Any, Literal

from state_hf.configuration.advice import Advised

Attention = Literal["bidirectional", "causal"]
Positions = Literal["none", "rotary"]

_UNMARKED = (
    "the checkpoint does not say (no `bidirectional_attention`), and arc-state 0.11.1 loads such a one as a plain "
    "Llama. If it was trained before October 2025 with transformers older than 4.53, or with 5, it was bidirectional "
    "and without positions; with 4.53 to 4.57, causal and without positions"
)


@dataclass(frozen=True)
class AttentionMode:
    """The two switches, and why they are as they are.

    Args:
        attention: Whether a cell sees all cells of its set, or only those before it.
        positions: Whether cells have a place in their set.
        attention_reason: Why this attention.
        positions_reason: Why these positions.
    """

    attention: Attention
    positions: Positions
    attention_reason: str
    positions_reason: str

    def __str__(self) -> str:
        return (
            f"attention: {self.attention} ({self.attention_reason}); "
            f"positions: {self.positions} ({self.positions_reason})"
        )


def attention_mode(
    backbone: str, backbone_arguments: dict[str, Any], *, attention: Attention | None, positions: Positions | None
) -> AttentionMode:
    """The mode that arc-state 0.11.1 loads a checkpoint in, or the user's.

    Args:
        backbone: "llama" or "gpt2".
        backbone_arguments: The original's `transformer_backbone_kwargs`.
        attention: What the user asks for.
        positions: What the user asks for.

    Raises:
        ValueError: If rotary positions are asked of GPT-2, which has none.
    """
    if backbone == "gpt2":
        if positions == "rotary":
            raise ValueError(Advised("A GPT-2 backbone has no rotary positions", "use positions='none'"))
        eager = backbone_arguments.get("attn_implementation") == "eager"
        found = AttentionMode(
            "bidirectional" if eager else "causal",
            "none",
            "a GPT-2 backbone with eager attention" if eager else "arc-state's GPT-2 is causal but for eager attention",
            "arc-state's GPT-2 has none",
        )
    elif (flag := backbone_arguments.get("bidirectional_attention")) is None:
        found = AttentionMode("causal", "rotary", _UNMARKED, "for the same reason")
    elif flag:
        found = AttentionMode(
            "bidirectional", "none", "the checkpoint sets bidirectional_attention", "for the same reason"
        )
    else:
        found = AttentionMode(
            "causal", "rotary", "the checkpoint unsets bidirectional_attention", "for the same reason"
        )
    return AttentionMode(
        attention or found.attention,
        positions or found.positions,
        "set by the user" if attention else found.attention_reason,
        "set by the user" if positions else found.positions_reason,
    )


__all__ = ["Attention", "AttentionMode", "Positions", "attention_mode"]
