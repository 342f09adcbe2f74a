"""Training step and prediction of State Transition against arc-state, alternating in one run.

    python benchmarks/state_transition_step.py                       # 4 sets of 512 cells, float32, 2 threads
    python benchmarks/state_transition_step.py --sets 1 --threads 1
    python benchmarks/state_transition_step.py --dtype bfloat16      # ours only; the peer has no bfloat16 on a CPU

Needs an environment with arc-state 0.11.1 and this package. Sizes are those of arc-state's `state` preset. A step is
forward, loss, backward, clipping and the optimiser. CPU seconds are printed beside wall seconds, as they are what can
be compared on a machine that is shared. Peak memory is that of a process of its own for each side.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

FEATURES, PERTURBATIONS, HIDDEN, LAYERS, HEADS = 2000, 1000, 768, 8, 12


def peer(sets: int, cells: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from state.tx.models.state_transition import StateTransitionPerturbationModel

    backbone = {
        "bidirectional_attention": True,
        "max_position_embeddings": cells,
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "use_cache": False,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        model = StateTransitionPerturbationModel(
            input_dim=FEATURES,
            output_dim=FEATURES,
            hidden_dim=HIDDEN,
            pert_dim=PERTURBATIONS,
            gene_dim=FEATURES,
            embed_key="X_hvg",
            cell_set_len=cells,
            n_encoder_layers=1,
            n_decoder_layers=1,
            transformer_backbone_key="llama",
            transformer_backbone_kwargs=backbone,
        )
    model.log = lambda *_, **__: None
    optimizer = model.configure_optimizers()
    ids = torch.arange(sets).repeat_interleave(cells)
    batch = {
        "pert_emb": torch.eye(PERTURBATIONS)[ids],
        "ctrl_cell_emb": expression(sets * cells),
        "pert_cell_emb": expression(sets * cells),
        "pert_name": ["p"] * (sets * cells),
    }

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        model.training_step(batch, 0).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()

    def predict() -> None:
        model.eval()
        with torch.no_grad():
            model.predict_step(batch, 0)

    return train, predict


def ours(sets: int, cells: int, dtype: torch.dtype) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from state_hf import StateTransitionConfig, StateTransitionForPerturbation

    config = StateTransitionConfig(input_dim=FEATURES, perturbation_dim=PERTURBATIONS, cell_set_length=cells)
    model = StateTransitionForPerturbation(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    control, target = expression(sets * cells).view(sets, cells, -1), expression(sets * cells).view(sets, cells, -1)
    batch = {"control": control, "perturbation_ids": torch.arange(sets)}
    precision = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        with precision:
            loss = model(**batch, target=target).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()

    def predict() -> None:
        model.eval()
        with torch.inference_mode(), precision:
            model(**batch)

    return train, predict


def expression(cells: int) -> torch.Tensor:
    return torch.rand(cells, FEATURES).mul_(3) * (torch.rand(cells, FEATURES) < 0.3)


def measure(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if repeat:  # the first warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(statistics.median(column) for column in zip(*rows)) for name, rows in times.items()}  # noqa: B905


def peak_memory(side: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", side, "--sets", str(arguments.sets)]
    command += ["--cells", str(arguments.cells), "--dtype", arguments.dtype, "--threads", str(arguments.threads)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return json.loads(lines[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=4)
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--memory-of", choices=("ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape = (arguments.sets, arguments.cells)
    dtype = getattr(torch, arguments.dtype)
    if arguments.memory_of:
        train, _ = peer(*shape) if arguments.memory_of == "peer" else ours(*shape, dtype)
        train()
        train()
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
        return
    pairs = {"peer": peer(*shape), "ours": ours(*shape, dtype)}
    total = arguments.sets * arguments.cells
    for number, (what, rate) in enumerate((("training step", 1), ("prediction", total))):
        result = measure({side: pair[number] for side, pair in pairs.items()}, arguments.repeats)
        for side, (wall, cpu) in result.items():
            unit = "cells" if rate > 1 else "steps"
            print(f"{what:14} {side}  {wall:7.3f} s wall  {cpu:7.3f} s CPU  {rate / wall:9.3f} {unit}/s")
        ratios = [a / b for a, b in zip(result["peer"], result["ours"], strict=True)]
        print(f"{what:14} ours is {ratios[0]:.2f}x by wall, {ratios[1]:.2f}x by CPU time")
    for side in pairs:
        print(f"peak memory    {side}  {peak_memory(side, arguments):.2f} GiB")


if __name__ == "__main__":
    main()
