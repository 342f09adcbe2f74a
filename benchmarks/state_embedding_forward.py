"""Cells per second of the SE forward pass: ours, arc-state's, and the bound that matrix multiplication sets.

    python benchmarks/state_embedding_forward.py [--python PEER_PYTHON] [--size small|600m] [--dtype float32|bfloat16]

Runs in an environment that has arc-state 0.11.1 (installed under `.cache/` unless `--python` names one), where both
models get the same random weights and the same tokens and are timed in turn. Our weights are in `--dtype`; the peer's
stay in float32 and it runs under autocast for bfloat16, which is how it does. The bound is a large square matrix
multiplication in `--dtype`, measured between the passes. `--device cuda` measures a GPU, with its peak memory.
"""

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIZES = {
    "small": {"d_model": 512, "nhead": 16, "d_hid": 1024, "nlayers": 8, "output_dim": 512, "num_datasets": 14420},
    "600m": {"d_model": 2048, "nhead": 16, "d_hid": 2048, "nlayers": 16, "output_dim": 2048, "num_datasets": 14420},
}
TOKEN_DIM, GENES, LENGTH, TASKS = 5120, 19790, 2048, 1536


def required_flops(config, cells: int) -> float:
    """Floating point operations of embedding `cells` cells, as this package computes them (gene features cached)."""
    width, inner, tokens = config.hidden_size, config.intermediate_size, config.max_position_embeddings + 1
    projections = 4 * width * width
    layer = 2 * tokens * (projections + 2 * width * inner) + 4 * tokens * tokens * width
    last = 2 * tokens * 2 * width * width + 2 * 2 * (2 * width * width + 2 * width * inner) + 4 * 2 * tokens * width
    expression = 2 * tokens * config.num_expression_bins * (config.count_encoder_dim + width)
    decoder = 2 * 2 * (4 * width * width + width * config.output_dim)
    return cells * ((config.num_hidden_layers - 1) * layer + last + expression + decoder)


def peer_model(size: dict):
    import torch
    from omegaconf import OmegaConf
    from state.emb.nn.model import StateEmbeddingModel

    cfg = OmegaConf.create(
        {
            "model": {"rda": True, "counts": True, "dataset_correction": True},
            "dataset": {"current": "all", "all": {"num_datasets": size["num_datasets"]}},
        }
    )
    shape = {k: v for k, v in size.items() if k != "num_datasets"}
    model = StateEmbeddingModel(token_dim=TOKEN_DIM, **shape, cfg=cfg).eval()
    model.pe_embedding = torch.nn.Embedding.from_pretrained(torch.randn(GENES, TOKEN_DIM))
    return model


def our_model(size: dict, peer):
    """Our model with the peer's weights, which go through the same conversion that a checkpoint does."""
    import tempfile

    from safetensors.torch import save_file

    from state_hf import StateEmbeddingConfig, StateEmbeddingModel

    with tempfile.TemporaryDirectory() as folder:
        StateEmbeddingConfig(token_dim=TOKEN_DIM, num_genes=GENES, pad_length=LENGTH, **size).save_pretrained(folder)
        weights = {name: value.contiguous().clone() for name, value in peer.state_dict().items()}
        save_file(weights, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        return StateEmbeddingModel.from_pretrained(folder)


def measure(arguments) -> None:
    import torch

    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    cells = arguments.batch_size
    input_ids = torch.randint(0, GENES, (cells, LENGTH), device=device)
    task_ids = torch.randint(0, GENES, (cells, TASKS), device=device)
    expression = torch.rand(cells, LENGTH, device=device)
    padding = torch.zeros(cells, LENGTH, device=device)
    size = SIZES[arguments.size]
    runs = {}
    ours = None
    if not arguments.without_peer:
        peer = peer_model(size)
        ours = our_model(size, peer)
        peer.to(device)
        autocast = torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()

        def run_peer():
            batch = (input_ids, task_ids, None, None, None, padding, None, expression, None)
            with autocast:
                _, _, _, cell, dataset = peer._compute_embedding_for_batch(batch)
                return torch.cat([cell, peer.dataset_embedder(dataset)], dim=-1)

        runs["arc-state"] = run_peer
    else:
        from state_hf import StateEmbeddingConfig, StateEmbeddingModel

        config = StateEmbeddingConfig(token_dim=TOKEN_DIM, num_genes=GENES, pad_length=LENGTH, **size)
        with device:
            ours = StateEmbeddingModel(config)
    ours.eval().to(device=device, dtype=dtype)
    mask = torch.ones_like(input_ids)

    def run_ours():
        return ours(input_ids, mask, expression, output_genes=False).embedding

    runs["state-hf"] = run_ours
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    runs["matmul"] = lambda: left @ right

    def timed(run):
        repeats = 10 if run is runs["matmul"] else 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            output = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats, output

    seconds = {name: [] for name in runs}
    with torch.inference_mode():
        outputs = {name: timed(run)[1] for name, run in runs.items()}  # warm-up; ours fills its cache
        for _ in range(arguments.repeats):
            for name, run in runs.items():
                seconds[name].append(timed(run)[0])

    required = required_flops(ours.config, cells)
    bound = 2 * side**3
    print(f"size {arguments.size}, {arguments.dtype}, {cells} cells, {torch.get_num_threads()} threads, {device}")
    for name in runs:
        if name != "matmul":
            rates = [cells / s for s in seconds[name]]
            print(f"  {name:10} {statistics.median(rates):8.3f} cells/s ({min(rates):.3f} to {max(rates):.3f})")
    shares = [required / s / (bound / m) for s, m in zip(seconds["state-hf"], seconds["matmul"], strict=True)]
    print(f"  ours: {required / cells / 1e9:.1f} GFLOP a cell; share of the matmul rate", end=" ")
    print(f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})")
    if "arc-state" in runs:
        ratios = [p / o for p, o in zip(seconds["arc-state"], seconds["state-hf"], strict=True)]
        print(f"  speed-up over arc-state {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        difference = (outputs["arc-state"].float() - outputs["state-hf"].float()).abs().max().item()
        print(f"  largest difference of the embeddings {difference:.2e}")
    if device.type == "cuda":
        print(f"  peak GPU memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    print(f"  peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="a Python that has arc-state 0.11.1")
    parser.add_argument("--without-peer", action="store_true", help="time ours alone, in this environment")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_peer or arguments.without_peer:
        measure(arguments)
        return
    python = arguments.python
    if python is None:
        environment = ROOT / ".cache" / "arc-state"
        python = str(environment / "bin" / "python")
        if not Path(python).exists():
            venv.create(environment, with_pip=True)
            for requirement in ("torch==2.13.0", "arc-state==0.11.1", f"{ROOT}"):
                subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([python, __file__, *sys.argv[1:], "--in-peer"], check=True, env=environment)


if __name__ == "__main__":
    main()
