"""Decoders from a predicted embedding of a cell to the expression of its genes."""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.modeling.state_embedding import StateEmbeddingGeneEncoder
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingExpressionDecoder


def _block(in_features: int, out_features: int, config: StateTransitionConfig) -> list[nn.Module]:
    return [
        nn.Linear(in_features, out_features),
        nn.LayerNorm(out_features, eps=config.layer_norm_eps),
        ACT2FN[config.hidden_act],
        nn.Dropout(config.dropout),
    ]


def _widths(config: StateTransitionConfig) -> list[tuple[int, int]]:
    return list(pairwise((cast(int, config.output_dim), *config.gene_decoder_hidden_sizes)))


def _genes(config: StateTransitionConfig) -> int:
    return cast(int, config.gene_dim)


class MLPGeneDecoder(nn.Module):
    """A perceptron with layer norms; the output is not negative."""

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__()
        blocks = [layer for width in _widths(config) for layer in _block(*width, config)]
        self.decoder = nn.Sequential(*blocks, nn.Linear(config.gene_decoder_hidden_sizes[-1], _genes(config)))

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        return F.relu(self.decoder(cells))


class ResidualGeneDecoder(nn.Module):
    """Like `MLPGeneDecoder`, and every second block adds its input to its output."""

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(*_block(*width, config)) for width in _widths(config)])
        self.final_layer = nn.Sequential(nn.Linear(config.gene_decoder_hidden_sizes[-1], _genes(config)))

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self.blocks):
            decoded = block(cells)
            cells = cells + decoded if number % 2 else decoded
        return F.relu(self.final_layer(cells))


class NegativeBinomialGeneDecoder(nn.Module):
    """Mean counts and their dispersion: a softplus rate a gene, times the exponential of a cell's log size.

    `dispersion`, one a gene and shared by all cells, is the inverse overdispersion of the negative binomial: its
    variance is mean + mean^2 / dispersion.
    """

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__()
        blocks = [layer for width in _widths(config) for layer in _block(*width, config)]
        width = config.gene_decoder_hidden_sizes[-1]
        self.trunk = nn.Sequential(*blocks)
        self.rate = nn.Linear(width, _genes(config))
        self.log_size = nn.Linear(width, 1)
        self.log_dispersion = nn.Parameter(torch.zeros(_genes(config)))

    @property
    def dispersion(self) -> torch.Tensor:
        """(genes,), positive."""
        return self.log_dispersion.float().exp()

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        hidden = self.trunk(cells)
        return self.log_size(hidden).float().exp() * F.softplus(self.rate(hidden).float())


class StateEmbeddingGeneDecoder(nn.Module):
    """The State Embedding model's expression decoder over a list of genes, with two corrections that see all genes.

    `gene_table` holds the protein embeddings of the genes; they and their encoder stay as they are in training. A gene
    that the State Embedding model does not know (`gene_decoder_learned_genes`) has a learned encoding instead.
    """

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__()
        se = cast(StateEmbeddingConfig, config.state_embedding_config)
        genes = _genes(config)
        self.gene_table = nn.Embedding(genes, se.gene_embedding_dim)
        self.gene_table.weight.requires_grad_(False)
        self.gene_encoder = StateEmbeddingGeneEncoder(se).requires_grad_(False)
        self.learned_positions = list(config.gene_decoder_learned_genes)
        self.learned_genes = None
        if self.learned_positions:
            self.learned_genes = nn.Embedding(len(self.learned_positions), se.hidden_size)
        self.expression_decoder = StateEmbeddingExpressionDecoder(se)
        self.read_depth = nn.Parameter(torch.empty(()))
        blocks = [layer for width in _widths(config) for layer in _block(*width, config)]
        self.latent_decoder = nn.Sequential(*blocks, nn.Linear(config.gene_decoder_hidden_sizes[-1], genes))
        self.gene_decoder_proj = nn.Sequential(
            *_block(genes, 128, config)[:3], *_block(128, 128, config), nn.Linear(128, genes)
        )
        self.cell_dim = se.output_dim

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        latent = cells.flatten(0, -2)
        depth = self.read_depth.to(latent.dtype).expand(len(latent), 1)
        # What the expression decoder knows of a cell: its embedding, the read depth, the embedding of its dataset.
        known = torch.cat([latent[:, : self.cell_dim], depth, latent[:, self.cell_dim :]], dim=-1)
        genes = self.gene_encoder(self.gene_table.weight)
        if self.learned_genes is not None:
            positions = torch.tensor(self.learned_positions, device=genes.device)
            genes = genes.index_copy(0, positions, self.learned_genes.weight.to(genes.dtype))
        decoded = self.expression_decoder(genes.expand(len(latent), -1, -1), known)
        decoded = decoded + self.gene_decoder_proj(decoded) + self.latent_decoder(latent)
        return F.relu(decoded).unflatten(0, cells.shape[:-1])


_DECODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPGeneDecoder,
    "residual": ResidualGeneDecoder,
    "negative_binomial": NegativeBinomialGeneDecoder,
    "state_embedding": StateEmbeddingGeneDecoder,
}


def make_gene_decoder(config: StateTransitionConfig) -> nn.Module | None:
    """The decoder that `config.gene_decoder` names; None if it names none."""
    return None if config.gene_decoder is None else _DECODERS[config.gene_decoder](config)
