"""Tokens a second of State Embedding, and what share of the device's matrix rate they are: inference and training.

    python benchmarks/state_embedding_utilisation.py --device cuda                    # the SE-600M shape, bfloat16
    python benchmarks/state_embedding_utilisation.py --size small --cells 2 --tokens 256    # on a CPU, in seconds

Full sentences of random genes; training has activation checkpointing and AdamW, and 1,280 target genes a cell. The
matrix rate is that of a large square product in the same type, measured between the passes. Operations are those that
the mathematics needs (`training_flops`): what checkpointing computes again counts as nothing, so that its utilisation
can reach some three quarters of that without it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from state_hf import StateEmbeddingConfig, StateEmbeddingForMaskedExpression
from state_hf.training.throughput import matmul_rate, training_flops

SIZES = {
    "600m": {},
    "small": {"num_genes": 2000, "gene_embedding_dim": 128, "hidden_size": 128, "num_hidden_layers": 3,
              "num_attention_heads": 4, "intermediate_size": 256, "output_dim": 128, "num_datasets": 10},
}  # fmt: skip
OWN_TARGETS, SHARED_TARGETS = 1024, 256


def synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def random_batch(config: StateEmbeddingConfig, cells: int, tokens: int, device: torch.device) -> dict:
    generator = torch.Generator().manual_seed(0)

    def genes(*shape: int) -> torch.Tensor:
        return torch.randint(config.num_genes, shape, generator=generator).to(device)

    expression = torch.rand(cells, tokens, generator=generator)
    return {
        "input_ids": genes(cells, tokens),
        "attention_mask": torch.ones(cells, tokens, dtype=torch.long, device=device),
        "expression": (100 * expression / expression.sum(1, keepdim=True)).to(device),
        "target_ids": genes(cells, OWN_TARGETS),
        "shared_target_ids": genes(SHARED_TARGETS),
        "labels": torch.rand(cells, OWN_TARGETS + SHARED_TARGETS, generator=generator).to(device),
        "dataset_labels": torch.zeros(cells, dtype=torch.long, device=device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, default="600m")
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    torch.manual_seed(0)
    config = StateEmbeddingConfig(**SIZES[arguments.size], max_position_embeddings=arguments.tokens)
    model = StateEmbeddingForMaskedExpression(config).to(device)
    if not arguments.no_checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=device.type == "cuda")
    batch = random_batch(config, arguments.cells, arguments.tokens, device)
    sentence = {name: batch[name] for name in ("input_ids", "attention_mask", "expression")}
    run = torch.compile(model) if arguments.compile else model

    def inference() -> None:
        model.eval()
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            run.state_embedding(**sentence, output_genes=False)

    def training() -> None:
        model.train()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = run(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    report(arguments, config, device, dtype, {"inference": inference, "training": training})


def report(
    arguments: argparse.Namespace,
    config: StateEmbeddingConfig,
    device: torch.device,
    dtype: torch.dtype,
    passes: dict[str, Callable[[], None]],
) -> None:
    shape = {"cells": arguments.cells, "tokens": arguments.tokens}
    operations = {
        "inference": training_flops(config, **shape, targets=0) / 3,
        "training": training_flops(config, **shape, targets=OWN_TARGETS + SHARED_TARGETS),
    }
    seconds, rates = {name: [] for name in passes}, []
    for turn in range(arguments.turns + 1):
        rates.append(matmul_rate(device, dtype))
        for name, one_pass in passes.items():
            if name == "inference":
                one_pass()  # the features of all genes are kept after the first
            began = synchronised(device)
            one_pass()
            if turn:
                seconds[name].append(synchronised(device) - began)
    rate = statistics.median(rates)
    print(f"{device}, {dtype}, {shape}: matrix products run at {rate / 1e12:,.3g} TFLOP/s")
    for name, times in seconds.items():
        took = statistics.median(times)
        tokens = arguments.cells * arguments.tokens / took
        share = operations[name] / took / rate
        print(f"{name:>10}: {took * 1e3:,.1f} ms, {tokens:,.0f} tokens/s, {share:.2f} of the matrix rate")
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
