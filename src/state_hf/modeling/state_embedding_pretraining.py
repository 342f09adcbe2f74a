"""What State Embedding is pretrained on: the expression of genes in a cell, and the dataset that a cell is from."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.modeling.losses.expression import expression_loss
from state_hf.modeling.state_embedding import (
    StateEmbeddingModel,
    StateEmbeddingPreTrainedModel,
    StateEmbeddingSkipBlock,
)


@dataclass
class StateEmbeddingForMaskedExpressionOutput(ModelOutput):
    """Output of `StateEmbeddingForMaskedExpression`.

    Args:
        loss: Sum of `expression_loss` and the weighted `dataset_loss`, of those that have targets.
        expression_loss: Difference of predicted and true log1p expression, as the configuration measures it.
        dataset_loss: Cross-entropy of the dataset classifier.
        predicted_expression: (cells, targets). Predicted log1p expression of the target genes, the shared ones last.
        dataset_logits: (cells, num_datasets).
        cell_embedding: (cells, output_dim). See `StateEmbeddingOutput`.
        dataset_embedding: (cells, dataset_embedding_dim). See `StateEmbeddingOutput`.
        hidden_states: The output of every layer, on request.
        attentions: The attention weights of every layer, on request.
    """

    loss: torch.Tensor | None = None
    expression_loss: torch.Tensor | None = None
    dataset_loss: torch.Tensor | None = None
    predicted_expression: torch.Tensor | None = None
    dataset_logits: torch.Tensor | None = None
    cell_embedding: torch.Tensor | None = None
    dataset_embedding: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class StateEmbeddingExpressionDecoder(nn.Module):
    """Predicts the log1p expression of a gene in a cell from both their embeddings."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        width = config.hidden_size + config.embedding_dim + int(config.use_read_depth)
        self.skip_blocks = nn.ModuleList([StateEmbeddingSkipBlock(width, config.layer_norm_eps) for _ in range(2)])
        self.projection = nn.Linear(width, 1)

    def forward(self, gene_features: torch.Tensor, cell_features: torch.Tensor) -> torch.Tensor:
        hidden_states = torch.cat(
            [gene_features, cell_features[:, None].expand(-1, gene_features.shape[1], -1)], dim=-1
        )
        for block in self.skip_blocks:
            hidden_states = block(hidden_states)
        return self.projection(hidden_states).squeeze(-1)


class StateEmbeddingDatasetClassifier(nn.Module):
    """Tells from the dataset token's output which dataset a cell is from."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.output_dim, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.projection = nn.Linear(config.hidden_size, config.num_datasets)

    def forward(self, dataset_hidden: torch.Tensor) -> torch.Tensor:
        return self.projection(self.dropout(self.layer_norm(F.silu(self.dense(dataset_hidden)))))


class StateEmbeddingForMaskedExpression(StateEmbeddingPreTrainedModel):
    """A State Embedding model with the heads it is pretrained with: expression of genes, and the dataset of a cell."""

    def __init__(self, config: StateEmbeddingConfig) -> None:
        super().__init__(config)
        self.state_embedding = StateEmbeddingModel(config)
        self.expression_decoder = StateEmbeddingExpressionDecoder(config)
        self.dataset_classifier = StateEmbeddingDatasetClassifier(config) if config.use_dataset_token else None
        self.post_init()

    def decode_expression(
        self,
        cell_embedding: torch.Tensor,
        gene_ids: torch.Tensor,
        *,
        read_depth: torch.Tensor | float = 4.0,
        dataset_embedding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the expression of genes from cell embeddings.

        Args:
            cell_embedding: (cells, output_dim), of unit length.
            gene_ids: (genes,) for the same genes in every cell, or (cells, genes).
            read_depth: Mean log1p expression of a cell's expressed genes: one number, or (cells,).
            dataset_embedding: (cells, dataset_embedding_dim). Required if the model has a dataset token.

        Returns:
            (cells, genes), log1p expression.

        Raises:
            ValueError: If the model has a dataset token and `dataset_embedding` is missing.
        """
        parts = [cell_embedding]
        if self.config.use_read_depth:
            depth = torch.as_tensor(read_depth, dtype=cell_embedding.dtype, device=cell_embedding.device)
            parts.append(depth.expand(len(cell_embedding)).unsqueeze(-1))
        if self.config.use_dataset_token:
            if dataset_embedding is None:
                raise ValueError("This model has a dataset token: decode_expression needs dataset_embedding.")
            parts.append(dataset_embedding)
        # Unlike a sentence's genes, target genes enter the gene encoder without normalisation.
        genes = self.state_embedding.gene_encoder(self.state_embedding.gene_table(gene_ids))
        return self.expression_decoder(genes.expand(len(cell_embedding), -1, -1), torch.cat(parts, dim=-1))

    @staticmethod
    def _targets(
        target_ids: torch.Tensor | None, shared_target_ids: torch.Tensor | None, sentences: int
    ) -> tuple[torch.Tensor | None, int]:
        """The target genes of every sentence, and how many consecutive sentences are views of one cell."""
        views = 1
        if target_ids is not None and target_ids.dim() == 2 and len(target_ids) != sentences:
            if sentences % len(target_ids):
                raise ValueError(f"target_ids has {len(target_ids)} rows, which do not fit {sentences} sentences.")
            views = sentences // len(target_ids)
            target_ids = target_ids.repeat_interleave(views, dim=0)
        if target_ids is None or shared_target_ids is None:
            return (shared_target_ids if target_ids is None else target_ids), views
        own = target_ids if target_ids.dim() == 2 else target_ids.expand(sentences, -1)
        return torch.cat([own, shared_target_ids.expand(sentences, -1)], dim=1), views

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        expression: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        shared_target_ids: torch.Tensor | None = None,
        read_depth: torch.Tensor | None = None,
        dataset_labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> StateEmbeddingForMaskedExpressionOutput:
        """Embed cells and predict the expression of target genes.

        Args:
            input_ids: See `StateEmbeddingModel.forward`.
            attention_mask: See `StateEmbeddingModel.forward`.
            expression: See `StateEmbeddingModel.forward`.
            inputs_embeds: See `StateEmbeddingModel.forward`.
            target_ids: (cells, targets) or (targets,), the genes to predict. With fewer rows than there are sentences,
                consecutive sentences are views of one cell: as many for each.
            labels: (cells, targets), log1p expression of the target genes; -100 where there is none.
            shared_target_ids: (shared targets,), genes to predict in every cell, whose labels are the last columns.
            read_depth: (cells,). By default the mean of the cell's non-zero labels, and 4.0 without labels.
            dataset_labels: (cells,), the dataset that each cell is from.

        Returns:
            `StateEmbeddingForMaskedExpressionOutput`. The losses are there where their targets are.

        Raises:
            ValueError: If labels come without `target_ids`, or `dataset_labels` for a model without a dataset token.
        """
        encoded = self.state_embedding(
            input_ids, attention_mask, expression, inputs_embeds, output_genes=False, return_dict=True, **kwargs
        )
        predicted = expression_term = dataset_logits = dataset_loss = None
        targets, views = self._targets(target_ids, shared_target_ids, len(encoded.cell_embedding))
        if targets is not None:
            if read_depth is None:
                read_depth = torch.tensor(4.0) if labels is None else _mean_of_nonzero(labels)
            predicted = self.decode_expression(
                encoded.cell_embedding,
                targets,
                read_depth=read_depth,
                dataset_embedding=encoded.dataset_embedding,
            )
        if labels is not None:
            if predicted is None:
                raise ValueError("labels need target_ids: which genes they are the expression of.")
            shared = 0 if shared_target_ids is None else len(shared_target_ids)
            name = self.config.expression_loss
            expression_term = expression_loss(name, predicted, labels, shared_genes=shared, views=views)
        if self.dataset_classifier is not None:
            dataset_logits = self.dataset_classifier(encoded.dataset_hidden)
        if dataset_labels is not None:
            if dataset_logits is None:
                raise ValueError("dataset_labels were given, but the model has no dataset token (use_dataset_token).")
            dataset_loss = F.cross_entropy(dataset_logits.float(), dataset_labels)
        losses = [loss for loss in (expression_term, dataset_loss) if loss is not None]
        if len(losses) == 2:
            losses[1] = losses[1] * self.config.dataset_loss_weight
        return StateEmbeddingForMaskedExpressionOutput(
            loss=torch.stack(losses).sum() if losses else None,
            expression_loss=expression_term,
            dataset_loss=dataset_loss,
            predicted_expression=predicted,
            dataset_logits=dataset_logits,
            cell_embedding=encoded.cell_embedding,
            dataset_embedding=encoded.dataset_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


def _mean_of_nonzero(labels: torch.Tensor) -> torch.Tensor:
    """(cells,). Mean of each cell's labels above zero; 0 for a cell without any."""
    expressed = labels > 0
    return (labels * expressed).sum(dim=1) / expressed.sum(dim=1).clamp(min=1)


__all__ = [
    "StateEmbeddingExpressionDecoder",
    "StateEmbeddingForMaskedExpression",
    "StateEmbeddingForMaskedExpressionOutput",
]
