"""State Transition (ST): a set of control cells and a perturbation in, the set of perturbed cells out."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from transformers.utils.hub import cached_file

from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.configuration.state_transition_vocabulary import StateTransitionVocabulary
from state_hf.modeling.gene_decoders import NegativeBinomialGeneDecoder, StateEmbeddingGeneDecoder, make_gene_decoder
from state_hf.modeling.losses import make_set_loss
from state_hf.modeling.losses.negative_binomial import NegativeBinomialLoss
from state_hf.modeling.losses.pairwise_distances import cell_weights, precise, without_padding
from state_hf.modeling.set_backbones import make_set_backbone

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


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
        first = self[0]
        amount = (ids >= 0).to(first.weight.dtype)
        if dose is not None:
            amount = amount * dose
        rows = F.embedding(ids.clamp(min=0), first.weight.t())
        hidden = torch.einsum("sk,skh->sh", amount, rows) + first.bias
        for layer in list(self)[1:]:
            hidden = layer(hidden)
        return hidden


class StateTransitionConfidenceHead(nn.Sequential):
    """Predicts a set's loss, which is not negative, from the confidence token's output."""

    def __init__(self, config: StateTransitionConfig) -> None:
        widths = (config.hidden_size, config.hidden_size // 2, config.hidden_size // 4)
        modules: list[nn.Module] = []
        for width, next_width in zip(widths, widths[1:], strict=False):
            modules += [
                nn.Linear(width, next_width),
                nn.LayerNorm(next_width, eps=config.layer_norm_eps),
                ACT2FN[config.hidden_act],
                nn.Dropout(config.dropout),
            ]
        super().__init__(*modules, nn.Linear(widths[-1], 1), nn.ReLU())


class StateTransitionPreTrainedModel(PreTrainedModel):
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
    # cells have none, and the bottleneck where nothing is added before it.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"backbone\.embed_tokens\.",
        r"backbone\.w[tp]e\.",
        r"bottleneck\.",
    ]
    _vocabulary: StateTransitionVocabulary | None = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StateTransitionModel):
            for token in (module.batch_token, module.confidence_token):
                if token is not None:
                    init.normal_(token, std=self.config.initializer_range)
        elif isinstance(module, NegativeBinomialGeneDecoder):
            init.zeros_(module.log_dispersion)
        elif isinstance(module, StateEmbeddingGeneDecoder):
            init.constant_(module.read_depth, 4.0)

    @property
    def vocabulary(self) -> StateTransitionVocabulary:
        """Names of the perturbations, batches, cell types and genes. They are saved and loaded with the weights.

        Raises:
            ValueError: If the model has none, or one is set that does not fit its sizes.
        """
        vocabulary = self.base_model._vocabulary
        if vocabulary is None:
            raise ValueError(
                f"The model {self.config.name_or_path!r} has no vocabulary ({StateTransitionVocabulary.FILE_NAME}). "
                "Set `model.vocabulary = StateTransitionVocabulary(...)`."
            )
        return vocabulary

    @vocabulary.setter
    def vocabulary(self, vocabulary: StateTransitionVocabulary) -> None:
        config = self.config
        rows = config.num_perturbations or None
        batches = config.num_batches if config.use_batch_encoder or config.use_batch_token else None
        for name, size in (("perturbations", rows), ("batches", batches), ("genes", config.num_genes)):
            named = len(getattr(vocabulary, name))
            # Genes may stay unnamed: some original checkpoints do not say what theirs are.
            if size is not None and named != size and not (name == "genes" and named == 0):
                raise ValueError(f"The vocabulary names {named} {name}, but the model has {size}.")
        self.base_model._vocabulary = vocabulary

    @property
    def has_vocabulary(self) -> bool:
        """Whether the names of the model's perturbations are known."""
        return self.base_model._vocabulary is not None

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save weights, configuration and vocabulary. See `PreTrainedModel.save_pretrained`."""
        if self.has_vocabulary and kwargs.get("is_main_process", True):
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            self.vocabulary.save(save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load weights, configuration and vocabulary. See `PreTrainedModel.from_pretrained`."""
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        path = None
        if pretrained_model_name_or_path is not None:
            path = cached_file(
                pretrained_model_name_or_path,
                StateTransitionVocabulary.FILE_NAME,
                _raise_exceptions_for_missing_entries=False,
                **hub,
            )
        if path is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.vocabulary = StateTransitionVocabulary.load(path)
        return loaded

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
        width = config.hidden_size
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
        self.output_projection = StateTransitionMLP(config, width, config.output_dim, config.num_decoder_layers)
        self.bottleneck = None
        if config.output_space == "all" and config.predict_residual:
            narrow = config.output_dim // 8
            self.bottleneck = nn.Sequential(
                nn.Linear(config.output_dim, narrow), ACT2FN[config.hidden_act], nn.Linear(narrow, config.output_dim)
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
            amount = (ids >= 0).to(self.perturbation_table.weight.dtype)
            amount = amount if dose is None else amount * dose
            rows = self.perturbation_table(ids.clamp(min=0))
            perturbation_features, dose = torch.einsum("sk,skd->sd", amount, rows), None
        features = perturbation_features.to(self.perturbation_encoder[0].weight.dtype)
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
        weight = next(self.control_encoder.parameters())
        control = control.to(weight.dtype)
        if cell_mask is not None:
            cell_mask = cell_mask.bool()
            control = without_padding(control, cell_mask)
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
        predicted = without_padding(predicted, cell_mask)
        return StateTransitionOutput(
            predicted_cells=predicted,
            last_hidden_state=hidden_states,
            batch_hidden=tokens[:, 0] if self.batch_token is not None else None,
            confidence_hidden=tokens[:, -1] if self.confidence_token is not None else None,
            hidden_states=backbone.hidden_states,
            attentions=backbone.attentions,
        )

    def _run_backbone(self, cells: torch.Tensor, cell_mask: torch.Tensor | None, **kwargs: Any) -> ModelOutput:
        sets = len(cells)
        parts, present = [cells], [cell_mask]
        if self.batch_token is not None:
            parts.insert(0, self.batch_token.expand(sets, -1, -1))
            present.insert(0, None)
        if self.confidence_token is not None:
            parts.append(self.confidence_token.expand(sets, -1, -1))
            present.append(None)
        tokens = torch.cat(parts, dim=1) if len(parts) > 1 else cells
        if self.config.mask_attention:
            # Each token is a sequence of its own.
            output = self.backbone(inputs_embeds=tokens.reshape(-1, 1, tokens.shape[-1]), **kwargs)
            output.last_hidden_state = output.last_hidden_state.view(tokens.shape)
            return output
        mask = position_ids = None
        if cell_mask is not None:
            ones = cell_mask.new_ones(sets, 1)
            mask = torch.cat([ones if part is None else part for part in present], dim=1)
        if self.config.position_embedding_type == "rotary":
            # Padding takes no position.
            count = torch.ones(tokens.shape[:2], device=tokens.device) if mask is None else mask
            position_ids = (count.long().cumsum(dim=1) - 1).clamp(min=0)
        return self.backbone(inputs_embeds=tokens, attention_mask=mask, position_ids=position_ids, **kwargs)

    def _project(
        self, hidden_states: torch.Tensor, encoded_control: torch.Tensor, control: torch.Tensor
    ) -> torch.Tensor:
        if self.bottleneck is not None:
            predicted = self.bottleneck(self.output_projection(hidden_states) + control)
        elif self.config.predict_residual:
            predicted = self.output_projection(hidden_states + encoded_control)
        else:
            predicted = self.output_projection(hidden_states)
        return F.relu(predicted) if self.config.nonnegative_output else predicted


class StateTransitionForPerturbation(StateTransitionPreTrainedModel):
    """A State Transition model with what it is trained with: losses, gene decoder, confidence and batch classifier."""

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__(config)
        self.state_transition = StateTransitionModel(config)
        self.gene_decoder = make_gene_decoder(config)
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
        if target is not None:
            self._add_losses(result, control, batch_ids, cell_mask, target, target_mask, target_expression)
        return result

    def _add_losses(
        self,
        result: StateTransitionForPerturbationOutput,
        control: torch.Tensor,
        batch_ids: torch.Tensor | None,
        cell_mask: torch.Tensor | None,
        target: torch.Tensor,
        target_mask: torch.Tensor | None,
        target_expression: torch.Tensor | None,
    ) -> None:
        config = self.config
        predicted = result.predicted_cells
        filled = _filled_sets(predicted, cell_mask) & _filled_sets(target, target_mask)
        set_losses = self.loss(predicted, target, cell_mask, target_mask)
        result.distribution_loss = _mean_over(set_losses, filled)
        losses = [result.distribution_loss]
        if self.gene_decoder is not None and target_expression is not None:
            result.expression_loss = self._expression_loss(
                result, cell_mask, target, target_mask, target_expression, filled
            )
            losses.append(config.decoder_weight * result.expression_loss)
        if self.batch_classifier is not None:
            if batch_ids is None:
                raise ValueError("This model classifies the batch (use_batch_token): its loss needs batch_ids.")
            labels = batch_ids[:, 0] if batch_ids.dim() == 2 else batch_ids
            entropies = F.cross_entropy(precise(result.batch_logits), labels, reduction="none")
            result.batch_loss = _mean_over(entropies, filled)
            losses.append(config.batch_token_weight * result.batch_loss)
        if self.confidence_head is not None:
            errors = (
                result.confidence.to(set_losses.dtype) - config.confidence_target_scale * set_losses.detach()
            ).square()
            result.confidence_loss = _mean_over(errors, filled)
            losses.append(config.confidence_weight * result.confidence_loss)
        if config.regularization:
            changes = (precise(predicted) - precise(control)).abs().mean(dim=-1)
            weights = cell_weights(predicted, cell_mask)
            result.regularization_loss = _mean_over((changes.masked_fill(weights == 0, 0) * weights).sum(1), filled)
            losses.append(config.regularization * result.regularization_loss)
        result.loss = torch.stack(losses).sum()

    def _expression_loss(
        self,
        result: StateTransitionForPerturbationOutput,
        cell_mask: torch.Tensor | None,
        target: torch.Tensor,
        target_mask: torch.Tensor | None,
        target_expression: torch.Tensor,
        filled: torch.Tensor,
    ) -> torch.Tensor:
        decoded = result.predicted_expression
        if self.training and self.config.detach_decoder:
            # Real cells now and then: the decoder also learns where the predictions are yet to arrive.
            if torch.rand(()) < 0.1:
                cells, cell_mask = target.to(result.predicted_cells.dtype), target_mask
            else:
                cells = result.predicted_cells.detach()
            decoded = self.gene_decoder(cells)
        if isinstance(self.gene_decoder, NegativeBinomialGeneDecoder):
            likelihood = NegativeBinomialLoss()
            set_losses = likelihood(decoded, target_expression, self.gene_decoder.dispersion, cell_mask)
        else:
            set_losses = self.loss(decoded, target_expression, cell_mask, target_mask)
        return _mean_over(set_losses, filled)


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
