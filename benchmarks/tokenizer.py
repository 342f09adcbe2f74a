"""Cells per second of the cell sentence tokenizer, beside arc-state's collator in the same run.

    python benchmarks/tokenizer.py --peer-python PATH     # a Python that has arc-state 0.11.1
    python benchmarks/tokenizer.py                        # without the peer

One process each, the same number of threads, batches of 64 of the same cells: 19,790 genes, all known, about 2,500 of
them expressed. The two take turns, and every ratio is that of two neighbouring turns. The scalars of both are compared.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch

NUM_GENES = 19_790
BATCH = 64


def cells_like_10x(cells: int, *, seed: int = 0) -> sp.csr_array:
    """Counts (cells, 19,790) of about 8,000 molecules a cell, 2,500 genes expressed."""
    rng = np.random.default_rng(seed)
    share = rng.gamma(0.08, size=NUM_GENES)
    depth = rng.lognormal(np.log(8000), 0.3, size=cells)
    rows = [sp.csr_array(rng.poisson(total * share / share.sum())[None].astype(np.float32)) for total in depth]
    return sp.csr_array(sp.vstack(rows))


def serve_peer(folder: Path) -> None:
    """Time a pass of the peer over its cells for every line on the standard input."""
    import state
    from omegaconf import OmegaConf
    from state.emb.data.loader import VCIDatasetSentenceCollator

    config = OmegaConf.load(Path(state.__file__).with_name("configs") / "state-defaults.yaml")
    collator = VCIDatasetSentenceCollator(
        config,
        valid_gene_mask={"cells": np.ones(NUM_GENES, bool)},
        ds_emb_mapping_inference={"cells": np.arange(NUM_GENES)},
        is_train=False,
    )
    cells = torch.as_tensor(sp.load_npz(folder / "peer_cells.npz").toarray())
    items = [(cell[None], at, "cells", at) for at, cell in enumerate(cells)]
    for turn, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        batches = [collator(items[at : at + BATCH]) for at in range(0, len(items), BATCH)]
        seconds = time.perf_counter() - start
        if turn == 0:
            np.save(folder / "peer_expression.npy", torch.cat([batch[7] for batch in batches]).numpy())
        print(seconds, flush=True)


class Peer:
    """arc-state's collator in a process of its own, run on demand."""

    def __init__(self, python: Path, folder: Path, threads: int) -> None:
        command = [python, __file__, "--serve-peer", folder, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def summary(values: list[float], unit: str) -> str:
    return (
        f"median {np.median(values):,.0f}{unit} (min {min(values):,.0f}, max {max(values):,.0f}, {len(values)} turns)"
    )


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    from state_hf.tokenization.cell_sentence import CellSentenceTokenizer

    tokenizer = CellSentenceTokenizer([f"GENE{row}" for row in range(NUM_GENES)], cls_expression="gene_3")
    report = tokenizer.gene_index.report(tokenizer.genes, column="index")
    cells = cells_like_10x(arguments.cells)
    blocks = [cells[at : at + BATCH] for at in range(0, arguments.cells, BATCH)]
    print(f"expressed genes a cell: median {np.median(np.diff(cells.indptr)):,.0f}; threads: {arguments.threads}")

    def turn() -> float:
        start = time.perf_counter()
        for block in blocks:
            tokenizer.encode_cells(block, report, fill=arguments.fill)
        return arguments.cells / (time.perf_counter() - start)

    turn()
    if arguments.peer_python is None:
        print("state-hf:", summary([turn() for _ in range(arguments.turns)], " cells/s"))
        return

    peer_cells = cells[: arguments.peer_cells]
    sp.save_npz(folder / "peer_cells.npz", sp.csr_matrix(peer_cells))
    peer = Peer(arguments.peer_python, folder, arguments.threads)
    peer.seconds()
    ours, theirs = [], []
    for _ in range(arguments.turns):
        ours.append(turn())
        theirs.append(arguments.peer_cells / peer.seconds())
    peer.close()
    print("state-hf:", summary(ours, " cells/s"))
    print("arc-state:", summary(theirs, " cells/s"))
    print("ratio:", summary([one / other for one, other in zip(ours, theirs, strict=True)], "x"))
    expression = tokenizer.encode_cells(peer_cells, report)["expression"].numpy()
    difference = np.abs(expression - np.load(folder / "peer_expression.npy")).max()
    print(f"largest difference of a scalar: {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="a Python that has arc-state 0.11.1")
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--peer-cells", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fill", choices=["seeded", "original", "none"], default="seeded")
    parser.add_argument("--serve-peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.serve_peer:
        serve_peer(arguments.serve_peer)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


if __name__ == "__main__":
    main()
