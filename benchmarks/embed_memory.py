"""Resident memory of `state-hf embed` while it works through small and large files: the curves are flat.

    python benchmarks/embed_memory.py [--cells 20000 200000] [--layout csr] [--output .h5ad]

The files are generated in blocks (20,000 genes, some 1,500 expressed in a cell), and deleted in the end. Linux only:
the memory is read from /proc.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from anndata.io import write_elem

from state_hf import StateEmbeddingConfig, StateEmbeddingModel, StateEmbeddingTokenizer

GENES = [f"GENE{gene}" for gene in range(20_000)]


def write_tiny_model(folder: Path, length: int) -> None:
    torch.manual_seed(0)
    config = StateEmbeddingConfig(
        num_genes=len(GENES),
        gene_embedding_dim=16,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        output_dim=32,
        count_encoder_dim=16,
        max_position_embeddings=length,
        num_datasets=2,
    )
    StateEmbeddingModel(config).save_pretrained(folder)
    StateEmbeddingTokenizer(GENES, model_max_length=length).save_pretrained(folder)


def write_cells(path: Path, num_cells: int, layout: str, mean_expressed: int = 1500) -> int:
    """Write random counts as CSR, CSC or dense X, never holding more than one block. Returns the number of values."""
    rng = np.random.default_rng(0)
    major, minor = (num_cells, len(GENES)) if layout != "csc" else (len(GENES), num_cells)
    per_row = mean_expressed if layout != "csc" else mean_expressed * num_cells // len(GENES)
    with h5py.File(path, "w") as file:
        names = pd.Index([f"cell{cell}" for cell in range(num_cells)])
        write_elem(file, "obs", pd.DataFrame(index=names))
        write_elem(file, "var", pd.DataFrame(index=pd.Index(GENES)))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        lengths = rng.integers(per_row // 2, per_row * 3 // 2, major)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        x = file.create_group("X")
        x.attrs.update(
            {"encoding-type": f"{layout}_matrix", "encoding-version": "0.1.0", "shape": (num_cells, len(GENES))}
        )
        x["indptr"] = indptr
        data = x.create_dataset("data", shape=indptr[-1:], dtype=np.float32, chunks=(2**17,))
        indices = x.create_dataset("indices", shape=indptr[-1:], dtype=np.int32, chunks=(2**17,))
        for row in range(0, major, 1000):
            end = min(row + 1000, major)
            # One permutation, cut at random places: distinct indices without drawing them one by one.
            order = rng.permutation(minor).astype(np.int32)
            starts = rng.integers(0, minor, end - row)
            places = [
                np.sort(order[np.arange(start, start + length) % minor])
                for start, length in zip(starts, lengths[row:end], strict=True)
            ]
            indices[indptr[row] : indptr[end]] = np.concatenate(places)
            data[indptr[row] : indptr[end]] = rng.geometric(0.4, indptr[end] - indptr[row])
    return int(indptr[-1])


def megabytes(process: subprocess.Popen, name: str) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def watch(command: list[str]) -> tuple[list[float], float, float]:
    """Run a command. Returns its resident memory over time and at most, in MB, and its seconds."""
    began, curve, peak = time.perf_counter(), [], 0.0
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        curve.append(megabytes(process, "VmRSS"))
        peak = max(peak, megabytes(process, "VmHWM"))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return curve, peak, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--layout", choices=("csr", "csc"), default="csr")
    parser.add_argument("--output", default=".h5ad", help="suffix of the output")
    parser.add_argument("--length", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--folder", type=Path, help="where the files go for the time (default: the system's)")
    arguments = parser.parse_args()
    for num_cells in arguments.cells:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            write_tiny_model(folder / "model", arguments.length)
            values = write_cells(folder / "cells.h5ad", num_cells, arguments.layout)
            output = folder / f"out{arguments.output}"
            command = ["embed", str(folder / "cells.h5ad"), "--model", str(folder / "model"), "--output", str(output)]
            curve, peak, seconds = watch([sys.executable, "-m", "state_hf", *command, "--device", "cpu"])
            if arguments.output == ".h5ad":
                with h5py.File(output) as file:
                    assert file["obsm/X_state"].shape[0] == num_cells
                assert anndata.read_h5ad(output, backed="r").n_obs == num_cells
            size = (folder / "cells.h5ad").stat().st_size / 2**30
        tenths = [f"{part.max():.0f}" for part in np.array_split(np.array(curve), 10) if len(part)]
        print(f"{num_cells:>9,} cells x 20,000 genes, {values / num_cells:,.0f} expressed, {size:.2f} GiB")
        print(f"          peak {peak:,.0f} MB, {seconds:.0f} s", flush=True)
        print(f"          every tenth of the time, MB: {' '.join(tenths)}", flush=True)


if __name__ == "__main__":
    main()
