"""State Transition (ST): a set of control cells and a perturbation in, the set of perturbed cells out."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.model_cards.pushing import CardedMixin
from state_hf.modeling.fitting_weights import FittingWeightsMixin
from state_hf.modeling.layers.gene_decoders import (
    NegativeBinomialGeneDecoder,
    StateEmbeddingGeneDecoder,
    make_gene_decoder,
)
from state_hf.modeling.layers.mixed_effects_tables import MixedEffectsTables
from state_hf.modeling.layers.network_effects import NetworkEffects
from state_hf.modeling.layers.set_backbones import make_set_backbone
from state_hf.modeling.losses import make_set_loss
from state_hf.modeling.losses.negative_binomial import NegativeBinomialLoss
from state_hf.modeling.losses.pairwise_distances import cell_weights, precise, without_padding
from state_hf.modeling.perturbation_model import PerturbationModelMixin


@dataclass
class StateTransitionOutput(ModelOutput):
    """Output of `StateTransitionModel`.

    Args:
        predicted_cells: (sets, cells, output_dim). The perturbed cells; 0 where there is padding.
        last_hidden_state: (sets, cells, hidden_size). The backbone's output for the cells.
        batch_hidden: (sets, hidden_size). The batch token's output, for a model that has one.
        confidence_hidden: (sets, hidden_size). The confidence token's output, for a model that has one.
        hidden_states: The output of every layer, on request, special tokens included.
        attentions: The attention weights of every layer, on request.
    """

    predicted_cells: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    batch_hidden: torch.Tensor | None = None
    confidence_hidden: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class StateTransitionForPerturbationOutput(ModelOutput):
    """Output of `StateTransitionForPerturbation`.

    Args:
        loss: Weighted sum of the losses below, of those that have targets.
        predicted_cells: (sets, cells, output_dim). See `StateTransitionOutput`.
        predicted_expression: (sets, cells, gene_dim). What the gene decoder makes of them; 0 where there is padding.
        confidence: (sets,). The confidence token's prediction of the set's loss, scaled.
        batch_logits: (sets, num_batches). The batch token's classification.
        distribution_loss: Distance of predicted and real cells, mean over sets.
        expression_loss: The same for decoded expression; for a negative-binomial decoder, its likelihood.
        batch_loss: Cross-entropy of the batch classification.
        confidence_loss: Squared error of the confidence.
        regularization_loss: Mean absolute difference of prediction and control.
        hidden_states: The output of every layer, on request.
        attentions: The attention weights of every layer, on request.
    """

    loss: torch.Tensor | None = None
    predicted_cells: torch.Tensor | None = None
    predicted_expression: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    batch_logits: torch.Tensor | None = None
    distribution_loss: torch.Tensor | None = None
    expression_loss: torch.Tensor | None = None
    batch_loss: torch.Tensor | None = None
    confidence_loss: torch.Tensor | None = None
    regularization_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class StateTransitionMLP(nn.Sequential):
    """Linear layers with an activation and dropout between them."""

    def __init__(self, config: StateTransitionConfig, in_features: int, out_features: int, layers: int) -> None:
        modules: list[nn.Module] = []
        for _ in range(layers - 1):
            modules += [
                nn.Linear(in_features, config.hidden_size),
                ACT2FN[config.hidden_act],
                nn.Dropout(config.dropout),
            ]
            in_features = config.hidden_size
        super().__init__(*modules, nn.Linear(in_features, out_features))


class StateTransitionPerturbationEncoder(StateTransitionMLP):
    """Encodes perturbations given by their features or, for a vocabulary, by their ids.

    A one-hot vector times the first layer's weights is one of their columns; a combination's is the sum of several.
    """

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__(config, config.perturbation_dim, config.hidden_size, config.num_encoder_layers)

    def encode_ids(self, ids: torch.Tensor, dose: torch.Tensor | None) -> torch.Tensor:
        """(sets, hidden_size) of ids (sets, combined), -1 where there is none, and doses (sets, combined)."""
        first, *rest = self
        first = cast(nn.Linear, first)
        hidden = _combined(first.weight.t(), ids, dose) + first.bias
        for layer in rest:
            hidden = layer(hidden)
        return hidden


def _combined(table: torch.Tensor, ids: torch.Tensor, dose: torch.Tensor | None) -> torch.Tensor:
    """(sets, width). Sum of the rows that ids (sets, combined) name, times their doses; -1 names none."""
    amount = (ids >= 0).to(table.dtype)
    if dose is not None:
        amount = amount * dose.to(table.dtype)
    return torch.einsum("sk,skh->sh", amount, F.embedding(ids.clamp(min=0), table))


class StateTransitionConfidenceHead(nn.Sequential):
    """Predicts a set's loss, which is not negative, from the confidence token's output."""

    def __init__(self, config: StateTransitionConfig) -> None:
        widths = (config.hidden_size, config.hidden_size // 2, config.hidden_size // 4)
        modules: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            modules += [
                nn.Linear(width, next_width),
                nn.LayerNorm(next_width, eps=config.layer_norm_eps),
                ACT2FN[config.hidden_act],
                nn.Dropout(config.dropout),
            ]
        super().__init__(*modules, nn.Linear(widths[-1], 1), nn.ReLU())


class StateTransitionPreTrainedModel(PerturbationModelMixin, CardedMixin, FittingWeightsMixin, PreTrainedModel):  # type: ignore[misc]
    """Weights: how they start, where they come from, what runs on them, and the names that belong to them."""

    config: StateTransitionConfig
    config_class = StateTransitionConfig
    base_model_prefix = "state_transition"
    main_input_name = "control"
    supports_gradient_checkpointing = True
    # The losses are means over the sets of a batch.
    accepts_loss_kwargs = False
    _no_split_modules = ["LlamaDecoderLayer", "GPT2Block"]  # noqa: RUF012 - transformers' convention
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # What an original checkpoint holds and never uses: the backbones' token and position tables, of which sets of
    # cells have none, the bottleneck where nothing is added before it, and most of a
    # State Embedding model whose expression decoder is reused.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"backbone\.embed_tokens\.",
        r"backbone\.w[tp]e\.",
        r"bottleneck\.",
        r"gene_decoder\.finetune\.",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StateTransitionModel):
            for token in (module.batch_token, module.confidence_token):
                if token is not None:
                    init.normal_(token, std=self.config.initializer_range)
            if module.perturbation_offsets is not None:
                init.zeros_(module.perturbation_offsets)
        elif isinstance(module, NegativeBinomialGeneDecoder):
            init.zeros_(module.log_dispersion)
        elif isinstance(module, StateEmbeddingGeneDecoder):
            init.constant_(module.read_depth, 4.0)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: `auto_map` already names the class, and its code is not to be copied into checkpoints."""


class StateTransitionModel(StateTransitionPreTrainedModel):
    """The State Transition model: control cells and a perturbation in, perturbed cells out.

    Example:
        >>> model = StateTransitionModel.from_pretrained(folder)
        >>> ids = torch.tensor([model.vocabulary.perturbation_id("TP53")])
        >>> model(control=cells.unsqueeze(0), perturbation_ids=ids).predicted_cells.shape
        torch.Size([1, 512, 2000])
    """

    # The heads of a training checkpoint, which the bare model has no use for.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        *StateTransitionPreTrainedModel._keys_to_ignore_on_load_unexpected,
        r"^gene_decoder\.",
        r"^batch_classifier\.",
        r"^confidence_head\.",
    ]

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__(config)
        width, output_dim = config.hidden_size, cast(int, config.output_dim)
        self.perturbation_encoder = StateTransitionPerturbationEncoder(config)
        self.perturbation_table = None
        if config.perturbation_features == "vectors" and config.num_perturbations:
            self.perturbation_table = nn.Embedding(config.num_perturbations, config.perturbation_dim)
            self.perturbation_table.weight.requires_grad_(False)
        self.control_encoder: nn.Module = (
            StateTransitionMLP(config, config.input_dim, width, config.num_encoder_layers)
            if config.use_basal_projection
            else nn.Linear(config.input_dim, width)
        )
        self.batch_embeddings = nn.Embedding(config.num_batches, width) if config.use_batch_encoder else None
        self.batch_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_batch_token else None
        self.confidence_token = nn.Parameter(torch.empty(1, 1, width)) if config.use_confidence_token else None
        self.backbone = make_set_backbone(config)
        self.output_projection = StateTransitionMLP(config, width, output_dim, config.num_decoder_layers)
        self.perturbation_offsets = None
        if config.use_perturbation_offsets:
            offsets = torch.empty(cast(int, config.num_perturbations), output_dim)
            self.perturbation_offsets = nn.Parameter(offsets, requires_grad=False)
        self.bottleneck = None
        if config.output_space == "all" and config.predict_residual:
            narrow = max(1, output_dim // 8)
            self.bottleneck = nn.Sequential(
                nn.Linear(output_dim, narrow), ACT2FN[config.hidden_act], nn.Linear(narrow, output_dim)
            )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module whose output a frozen model must give a gradient to, e.g. for adapters under checkpointing."""
        return self.control_encoder

    def encode_perturbation(
        self,
        perturbation_ids: torch.Tensor | None = None,
        perturbation_features: torch.Tensor | None = None,
        dose: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode the sets' perturbations. The arguments are those of `forward`.

        Returns:
            (sets, 1, hidden_size), or (sets, cells, hidden_size) for features of each cell.

        Raises:
            ValueError: If there is not exactly one of ids and features, or they do not fit the model.
        """
        config = self.config
        if (perturbation_ids is None) == (perturbation_features is None):
            raise ValueError("Give either perturbation_ids or perturbation_features.")
        if perturbation_ids is not None:
            ids = perturbation_ids.unsqueeze(-1) if perturbation_ids.dim() == 1 else perturbation_ids
            if dose is not None:
                dose = dose.unsqueeze(-1) if dose.dim() == 1 else dose
            if config.perturbation_features == "ids":
                return self.perturbation_encoder.encode_ids(ids, dose).unsqueeze(1)
            if self.perturbation_table is None:
                raise ValueError(
                    "This model reads perturbation_features and has no table of them (num_perturbations=0): "
                    "it cannot look up perturbation_ids."
                )
            perturbation_features, dose = _combined(self.perturbation_table.weight, ids, dose), None
        features = cast(torch.Tensor, perturbation_features).to(self.dtype)
        if features.shape[-1] != config.perturbation_dim:
            raise ValueError(
                f"perturbation_features have the width {features.shape[-1]}, but the model reads "
                f"{config.perturbation_dim} (perturbation_dim)."
            )
        if dose is not None:
            features = features * dose.view(-1, *[1] * (features.dim() - 1))
        encoded = self.perturbation_encoder(features)
        return encoded.unsqueeze(1) if encoded.dim() == 2 else encoded

    @can_return_tuple
    def forward(
        self,
        control: torch.Tensor,
        perturbation_ids: torch.Tensor | None = None,
        perturbation_features: torch.Tensor | None = None,
        dose: torch.Tensor | None = None,
        batch_ids: torch.Tensor | None = None,
        cell_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StateTransitionOutput:
        """Predict sets of perturbed cells.

        Args:
            control: (sets, cells, input_dim). The control cells of each set.
            perturbation_ids: (sets,), or (sets, combined) for combinations, -1 where there are fewer.
            perturbation_features: (sets, perturbation_dim), or (sets, cells, perturbation_dim). A model that reads
                ids takes a multi-hot vector here.
            dose: Amount of each perturbation, in the unit that the model was trained with; 1 by default. The shape of
                `perturbation_ids`, or (sets,) with features. It multiplies the perturbation's row or features.
            batch_ids: (sets,) or (sets, cells). Required by a model with a batch encoder.
            cell_mask: (sets, cells), True for cells and False for padding. Padding changes nothing for the cells.

        Returns:
            `StateTransitionOutput`.

        Raises:
            ValueError: If an input is missing or does not fit.
        """
        config = self.config
        if control.dim() != 3 or control.shape[-1] != config.input_dim:
            raise ValueError(
                f"control has the shape {tuple(control.shape)}, but this model reads sets x cells x "
                f"{config.input_dim} features (of {config.feature_key!r})."
            )
        control = without_padding(control.to(self.dtype), cell_mask)
        encoded_control = self.control_encoder(control)
        hidden_states = encoded_control + self.encode_perturbation(perturbation_ids, perturbation_features, dose)
        if self.batch_embeddings is not None:
            if batch_ids is None:
                raise ValueError("This model has a batch encoder: it needs batch_ids.")
            batch = self.batch_embeddings(batch_ids)
            hidden_states = hidden_states + (batch.unsqueeze(1) if batch.dim() == 2 else batch)

        backbone = self._run_backbone(hidden_states, cell_mask, **kwargs)
        tokens = backbone.last_hidden_state
        first = int(self.batch_token is not None)
        hidden_states = tokens[:, first : first + control.shape[1]]
        predicted = self._project(hidden_states, encoded_control, control)
        if self.perturbation_offsets is not None and perturbation_ids is not None:
            ids = perturbation_ids.unsqueeze(-1) if perturbation_ids.dim() == 1 else perturbation_ids
            predicted = predicted + _combined(self.perturbation_offsets, ids, None).unsqueeze(1)
        predicted = F.relu(predicted) if config.nonnegative_output else predicted
        predicted = without_padding(predicted, cell_mask)
        return StateTransitionOutput(
            predicted_cells=predicted,
            last_hidden_state=hidden_states,
            batch_hidden=tokens[:, 0] if self.batch_token is not None else None,
            confidence_hidden=tokens[:, -1] if self.confidence_token is not None else None,
            hidden_states=backbone.hidden_states,
            attentions=backbone.attentions,
        )

    def _run_backbone(self, cells: torch.Tensor, cell_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        sets = len(cells)
        parts = [cells]
        if self.batch_token is not None:
            parts.insert(0, self.batch_token.expand(sets, -1, -1))
        if self.confidence_token is not None:
            parts.append(self.confidence_token.expand(sets, -1, -1))
        tokens = torch.cat(parts, dim=1) if len(parts) > 1 else cells
        if self.config.mask_attention:
            # Each token is a sequence of its own.
            output = self.backbone(inputs_embeds=tokens.reshape(-1, 1, tokens.shape[-1]), **kwargs)
            output.last_hidden_state = output.last_hidden_state.view(tokens.shape)
            return output
        mask = position_ids = None
        if cell_mask is not None:
            specials = (int(self.batch_token is not None), int(self.confidence_token is not None))
            mask = F.pad(cell_mask.long(), specials, value=1)
        if self.config.position_embedding_type == "rotary":
            # Padding takes no position.
            counted = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device) if mask is None else mask
            position_ids = (counted.cumsum(dim=1) - 1).clamp(min=0)
        return self.backbone(inputs_embeds=tokens, attention_mask=mask, position_ids=position_ids, **kwargs)

    def _project(
        self, hidden_states: torch.Tensor, encoded_control: torch.Tensor, control: torch.Tensor
    ) -> torch.Tensor:
        if self.bottleneck is not None:
            return self.bottleneck(self.output_projection(hidden_states) + control)
        if self.config.predict_residual:
            return self.output_projection(hidden_states + encoded_control)
        return self.output_projection(hidden_states)


class StateTransitionForPerturbation(StateTransitionPreTrainedModel):
    """A State Transition model with what it is trained with: losses, gene decoder, confidence and batch classifier."""

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__(config)
        self.state_transition = StateTransitionModel(config)
        self.gene_decoder = make_gene_decoder(config)
        if config.mixed_effects_cell_types is not None:
            self.mixed_effects = MixedEffectsTables(
                cast(int, config.num_perturbations),
                config.mixed_effects_cell_types,
                cast(int, config.num_genes),
                supports=config.mixed_effects_supports,
                dim=config.perturbation_dim,
                variances=config.error_scale is not None,
            )
        if config.num_networks:
            self.network_effects = NetworkEffects(cast(int, config.num_perturbations), cast(int, config.num_genes))
        self.batch_classifier = (
            StateTransitionMLP(config, config.hidden_size, config.num_batches, 1) if config.use_batch_token else None
        )
        self.confidence_head = StateTransitionConfidenceHead(config) if config.use_confidence_token else None
        self.loss = make_set_loss(
            config.loss,
            chunks=config.num_loss_chunks,
            shuffle_chunks=config.shuffle_loss_chunks,
            **config.loss_kwargs or {},
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        control: torch.Tensor,
        perturbation_ids: torch.Tensor | None = None,
        perturbation_features: torch.Tensor | None = None,
        dose: torch.Tensor | None = None,
        batch_ids: torch.Tensor | None = None,
        cell_mask: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
        target_mask: torch.Tensor | None = None,
        target_expression: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StateTransitionForPerturbationOutput:
        """Predict sets of perturbed cells and, with targets, how far they are from real ones.

        Args:
            control: See `StateTransitionModel.forward`, as for the next five.
            perturbation_ids: Ids of each set's perturbation, or combination.
            perturbation_features: Features of each set's perturbation.
            dose: Amount of each perturbation.
            batch_ids: Batch of each set; the batch token's classification is trained where the model has one.
            cell_mask: Which control cells are cells, and not padding.
            target: (sets, target cells, output_dim). Real perturbed cells, in any order and number.
            target_mask: (sets, target cells), True for cells and False for padding.
            target_expression: (sets, target cells, gene_dim). Expression of these cells, for the gene decoder: counts
                for a negative-binomial one, the scale of the prediction otherwise.

        Returns:
            `StateTransitionForPerturbationOutput`. The losses are there where their targets are.

        Raises:
            ValueError: If an input is missing or does not fit.
        """
        if target_expression is not None and self.gene_decoder is None:
            raise ValueError("target_expression was given, but this model decodes no genes (gene_decoder=None).")
        output = self.state_transition(
            control, perturbation_ids, perturbation_features, dose, batch_ids, cell_mask, return_dict=True, **kwargs
        )
        predicted = output.predicted_cells
        result = StateTransitionForPerturbationOutput(
            predicted_cells=predicted, hidden_states=output.hidden_states, attentions=output.attentions
        )
        if self.gene_decoder is not None:
            result.predicted_expression = without_padding(self.gene_decoder(predicted), cell_mask)
        if self.batch_classifier is not None:
            result.batch_logits = self.batch_classifier(output.batch_hidden)
        if self.confidence_head is not None:
            result.confidence = self.confidence_head(output.confidence_hidden).squeeze(-1)
        if target is None:
            return result

        filled = _filled_sets(predicted, cell_mask) & _filled_sets(target, target_mask)
        set_losses = self.loss(predicted, target, cell_mask, target_mask)
        result.distribution_loss = _mean_over(set_losses, filled)
        if self.gene_decoder is not None and target_expression is not None:
            expression_losses = self._expression_losses(
                predicted, result.predicted_expression, cell_mask, target, target_mask, target_expression
            )
            result.expression_loss = _mean_over(expression_losses, filled)
        if result.batch_logits is not None:
            result.batch_loss = _mean_over(_batch_losses(result.batch_logits, batch_ids), filled)
        if result.confidence is not None:
            expected = self.config.confidence_target_scale * set_losses.detach()
            result.confidence_loss = _mean_over((result.confidence.to(expected.dtype) - expected).square(), filled)
        if self.config.regularization:
            result.regularization_loss = _mean_over(_mean_change(predicted, control, cell_mask), filled)
        result.loss = self._weighted_sum(result)
        return result

    def _weighted_sum(self, result: StateTransitionForPerturbationOutput) -> torch.Tensor:
        config = self.config
        weighted = (
            (1.0, result.distribution_loss),
            (config.decoder_weight, result.expression_loss),
            (config.batch_token_weight, result.batch_loss),
            (config.confidence_weight, result.confidence_loss),
            (config.regularization, result.regularization_loss),
        )
        return torch.stack([weight * loss for weight, loss in weighted if loss is not None]).sum()

    def _expression_losses(
        self,
        predicted: torch.Tensor,
        decoded: torch.Tensor | None,
        cell_mask: torch.Tensor | None,
        target: torch.Tensor,
        target_mask: torch.Tensor | None,
        target_expression: torch.Tensor,
    ) -> torch.Tensor:
        """(sets,). How far decoded expression is from that of the target's cells."""
        decoder = cast(nn.Module, self.gene_decoder)
        if self.training and self.config.detach_decoder:
            # Real cells now and then: the decoder also learns where the predictions are yet to arrive.
            if torch.rand(()) < 0.1:
                decoded, cell_mask = decoder(target.to(predicted.dtype)), target_mask
            else:
                decoded = decoder(predicted.detach())
        if isinstance(decoder, NegativeBinomialGeneDecoder):
            return NegativeBinomialLoss()(decoded, target_expression, decoder.dispersion, cell_mask)
        return self.loss(decoded, target_expression, cell_mask, target_mask)


def _batch_losses(logits: torch.Tensor, batch_ids: torch.Tensor | None) -> torch.Tensor:
    if batch_ids is None:
        raise ValueError("This model classifies the batch (use_batch_token): its loss needs batch_ids.")
    labels = batch_ids[:, 0] if batch_ids.dim() == 2 else batch_ids
    return F.cross_entropy(precise(logits), labels, reduction="none")


def _mean_change(predicted: torch.Tensor, control: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(sets,). Mean absolute difference of prediction and control."""
    changes = (precise(predicted, mask) - precise(control, mask)).abs().mean(dim=-1)
    return (changes * cell_weights(predicted, mask)).sum(dim=1)


def _filled_sets(cells: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """(sets,). Which sets have a cell."""
    if mask is None:
        return torch.ones(len(cells), dtype=torch.bool, device=cells.device)
    return mask.any(dim=1)


def _mean_over(values: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
    """Mean over the sets that have cells; empty ones complete a batch and count for nothing."""
    return values.masked_fill(~filled, 0).sum() / filled.sum().clamp(min=1)


# The original's parameter names. A checkpoint with these loads as it is, and is written under them again.
register_checkpoint_conversion_mapping(
    StateTransitionConfig.model_type,
    [
        WeightRenaming("pert_encoder", "perturbation_encoder"),
        WeightRenaming("basal_encoder", "control_encoder"),
        WeightRenaming("batch_encoder", "batch_embeddings"),
        WeightRenaming("transformer_backbone", "backbone"),
        WeightRenaming("project_out", "output_projection"),
        WeightRenaming("final_down_then_up", "bottleneck"),
        WeightRenaming(r"gene_decoder\.finetune\.model\.encoder\.0", "gene_decoder.gene_encoder.dense"),
        WeightRenaming(r"gene_decoder\.finetune\.model\.encoder\.1", "gene_decoder.gene_encoder.layer_norm"),
        WeightRenaming(r"gene_decoder\.missing_table", "gene_decoder.learned_genes"),
        WeightRenaming(r"gene_decoder\.binary_decoder\.0", "gene_decoder.expression_decoder.skip_blocks.0"),
        WeightRenaming(r"gene_decoder\.binary_decoder\.1", "gene_decoder.expression_decoder.skip_blocks.1"),
        WeightRenaming(r"gene_decoder\.binary_decoder\.2", "gene_decoder.expression_decoder.projection"),
        WeightRenaming(r"confidence_token\.confidence_projection", "confidence_head"),
        WeightRenaming(r"confidence_token\.confidence_token", "confidence_token"),
    ],
)

__all__ = [
    "StateTransitionForPerturbation",
    "StateTransitionForPerturbationOutput",
    "StateTransitionModel",
    "StateTransitionOutput",
    "StateTransitionPreTrainedModel",
]
