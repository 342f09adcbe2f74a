"""Transformers over sets of cells: transformers' own Llama and GPT-2 without tokens and, where asked, positions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Model
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaModel, eager_attention_forward

from state_hf.configuration.state_transition import StateTransitionConfig


class LlamaSetAttention(LlamaAttention):
    """Llama's attention without rotation: with every position 0 it would turn nothing, at 3 to 6 % of a step."""

    # What transformers declares has changed from 5.23 to 5.24.
    def forward(  # type: ignore[override, unused-ignore]
        self,
        hidden_states: torch.Tensor,
        position_embeddings: None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        def heads(projected: torch.Tensor) -> torch.Tensor:
            return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attend(
            self,
            heads(self.q_proj(hidden_states)),
            heads(self.k_proj(hidden_states)),
            heads(self.v_proj(hidden_states)),
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.flatten(-2).contiguous()), weights


class NoRotation(nn.Module):
    """In the place of Llama's rotary embedding, for attention that does not rotate."""

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> None:
        return None


class ZeroPositions(nn.Module):
    """In the place of GPT-2's position table: every position is 0."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=position_ids.device)


def _without_language(config: StateTransitionConfig) -> dict[str, Any]:
    """What makes a language model one of sets: no tokens, no generation, and attention in both directions."""
    return {
        "vocab_size": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "use_cache": False,
        "is_causal": config.is_causal,
        "attn_implementation": config._attn_implementation,
    }


class LlamaSetModel(LlamaModel):
    """Llama over a set of cells, which come as `inputs_embeds`."""

    def __init__(self, config: StateTransitionConfig) -> None:
        llama = LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attention_dropout=config.attention_dropout,
            initializer_range=config.initializer_range,
            **_without_language(config),
        )
        super().__init__(llama)
        self.embed_tokens = None  # type: ignore[assignment]
        if config.position_embedding_type == "none":
            self.rotary_emb = NoRotation()  # type: ignore[assignment]
            for number, layer in enumerate(self.layers):
                layer.self_attn = LlamaSetAttention(llama, number)


class GPT2SetModel(GPT2Model):
    """GPT-2 over a set of cells, which come as `inputs_embeds`."""

    def __init__(self, config: StateTransitionConfig) -> None:
        gpt2 = GPT2Config(
            n_positions=1,
            n_embd=config.hidden_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            n_inner=config.intermediate_size,
            resid_pdrop=config.backbone_dropout,
            embd_pdrop=config.backbone_dropout,
            attn_pdrop=config.attention_dropout,
            layer_norm_epsilon=config.layer_norm_eps,
            initializer_range=config.initializer_range,
            **_without_language(config),
        )
        super().__init__(gpt2)
        self.wte = None  # type: ignore[assignment]
        self.wpe = ZeroPositions()  # type: ignore[assignment]


def make_set_backbone(config: StateTransitionConfig) -> PreTrainedModel:
    """The backbone that `config.backbone` names."""
    return GPT2SetModel(config) if config.backbone == "gpt2" else LlamaSetModel(config)


__all__ = ["GPT2SetModel", "LlamaSetModel", "make_set_backbone"]
