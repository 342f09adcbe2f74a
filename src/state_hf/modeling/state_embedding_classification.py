"""Cell-type annotation on a State Embedding model."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.modeling.state_embedding import StateEmbeddingModel, StateEmbeddingPreTrainedModel


@dataclass
class StateEmbeddingClassifierOutput(ModelOutput):
    """Output of `StateEmbeddingForSequenceClassification`.

    Args:
        loss: Cross-entropy, weighted by class if the configuration says so.
        logits: (cells, classes).
        cell_embedding: (cells, output_dim). See `StateEmbeddingOutput`.
        hidden_states: The output of every layer, on request.
        attentions: The attention weights of every layer, on request.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cell_embedding: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class StateEmbeddingForSequenceClassification(StateEmbeddingPreTrainedModel):
    """A State Embedding model with a head that tells the class of a cell, such as its type.

    The classes are `config.id2label`. `config.class_weights` weighs their losses; `config.unknown_threshold` is the
    probability below which a cell is called unknown.
    """

    # The pretraining heads, which a classifier has no use for.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        *StateEmbeddingPreTrainedModel._keys_to_ignore_on_load_unexpected,
        r"^expression_decoder\.",
        r"^dataset_classifier\.",
    ]

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__(config)
        if config.class_weights is not None and len(config.class_weights) != config.num_labels:
            raise ValueError(f"There are {len(config.class_weights)} class_weights for {config.num_labels} classes.")
        self.state_embedding = StateEmbeddingModel(config)
        # Unit vectors have small entries, which the norm brings to a size that a new head learns from.
        self.class_norm = nn.LayerNorm(config.output_dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.output_dim, len(config.id2label or ()))
        self._freeze()
        self.post_init()

    def _freeze(self) -> None:
        super()._freeze()
        # A class is told from the cell alone: what names the dataset would be a shortcut.
        if self.state_embedding.dataset_embedder is not None:
            self.state_embedding.dataset_embedder.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        expression: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StateEmbeddingClassifierOutput:
        """Classify cells.

        Args:
            input_ids: See `StateEmbeddingModel.forward`.
            attention_mask: See `StateEmbeddingModel.forward`.
            expression: See `StateEmbeddingModel.forward`.
            inputs_embeds: See `StateEmbeddingModel.forward`.
            labels: (cells,), class numbers; -100 for cells without.

        Returns:
            `StateEmbeddingClassifierOutput`, with a loss if there are labels.
        """
        encoded = self.state_embedding(
            input_ids, attention_mask, expression, inputs_embeds, output_genes=False, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(self.class_norm(encoded.cell_embedding)))
        loss = None
        if labels is not None:
            weights = self.config.class_weights
            weight = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=logits.device)
            loss = F.cross_entropy(logits.float(), labels, weight=weight)
        return StateEmbeddingClassifierOutput(
            loss=loss,
            logits=logits,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = ["StateEmbeddingClassifierOutput", "StateEmbeddingForSequenceClassification"]
