"""How fast a State Embedding model trains, and what share of the machine's matrix rate that is."""

import time

import torch

from state_hf.configuration.state_embedding import StateEmbeddingConfig


def training_flops(config: StateEmbeddingConfig, *, cells: int, tokens: int, targets: int) -> float:
    """Floating-point operations of the matrix products of one training step, forward and backward.

    Args:
        config: The model's.
        cells: Sentences.
        tokens: Tokens of a sentence with its padding, `[CLS]` included and the dataset token not.
        targets: Target genes of a sentence.

    Returns:
        3 x those of the forward pass: the backward pass makes two products of every one. What activation checkpointing
        computes again is not counted.
    """
    length = tokens + config.use_dataset_token
    special = 1 + config.use_dataset_token
    hidden, inner = config.hidden_size, config.intermediate_size
    genes = min(cells * tokens, config.num_genes) * config.gene_embedding_dim * hidden
    counts = length * config.count_encoder_dim * (1 + config.num_expression_bins)
    # The last layer is computed for the special tokens alone, but for keys and values.
    layer = length * (4 * hidden**2 + 2 * hidden * inner) + 2 * length**2 * hidden
    last = 2 * length * hidden**2 + special * (2 * hidden**2 + 2 * hidden * inner + 2 * length * hidden)
    width = hidden + config.embedding_dim + config.use_read_depth
    decoder = targets * (config.gene_embedding_dim * hidden + 2 * 4 * width**2)
    return 6.0 * (genes + cells * (counts + (config.num_hidden_layers - 1) * layer + last + decoder))


@torch.no_grad()
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product on a device, measured now: the best of five."""
    # Without instructions for bfloat16, a CPU takes a minute for what a GPU does in a millisecond.
    side = 8192 if device.type == "cuda" else 256
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


__all__ = ["matmul_rate", "training_flops"]
