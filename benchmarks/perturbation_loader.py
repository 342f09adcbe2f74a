"""Cells per second that a perturbation dataset yields, beside cell-load in the same run.

    python benchmarks/perturbation_loader.py --peer-python PATH      # a Python that has cell-load 0.10.4
    python benchmarks/perturbation_loader.py --cells 25000 --sorted  # smaller, cells ordered by type and perturbation

One process each, no worker processes, batches of 16 sets of 128 target cells with as many controls, from one .h5ad
file as anndata writes it: 5,000 genes sparse in X, 2,000 dense in obsm. The two take turns of `--seconds` each; the
first turn of each is cold (the file's pages are dropped from memory before it), the others are warm. Start-up is not
counted. Three readings:

- `obsm`: control and target from obsm;
- `obsm + X`: and the whole X of the target cells;
- `X`: control and target from the whole X.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SETS, CELLS = 16, 128
READINGS = ("obsm", "obsm + X", "X")
TOML = '[datasets]\nscreen = "{folder}"\n[training]\nscreen = "train"\n'


def write_screen(path: Path, num_cells: int, *, ordered: bool) -> None:
    """Write a preprocessed screen of `num_cells` cells, repeating 20,000 generated ones, with anndata's chunks."""
    import anndata
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    from state_hf.data.synthetic_screen import generate_screen
    from state_hf.pipelines.preprocess import preprocess

    sizes = {"num_cell_types": 4, "num_perturbations": 60, "cells_per_perturbation": 75, "controls": 500}
    small = path.with_name("small.h5ad")
    generate_screen(**sizes, num_genes=5000, depth=6000.0).write_h5ad(path)
    preprocess(path, output=small)
    base = anndata.read_h5ad(small)
    small.unlink()
    path.unlink()
    rows = np.random.default_rng(0).permutation(np.arange(num_cells) % base.n_obs)
    if ordered:
        rows = rows[
            np.lexsort([base.obs["perturbation"].cat.codes.iloc[rows], base.obs["cell_type"].cat.codes.iloc[rows]])
        ]
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        obs = base.obs.iloc[rows].set_index(pd.Index([f"cell_{number}" for number in range(num_cells)]))
        for slot, element in (("obs", obs), ("var", base.var), ("uns", base.uns), ("obsm", {}), ("layers", {})):
            write_elem(file, slot, element)
        lengths = np.diff(base.X.indptr)[rows]
        matrix = file.create_group("X")
        shape = np.array([num_cells, base.n_vars])
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        matrix["indptr"] = np.concatenate([[0], np.cumsum(lengths)])
        total = int(lengths.sum())
        data = matrix.create_dataset("data", (total,), dtype=np.float32, chunks=True)
        indices = matrix.create_dataset("indices", (total,), dtype=np.int32, chunks=True)
        dense = file["obsm"].create_dataset("X_hvg", (num_cells, base.obsm["X_hvg"].shape[1]), dtype=np.float32)
        dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        done = 0
        for start in range(0, num_cells, 10_000):
            block = base.X[rows[start : start + 10_000]]
            data[done : done + block.nnz], indices[done : done + block.nnz] = block.data, block.indices
            done += block.nnz
            dense[start : start + 10_000] = base.obsm["X_hvg"][rows[start : start + 10_000]]
    with path.open("rb") as written:
        os.fsync(written.fileno())
    print(f"{num_cells:,} cells, {total / num_cells:,.0f} values a cell, {path.stat().st_size / 1e9:.1f} GB")


def our_batches(folder: Path, reading: str, *, ordered: bool):
    from torch.utils.data import DataLoader

    from state_hf.data.perturbation_dataset import PerturbationDataset, SetSampler
    from state_hf.data.perturbation_screens import open_screens

    screens = open_screens(folder / "screen.h5ad", batch_key="batch")
    slots = {
        "obsm": {"features": "obsm/X_hvg"},
        "obsm + X": {"features": "obsm/X_hvg", "target_expression": "X"},
        "X": {"features": "X"},
    }
    dataset = PerturbationDataset(screens, set_size=CELLS, **slots[reading])
    epoch = 0
    yield 0
    while True:
        dataset.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=SETS, sampler=SetSampler(dataset)):
            yield int(batch["target_mask"].sum())
        epoch += 1


def peer_batches(folder: Path, reading: str, *, ordered: bool):
    from cell_load.data_modules import PerturbationDataModule

    (folder / "screen.toml").write_text(TOML.format(folder=folder))
    module = PerturbationDataModule(
        str(folder / "screen.toml"),
        batch_size=SETS,
        num_workers=0,
        pert_col="perturbation",
        batch_col="batch",
        embed_key=None if reading == "X" else "X_hvg",
        output_space="gene" if reading == "obsm" else "all",
        cell_sentence_len=CELLS,
        use_consecutive_loading=ordered,
    )
    module.setup()
    yield 0
    while True:
        for batch in module.train_dataloader():
            yield len(batch["pert_cell_emb"])


def serve(side: str, folder: Path, reading: str, seconds: float, *, ordered: bool) -> None:
    """For every line on the standard input, yield batches for some seconds and print cells/s and the peak memory."""
    batches = (our_batches if side == "ours" else peer_batches)(folder, reading, ordered=ordered)
    next(batches)
    for line in sys.stdin:
        if line.startswith("cold"):
            with (folder / "screen.h5ad").open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        cells, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            cells += next(batches)
        rate = cells / (time.perf_counter() - start)
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print("rate", rate, int(peak.split()[1]) / 1e6, flush=True)


class Side:
    """One of the two in a process of its own, run on demand."""

    def __init__(self, python: str, side: str, folder: Path, reading: str, options: argparse.Namespace) -> None:
        command = [python, __file__, "--serve", side, "--folder", str(folder), "--reading", reading]
        command += ["--seconds", str(options.seconds), *(["--sorted"] if options.sorted else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.gigabytes = 0.0

    def turn(self, kind: str) -> float:
        self.process.stdin.write(f"{kind}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("rate "):
                _, rate, gigabytes = line.split()
                self.gigabytes = float(gigabytes)
                return float(rate)
        raise SystemExit(f"a process stopped: {self.process.args}")


def compare(options: argparse.Namespace, folder: Path, reading: str) -> None:
    sides = {"ours": Side(sys.executable, "ours", folder, reading, options)}
    if options.peer_python:
        sides["cell-load"] = Side(options.peer_python, "peer", folder, reading, options)
    cold = {name: side.turn("cold") for name, side in sides.items()}
    warm = [{name: side.turn("warm") for name, side in sides.items()} for _ in range(options.turns)]
    for name, side in sides.items():
        side.process.stdin.close()
        side.process.wait()
        median = statistics.median(turn[name] for turn in warm)
        print(f"{reading:9} {name:10} cold {cold[name]:9,.0f}  warm {median:9,.0f} cells/s  {side.gigabytes:.2f} GB")
    if options.peer_python:
        ratio = statistics.median(turn["ours"] / turn["cell-load"] for turn in warm)
        print(f"{reading:9} ratio      cold {cold['ours'] / cold['cell-load']:9.1f}  warm {ratio:9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="a Python with cell-load")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn")
    parser.add_argument("--turns", type=int, default=3, help="warm turns of each")
    parser.add_argument("--sorted", action="store_true", help="cells of a group lie together (the peer's fast path)")
    parser.add_argument("--folder", type=Path, help="where the file goes; one that is there is used")
    parser.add_argument("--reading", choices=READINGS, help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.folder, options.reading, options.seconds, ordered=options.sorted)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "screen.h5ad").exists():
            write_screen(folder / "screen.h5ad", options.cells, ordered=options.sorted)
        for reading in READINGS if options.reading is None else (options.reading,):
            compare(options, folder, reading)


if __name__ == "__main__":
    main()
