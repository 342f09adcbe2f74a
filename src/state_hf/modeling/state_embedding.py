"""State Embedding (SE): a bidirectional encoder over a cell sentence whose `[CLS]` output is the cell's embedding."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, PrefixChange, WeightConverter, WeightRenaming
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.esm.modeling_esm import eager_attention_forward
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.output_capturing import capture_outputs

from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.model_cards.pushing import CardedMixin
from state_hf.modeling.cell_features import CellFeatures
from state_hf.modeling.fitting_weights import FittingWeightsMixin

logger = logging.get_logger(__name__)


@dataclass
class StateEmbeddingOutput(ModelOutput):
    """Output of `StateEmbeddingModel`.

    Args:
        cell_embedding: (cells, output_dim). The `[CLS]` output, of unit length.
        dataset_embedding: (cells, dataset_embedding_dim), or None for a model without a dataset token.
        gene_output: (cells, tokens, output_dim). The output of every token, the dataset token's last; None if the
            forward pass was called with `output_genes=False`.
        dataset_hidden: (cells, output_dim). The dataset token's output, which `dataset_embedding` is computed from.
        hidden_states: The output of every layer, on request.
        attentions: The attention weights of every layer, on request.
    """

    cell_embedding: torch.Tensor | None = None
    dataset_embedding: torch.Tensor | None = None
    gene_output: torch.Tensor | None = None
    dataset_hidden: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    @property
    def embedding(self) -> torch.Tensor:
        """(cells, output_dim + dataset_embedding_dim). What users know as the SE embedding of a cell (`X_state`)."""
        parts = (self.cell_embedding, self.dataset_embedding)
        return torch.cat([part for part in parts if part is not None], dim=-1)


class StateEmbeddingSpecialTokens(nn.Module):
    """The learned embeddings of `[CLS]` and of the dataset token, which are not in the gene table."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, config.gene_embedding_dim))
        self.dataset_token = (
            nn.Parameter(torch.empty(1, config.gene_embedding_dim)) if config.use_dataset_token else None
        )

    def forward(self) -> list[torch.Tensor]:
        return [token for token in (self.cls_token, self.dataset_token) if token is not None]


class StateEmbeddingGeneEncoder(nn.Module):
    """Projects protein language model embeddings of genes to the width of the encoder."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.gene_embedding_dim, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, gene_embeddings: torch.Tensor) -> torch.Tensor:
        return F.silu(self.layer_norm(self.dense(gene_embeddings)))


class StateEmbeddingExpressionEncoder(nn.Module):
    """Soft binning: an expression value becomes a mixture of learned bin embeddings."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(1, config.count_encoder_dim)
        self.bin_projection = nn.Linear(config.count_encoder_dim, config.num_expression_bins)
        self.bin_embeddings = nn.Embedding(config.num_expression_bins, config.hidden_size)

    def forward(self, expression: torch.Tensor) -> torch.Tensor:
        hidden = F.leaky_relu(self.dense(expression.to(self.dense.weight.dtype).unsqueeze(-1)))
        bins = torch.arange(self.bin_embeddings.num_embeddings, device=hidden.device)
        return self.bin_projection(hidden).softmax(dim=-1) @ self.bin_embeddings(bins)


class StateEmbeddingAttention(nn.Module):
    """Multi-head self-attention, every token seeing every other."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        query_states: torch.Tensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        def heads(projected: torch.Tensor) -> torch.Tensor:
            return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attend(
            self,
            heads(self.q_proj(query_states)),
            heads(self.k_proj(hidden_states)),
            heads(self.v_proj(hidden_states)),
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.flatten(-2).contiguous()), weights


class StateEmbeddingLayer(GradientCheckpointingLayer):
    """One post-norm encoder layer."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.self_attn = StateEmbeddingAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        query_positions: list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        queries = hidden_states if query_positions is None else hidden_states[:, query_positions]
        attended, _ = self.self_attn(queries, hidden_states, attention_mask, **kwargs)
        queries = self.self_attn_layer_norm(queries + self.dropout(attended))
        transformed = self.fc2(self.dropout(self.activation(self.fc1(queries))))
        return self.final_layer_norm(queries + self.dropout(transformed))


class StateEmbeddingEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([StateEmbeddingLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        last_layer_positions: list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Encode a sentence; the last layer is computed at `last_layer_positions` alone, where given."""
        for layer in self.layers[:-1]:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        if last_layer_positions is not None and attention_mask is not None:
            attention_mask = attention_mask[:, :, last_layer_positions]
        return self.layers[-1](hidden_states, attention_mask, last_layer_positions, **kwargs)


class StateEmbeddingSkipBlock(nn.Module):
    """A residual two-layer perceptron, then a layer norm."""

    def __init__(self, width: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(width, 2 * width)
        self.dense = nn.Linear(2 * width, width)
        self.layer_norm = nn.LayerNorm(width, eps=layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(hidden_states + self.dense(F.relu(self.intermediate_dense(hidden_states))))


class StateEmbeddingTokenDecoder(nn.Module):
    """From the encoder's width to that of the embedding."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.skip_block = StateEmbeddingSkipBlock(config.hidden_size, config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, config.output_dim)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.projection(self.skip_block(hidden_states))


class StateEmbeddingPreTrainedModel(CardedMixin, FittingWeightsMixin, PreTrainedModel):  # type: ignore[misc]
    """Weights: how they start, where they come from, and what runs on them."""

    config: StateEmbeddingConfig
    config_class = StateEmbeddingConfig
    base_model_prefix = "state_embedding"
    main_input_name = "input_ids"
    _input_embed_layer = "gene_table"
    supports_gradient_checkpointing = True
    _no_split_modules = ["StateEmbeddingLayer"]  # noqa: RUF012 - transformers' convention
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": StateEmbeddingLayer,
        "attentions": StateEmbeddingAttention,
    }
    # The original registers its gene encoder under a second name.
    _keys_to_ignore_on_load_unexpected = [r"(^|\.)gene_embedding_layer\."]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StateEmbeddingSpecialTokens):
            init.normal_(module.cls_token)
            if module.dataset_token is not None:
                init.normal_(module.dataset_token)

    def _freeze(self) -> None:
        """Keep what is not to be trained as it is."""
        base: Any = self.base_model
        base.gene_table.weight.requires_grad_(self.config.train_gene_table)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Load a model. See `PreTrainedModel.from_pretrained`.

        A checkpoint without a gene table loads with a warning: it takes `inputs_embeds`, and refuses gene ids.
        """
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, loading_info = loaded
        base = model.base_model
        model._freeze()  # loading makes every parameter trainable
        base.has_gene_table = not any(key.endswith("gene_table.weight") for key in loading_info["missing_keys"])
        if not base.has_gene_table:
            logger.warning(
                f"The checkpoint {model.config.name_or_path!r} has no gene table (`pe_embedding.weight`). "
                "The model takes `inputs_embeds` only; assign `gene_table.weight` and set `has_gene_table` to use ids."
            )
        return (model, loading_info) if output_loading_info else model

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: `auto_map` already names the class, and its code is not to be copied into checkpoints."""


class StateEmbeddingModel(StateEmbeddingPreTrainedModel):
    """The State Embedding model: cell sentences in, cell embeddings out.

    Example:
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained(folder)
        >>> model = StateEmbeddingModel.from_pretrained(folder)
        >>> model(**tokenizer.encode_cells(adata)).embedding.shape
        torch.Size([2638, 2058])
    """

    # The heads of a pretraining checkpoint, which the bare model has no use for.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        *StateEmbeddingPreTrainedModel._keys_to_ignore_on_load_unexpected,
        r"^expression_decoder\.",
        r"^dataset_classifier\.",
    ]

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__(config)
        self.gene_table = nn.Embedding(config.num_genes, config.gene_embedding_dim)
        self.has_gene_table = True
        self.special_tokens = StateEmbeddingSpecialTokens(config)
        self.gene_encoder = StateEmbeddingGeneEncoder(config)
        self.expression_encoder = StateEmbeddingExpressionEncoder(config)
        self.encoder = StateEmbeddingEncoder(config)
        self.token_decoder = StateEmbeddingTokenDecoder(config)
        self.dataset_embedder = (
            nn.Linear(config.output_dim, config.dataset_embedding_dim) if config.use_dataset_token else None
        )
        self._gene_features_cache: tuple[Any, torch.Tensor] | None = None
        self._freeze()
        self.post_init()

    def train(self, mode: bool = True) -> "StateEmbeddingModel":  # noqa: FBT001, FBT002 - torch's signature
        """Switch between training and evaluation."""
        self._gene_features_cache = None
        return super().train(mode)

    @torch.compiler.disable
    def _all_gene_features(self, device: torch.device) -> torch.Tensor:
        """(num_genes, hidden_size). The gene encoder's output for the whole table, computed once for given weights."""
        if torch.is_grad_enabled():
            # Looked up, as a sharded table is whole in its own forward pass alone.
            table = self.gene_table(torch.arange(self.config.num_genes, device=device))
            return self.gene_encoder(F.normalize(table, dim=-1))
        parameters = [self.gene_table.weight, *self.gene_encoder.parameters()]
        # A tensor made in inference mode has no version counter; it cannot be changed in place outside of it, either.
        state = [(p.data_ptr(), p.dtype, p.device, 0 if p.is_inference() else p._version) for p in parameters]
        if self._gene_features_cache is None or self._gene_features_cache[0] != state:
            # Looked up, in blocks: an offloaded table is only there in its own forward pass, and a normalised copy of
            # the whole table would double the memory that it takes.
            ids = torch.arange(self.config.num_genes, device=device)
            blocks = [self.gene_table(block) for block in ids.split(4096)]
            features = torch.cat([self.gene_encoder(F.normalize(block, dim=-1)) for block in blocks])
            self._gene_features_cache = (state, features)
        return self._gene_features_cache[1]

    def _embed_sentence(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(cells, tokens [+ 1], hidden_size). `[CLS]`, the genes, and the dataset token where the model has one."""
        if not self.has_gene_table:
            raise ValueError(
                f"This checkpoint ({self.config.name_or_path!r}) has no gene table, so it cannot look up gene ids. "
                "Pass `inputs_embeds`, or load a checkpoint with `pe_embedding.weight`."
            )
        # `[CLS]` and `[PAD]` have no row: the first token is replaced below, and padding is masked.
        genes = input_ids[:, 1:].clamp(max=self.config.num_genes - 1)
        if torch.is_grad_enabled() and genes.numel() < self.config.num_genes:
            tokens = self.gene_encoder(F.normalize(self.gene_table(genes), dim=-1))
        else:
            tokens = F.embedding(genes, self._all_gene_features(genes.device))
        cls, *dataset = [self.gene_encoder(token).expand(len(tokens), 1, -1) for token in self.special_tokens()]
        return torch.cat([cls, tokens, *dataset], dim=1)

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        expression: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_genes: bool = True,  # noqa: FBT001, FBT002 - transformers' style
        **kwargs: Unpack[TransformersKwargs],
    ) -> StateEmbeddingOutput:
        """Embed cell sentences.

        Args:
            input_ids: (cells, tokens), rows of the gene table. The first token is always `[CLS]`, whatever its id.
                Floats are taken as `inputs_embeds`.
            attention_mask: (cells, tokens), 1 for tokens and 0 for padding. A mask as wide as `inputs_embeds`
                (cells, tokens, gene_embedding_dim) counts a token as present if any of its entries is set.
            expression: (cells, tokens), each token's share of the cell's log expression, in percent. The dataset
                token has none. Without it, genes are present but have no expression.
            inputs_embeds: (cells, tokens, gene_embedding_dim). The whole sentence as embeddings, `[CLS]` first and,
                for a model that has one, the dataset token last.
            output_genes: Whether to return every token's output. Without it, the last layer and the decoder run for
                the special tokens alone, which is faster, and `hidden_states[-1]` holds these alone.

        Returns:
            `StateEmbeddingOutput`.

        Raises:
            ValueError: If there is not exactly one of `input_ids` and `inputs_embeds`, a mask or expression does not
                fit them, or gene ids are given to a model without a gene table.
        """
        if input_ids is not None and input_ids.is_floating_point():
            input_ids, inputs_embeds = None, input_ids
        if input_ids is not None and inputs_embeds is None:
            hidden_states = self._embed_sentence(input_ids)
        elif inputs_embeds is not None and input_ids is None:
            hidden_states = self.gene_encoder(inputs_embeds.to(self.dtype))
        else:
            raise ValueError("Give either input_ids or inputs_embeds.")
        hidden_states = hidden_states * math.sqrt(self.config.hidden_size)
        if expression is not None:
            hidden_states = self._add_expression(hidden_states, expression)

        padding_mask = self._padding_mask(attention_mask, hidden_states)
        mask = create_bidirectional_mask(self.config, hidden_states, padding_mask)
        special_positions = [0, hidden_states.shape[1] - 1] if self.config.use_dataset_token else [0]
        # Flash and flex attention take masks whose query rows cannot be picked.
        can_pick = self.config._attn_implementation in ("eager", "sdpa")
        last_layer_positions = special_positions if can_pick and not output_genes else None
        hidden_states = self.encoder(hidden_states, mask, last_layer_positions, **kwargs)
        if not output_genes and not can_pick:
            hidden_states = hidden_states[:, special_positions]

        decoded = self.token_decoder(hidden_states)
        dataset_hidden = decoded[:, -1] if self.config.use_dataset_token else None
        return StateEmbeddingOutput(
            cell_embedding=F.normalize(decoded[:, 0], dim=-1),
            dataset_embedding=None if self.dataset_embedder is None else self.dataset_embedder(dataset_hidden),
            gene_output=decoded if output_genes else None,
            dataset_hidden=dataset_hidden,
        )

    def get_cell_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        expression: torch.Tensor | None = None,
        output_genes: bool = False,  # noqa: FBT001, FBT002 - transformers' style
        **kwargs: Unpack[TransformersKwargs],
    ) -> CellFeatures:
        """The cells and, as their context, their datasets. See `forward` for the arguments.

        Returns:
            `CellFeatures`: `pooler_output` is the cell embedding, `context` the dataset embedding, and
            `last_hidden_state` the output of every token of the sentence, the dataset token left out.
        """
        output = self(input_ids, attention_mask, expression, output_genes=output_genes, return_dict=True, **kwargs)
        genes = output.gene_output
        if genes is not None and self.config.use_dataset_token:
            genes = genes[:, :-1]
        return CellFeatures(
            pooler_output=output.cell_embedding, context=output.dataset_embedding, last_hidden_state=genes
        )

    def _add_expression(self, hidden_states: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
        sentence = hidden_states.shape[1] - self.config.use_dataset_token
        if expression.shape != (len(hidden_states), sentence):
            raise ValueError(
                f"expression has the shape {tuple(expression.shape)}, but the sentences have "
                f"{len(hidden_states)} cells x {sentence} tokens (the dataset token has no expression)."
            )
        added = self.expression_encoder(expression)
        return hidden_states + F.pad(added, (0, 0, 0, hidden_states.shape[1] - sentence))

    def _padding_mask(self, mask: torch.Tensor | None, hidden_states: torch.Tensor) -> torch.Tensor | None:
        if mask is None:
            return None
        if mask.dim() == 3:
            mask = mask.any(dim=-1)
        missing = hidden_states.shape[1] - mask.shape[1]
        if mask.dim() != 2 or missing not in (0, int(self.config.use_dataset_token)):
            raise ValueError(
                f"attention_mask has the shape {tuple(mask.shape)}, but the sentences have "
                f"{hidden_states.shape[0]} cells x {hidden_states.shape[1]} tokens."
            )
        return F.pad(mask.long(), (0, missing), value=1)


# The original's parameter names. A checkpoint with these loads as it is, and is written under them again.
register_checkpoint_conversion_mapping(
    StateEmbeddingConfig.model_type,
    [
        # torch.compile's wrapper, where the original was trained compiled.
        PrefixChange(prefix_to_remove="_orig_mod", model_prefix="transformer_encoder"),
        PrefixChange(prefix_to_remove="_orig_mod", model_prefix="binary_decoder"),
        PrefixChange(prefix_to_remove="_orig_mod", model_prefix="decoder"),
        WeightRenaming("pe_embedding", "gene_table"),
        WeightRenaming("cls_token", "special_tokens.cls_token"),
        WeightRenaming("dataset_token", "special_tokens.dataset_token"),
        WeightRenaming(r"(?<!\w)encoder\.0", "gene_encoder.dense"),
        WeightRenaming(r"(?<!\w)encoder\.1", "gene_encoder.layer_norm"),
        WeightRenaming(r"count_encoder\.0", "expression_encoder.dense"),
        WeightRenaming(r"count_encoder\.2", "expression_encoder.bin_projection"),
        WeightRenaming("bin_encoder", "expression_encoder.bin_embeddings"),
        WeightRenaming(r"transformer_encoder\.layers", "encoder.layers"),
        WeightRenaming("out_proj", "self_attn.o_proj"),
        WeightRenaming("norm1", "self_attn_layer_norm"),
        WeightRenaming("norm2", "final_layer_norm"),
        WeightRenaming("linear1", "fc1"),
        WeightRenaming("linear2", "fc2"),
        WeightRenaming(r"(?<!\w)decoder\.0", "token_decoder.skip_block"),
        WeightRenaming(r"(?<!\w)decoder\.1", "token_decoder.projection"),
        WeightRenaming(r"binary_decoder\.0", "expression_decoder.skip_blocks.0"),
        WeightRenaming(r"binary_decoder\.1", "expression_decoder.skip_blocks.1"),
        WeightRenaming(r"binary_decoder\.2", "expression_decoder.projection"),
        WeightRenaming(r"dataset_encoder\.0", "dataset_classifier.dense"),
        WeightRenaming(r"dataset_encoder\.2", "dataset_classifier.layer_norm"),
        WeightRenaming(r"dataset_encoder\.4", "dataset_classifier.projection"),
        WeightConverter(
            source_patterns="qkv_proj",
            target_patterns=["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            operations=[Chunk(dim=0)],
        ),
    ],
)

__all__ = [
    "StateEmbeddingModel",
    "StateEmbeddingOutput",
    "StateEmbeddingPreTrainedModel",
]
