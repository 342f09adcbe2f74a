"""Reading a perturbation screen in batches against cell-load, from cold and from warm files

    python benchmarks/perturbation_loader.py [--quick] [--folder FOLDER]

No worker processes, batches of 16 sets of 128 target cells with as many controls, from one .h5ad file of 200,000 cells
as anndata writes it (4 GB): 5,000 genes sparse in X, 2,000 dense in obsm. A turn takes some seconds. For the cold turns
each has a new process, and the file's pages are dropped from memory before the clock starts; set-up is not counted.
Control and target come from obsm; from obsm, and the whole X of the target cells, too; or from the whole X.
"""

import os
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from turns import Contest, main

SETS, CELLS = 16, 128
READINGS = ("obsm", "obsm + X", "X")
TOML = '[datasets]\nscreen = "{folder}"\n[training]\nscreen = "train"\n'


def write_screen(path: Path, num_cells: int) -> None:
    """Write a preprocessed screen of `num_cells` cells, repeating 20,000 generated ones, with anndata's chunks."""
    import anndata
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    from state_hf.data.screens.synthetic_screen import generate_screen
    from state_hf.pipelines.preprocess import preprocess

    sizes = {"num_cell_types": 4, "num_perturbations": 60, "cells_per_perturbation": 75, "controls": 500}
    small = path.with_name("small.h5ad")
    generate_screen(**sizes, num_genes=5000, depth=6000.0).write_h5ad(path)
    preprocess(path, output=small)
    base = anndata.read_h5ad(small)
    small.unlink()
    path.unlink()
    rows = np.random.default_rng(0).permutation(np.arange(num_cells) % base.n_obs)
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


def state_hf(folder: str, reading: str, seconds: float):
    from torch.utils.data import DataLoader

    from state_hf import PerturbationDataset, open_screens
    from state_hf.data.screens.perturbation_dataset import SetSampler

    screens = open_screens(Path(folder, "screen.h5ad"), batch_key="batch")
    slots = {
        "obsm": {"features": "obsm/X_hvg"},
        "obsm + X": {"features": "obsm/X_hvg", "target_expression": "X"},
        "X": {"features": "X"},
    }
    dataset = PerturbationDataset(screens, set_size=CELLS, **slots[reading])

    def epochs() -> Iterator[int]:
        for epoch in range(10**9):
            dataset.set_epoch(epoch)
            for batch in DataLoader(dataset, batch_size=SETS, sampler=SetSampler(dataset)):
                yield int(batch["target_mask"].sum())

    return partial(read_for, seconds, epochs())


def cell_load(folder: str, reading: str, seconds: float):
    from cell_load.data_modules import PerturbationDataModule

    description = Path(folder, "screen.toml")
    description.write_text(TOML.format(folder=folder))
    module = PerturbationDataModule(
        str(description),
        batch_size=SETS,
        num_workers=0,
        pert_col="perturbation",
        batch_col="batch",
        embed_key=None if reading == "X" else "X_hvg",
        output_space="gene" if reading == "obsm" else "all",
        cell_sentence_len=CELLS,
    )
    module.setup()
    batches = chain.from_iterable(iter(module.train_dataloader, None))
    return partial(read_for, seconds, (len(batch["pert_cell_emb"]) for batch in batches))


def read_for(seconds: float, batches: Iterator[int]) -> int:
    """Read batches until the time is over. Returns the number of cells."""
    cells, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        cells += next(batches)
    return cells


def forget(path: Path) -> None:
    """Drop a file's pages from memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def claim(contest: Contest) -> None:
    seconds, num_cells = (1.0, 20_000) if contest.quick else (4.0, 200_000)
    with contest.folder() as folder:
        screen = folder / f"screen_{num_cells}" / "screen.h5ad"
        screen.parent.mkdir(exist_ok=True)
        if not screen.exists():
            write_screen(screen.with_suffix(".part.h5ad"), num_cells)
            screen.with_suffix(".part.h5ad").replace(screen)
        for reading in READINGS:
            for cold in (True, False):
                contest.compare(
                    f"Read {reading}, {'cold' if cold else 'warm'}",
                    (state_hf, cell_load),
                    {"folder": str(screen.parent), "reading": reading, "seconds": seconds},
                    repeats=1 if contest.quick else 2 if cold else 3,
                    items="cells",
                    fresh=cold,
                    before=partial(forget, screen) if cold else None,
                )


if __name__ == "__main__":
    main(claim)
