"""The forward pass of State Embedding against arc-state, and against the rate of matrix multiplication

    python benchmarks/state_embedding_forward.py [--quick] [--device cuda]

Sentences of 2,048 genes, arc-state's default size (512 wide, 8 layers); on a GPU that of SE-600M, in bfloat16. Both
models have the same random weights and the same tokens, and their embeddings are compared. Our weights are in the
dtype; the peer's stay in float32 and it runs under autocast for bfloat16, which is how it does. The bound is what the
multiplications that embedding a cell needs would take at the rate of one large square multiplication.
"""

import contextlib
from pathlib import Path

from turns import Contest, main

SIZES = {
    "default": {"d_model": 512, "nhead": 16, "d_hid": 1024, "nlayers": 8, "output_dim": 512, "num_datasets": 14420},
    "600m": {"d_model": 2048, "nhead": 16, "d_hid": 2048, "nlayers": 16, "output_dim": 2048, "num_datasets": 14420},
}
TOKEN_DIM, GENES, LENGTH, TASKS = 5120, 19790, 2048, 1536


def required_flops(config) -> float:
    """Floating point operations of embedding a cell, as this package computes them (gene features cached)."""
    width, inner, tokens = config.hidden_size, config.intermediate_size, config.max_position_embeddings + 1
    projections = 4 * width * width
    layer = 2 * tokens * (projections + 2 * width * inner) + 4 * tokens * tokens * width
    last = 2 * tokens * 2 * width * width + 2 * 2 * (2 * width * width + 2 * width * inner) + 4 * 2 * tokens * width
    expression = 2 * tokens * config.num_expression_bins * (config.count_encoder_dim + width)
    decoder = 2 * 2 * (4 * width * width + width * config.output_dim)
    return (config.num_hidden_layers - 1) * layer + last + expression + decoder


def tokens(cells: int, device: str):
    import torch

    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, GENES, (cells, LENGTH), generator=generator)
    return input_ids.to(device), torch.rand(cells, LENGTH, generator=generator).to(device)


def our_config(size: str):
    from state_hf import StateEmbeddingConfig

    return StateEmbeddingConfig(token_dim=TOKEN_DIM, num_genes=GENES, pad_length=LENGTH, **SIZES[size])


def state_hf(folder: str, size: str, cells: int, dtype: str, device: str):
    """Our model with random weights, which the peer gets under its own names."""
    import torch
    from safetensors.torch import save_file

    from state_hf import StateEmbeddingModel

    torch.manual_seed(0)
    model = StateEmbeddingModel(our_config(size)).eval()
    model.save_pretrained(folder)
    model.to(device=device, dtype=getattr(torch, dtype))
    input_ids, expression = tokens(cells, device)
    mask = torch.ones_like(input_ids)

    def embed() -> int:
        with torch.inference_mode():
            model(input_ids, mask, expression, output_genes=False)
        return cells

    with torch.inference_mode():
        embedding = model(input_ids, mask, expression, output_genes=False).embedding
    save_file({"embedding": embedding.float().cpu().contiguous()}, Path(folder, "embedding.safetensors"))
    return embed


def arc_state(folder: str, size: str, cells: int, dtype: str, device: str):
    import torch
    from omegaconf import OmegaConf
    from safetensors.torch import load_file
    from state.emb.nn.model import StateEmbeddingModel

    shape = dict(SIZES[size])
    datasets = {"current": "all", "all": {"num_datasets": shape.pop("num_datasets")}}
    cfg = OmegaConf.create({"model": {"rda": True, "counts": True, "dataset_correction": True}, "dataset": datasets})
    model = StateEmbeddingModel(token_dim=TOKEN_DIM, **shape, cfg=cfg).eval()
    model.pe_embedding = torch.nn.Embedding(GENES, TOKEN_DIM)
    missing, _ = model.load_state_dict(load_file(Path(folder, "model.safetensors")), strict=False)
    model.to(device)
    input_ids, expression = tokens(cells, device)
    task_ids = torch.randint(0, GENES, (cells, TASKS), device=device)
    batch = (input_ids, task_ids, None, None, None, torch.zeros_like(expression), None, expression, None)
    reduced = dtype != "float32"

    def embedded():
        autocast = torch.autocast(torch.device(device).type, getattr(torch, dtype))
        with torch.inference_mode(), autocast if reduced else contextlib.nullcontext():
            _, _, _, cell, dataset = model._compute_embedding_for_batch(batch)
            return torch.cat([cell, model.dataset_embedder(dataset)], dim=-1)

    ours = load_file(Path(folder, "embedding.safetensors"))["embedding"]
    difference = (embedded().float().cpu() - ours).abs().max().item()
    if difference > (0.1 if reduced else 1e-3):
        raise SystemExit(f"The embeddings differ by up to {difference}; weights that were not found: {missing}.")

    def embed() -> int:
        embedded()
        return cells

    return embed


def matrix_multiplication(folder: str, size: str, cells: int, dtype: str, device: str):
    import torch

    side = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(side, side, dtype=getattr(torch, dtype), device=device) for _ in range(2))
    required = required_flops(our_config(size))

    def multiply() -> float:
        for _ in range(10):
            left @ right
        return 10 * 2 * side**3 / required

    return multiply


def claim(contest: Contest) -> None:
    cases = [("default", "float32", 1 if contest.quick else 4)]
    if contest.device == "cuda":  # most processors emulate bfloat16, ten times slower
        cases = [("600m", "bfloat16", 32), ("default", "bfloat16", 64)]
    for size, dtype, cells in cases:
        with contest.folder() as folder:
            contest.compare(
                f"State Embedding forward, {size} size, {dtype}",
                (state_hf, arc_state, matrix_multiplication),
                {"folder": str(folder), "size": size, "cells": cells, "dtype": dtype, "device": contest.device},
                repeats=1 if contest.quick else 3,
                items="cells",
            )


if __name__ == "__main__":
    main(claim)
