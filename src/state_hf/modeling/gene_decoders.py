"""Decoders from a predicted embedding of a cell to the expression of its genes."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.modeling.state_embedding import StateEmbeddingExpressionDecoder, StateEmbeddingGeneEncoder


def _block(in_features: int, out_features: int, config: StateTransitionConfig) -> list[nn.Module]:
    return [
        nn.Linear(in_features, out_features),
        nn.LayerNorm(out_features, eps=config.layer_norm_eps),
        ACT2FN[config.hidden_act],
        nn.Dropout(config.dropout),
    ]


def _widths(config: StateTransitionConfig) -> list[tuple[int, int]]:
    sizes = (config.output_dim, *config.gene_decoder_hidden_sizes)
    return list(zip(sizes, sizes[1:], strict=False))


class MLPGeneDecoder(nn.Module):
    """A perceptron with layer norms; the output is not negative."""

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__()
        blocks = [layer for width in _widths(config) for layer in _block(*width, config)]
        self.decoder = nn.Sequential(*blocks, nn.Linear(config.gene_decoder_hidden_sizes[-1], config.gene_dim))

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        return F.relu(self.decoder(cells))


class ResidualGeneDecoder(nn.Module):
    """Like `MLPGeneDecoder`, and every second block adds its input to its output."""

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(*_block(*width, config)) for width in _widths(config)])
        self.final_layer = nn.Sequential(nn.Linear(config.gene_decoder_hidden_sizes[-1], config.gene_dim))

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
        self.rate = nn.Linear(width, config.gene_dim)
        self.log_size = nn.Linear(width, 1)
        self.log_dispersion = nn.Parameter(torch.zeros(config.gene_dim))

    @property
    def dispersion(self) -> torch.Tensor:
        """(genes,), positive."""
        return self.log_dispersion.float().exp()

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        hidden = self.trunk(cells)
        return self.log_size(hidden).float().exp() * F.softplus(self.rate(hidden).float())


class StateEmbeddingGeneDecoder(nn.Module):
    """The State Embedding model's expression decoder over a list of genes, with two corrections that see all genes.

    `gene_table` holds the protein embeddings of the genes, which stay as they are.
    """

    def __init__(self, config: StateTransitionConfig) -> None:
        super().__init__()
        se = config.state_embedding_config
        genes, latent = config.gene_dim, config.output_dim
        self.gene_table = nn.Embedding(genes, se.gene_embedding_dim)
        self.gene_table.weight.requires_grad_(False)
        self.gene_encoder = StateEmbeddingGeneEncoder(se)
        self.expression_decoder = StateEmbeddingExpressionDecoder(se)
        self.read_depth = nn.Parameter(torch.empty(1))
        self.gene_correction = nn.Sequential(nn.Linear(genes, 128), nn.Linear(128, genes))
        self.cell_correction = nn.Sequential(
            *_block(latent, 512, config), *_block(512, 512, config), nn.Linear(512, genes)
        )
        self.output_dim = se.output_dim

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        sets, number, _ = cells.shape
        flat = cells.reshape(sets * number, -1)
        depth = self.read_depth.to(flat.dtype).expand(len(flat), 1)
        # A cell: its embedding, the read depth, the embedding of its dataset.
        features = torch.cat([flat[:, : self.output_dim], depth, flat[:, self.output_dim :]], dim=-1)
        genes = self.gene_encoder(self.gene_table.weight)
        decoded = self.expression_decoder(genes.expand(len(flat), -1, -1), features)
        decoded = decoded + self.gene_correction(decoded) + self.cell_correction(flat)
        return F.relu(decoded).view(sets, number, -1)


_DECODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPGeneDecoder,
    "residual": ResidualGeneDecoder,
    "negative_binomial": NegativeBinomialGeneDecoder,
    "state_embedding": StateEmbeddingGeneDecoder,
}


def make_gene_decoder(config: StateTransitionConfig) -> nn.Module | None:
    """The decoder that `config.gene_decoder` names; None if it names none."""
    return None if config.gene_decoder is None else _DECODERS[config.gene_decoder](config)
