"""Generated perturbation screens for the evaluation benchmarks: a real and a predicted side, as .h5ad files."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem


class Size(NamedTuple):
    """Perturbations x cells each, control cells, genes, and counts a cell."""

    perturbations: int
    cells: int
    controls: int
    genes: int
    depth: int


SIZES = {
    "tiny": Size(3, 20, 40, 60, 300),
    "a": Size(20, 200, 2_000, 2_000, 6_000),
    "b": Size(50, 400, 5_000, 5_000, 3_500),
    "c": Size(50, 800, 10_000, 18_080, 7_000),
    "2026": Size(300, 400, 10_000, 18_533, 20_000),
}


def in_words(size: Size) -> str:
    """`25,000 x 5,000`: cells of one side and genes."""
    return f"{size.perturbations * size.cells + size.controls:,} cells x {size.genes:,} genes"


def write_screen(path: Path, size: Size, *, seed: int, strength: float, lognorm: bool) -> None:
    """Write one side, block by block.

    The perturbations' effects are those of every seed, scaled by `strength`.
    """
    shared, rng = np.random.default_rng(0), np.random.default_rng(seed)
    base = shared.lognormal(0.0, 2.0, size.genes)
    genes = [f"GENE{gene}" for gene in range(size.genes)]
    labels: list[str] = []
    with h5py.File(path, "w") as file:
        for number in range(size.perturbations + 1):
            is_control = number == size.perturbations
            effect = np.zeros(size.genes)
            changed = shared.choice(size.genes, size.genes // 50, replace=False)
            effect[changed] = shared.normal(0.0, 0.8, len(changed))
            rate = base if is_control else base * np.exp(strength * effect)
            cells = size.controls if is_control else size.cells
            depth = rng.lognormal(np.log(size.depth), 0.35, cells)
            for start in range(0, cells, 500):
                counts = rng.poisson(depth[start : start + 500, None] * (rate / rate.sum())).astype(np.float32)
                block = sp.csr_matrix(counts)
                if lognorm:
                    per_value = np.repeat(counts.sum(axis=1) / np.float32(10_000), np.diff(block.indptr))
                    block.data = np.log1p(block.data / per_value)
                if labels:
                    sparse_dataset(file["X"]).append(block)
                else:
                    write_elem(file, "X", block)
                labels += ["non-targeting" if is_control else genes[number]] * block.shape[0]
        names = pd.Index([f"cell{cell}" for cell in range(len(labels))])
        write_elem(file, "obs", pd.DataFrame({"target_gene": pd.Categorical(labels)}, index=names))
        write_elem(file, "var", pd.DataFrame(index=pd.Index(genes)))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def write_pair(folder: Path, name: str, *, lognorm: bool) -> tuple[Path, Path]:
    """Write (or find) the predicted and the real side of a size."""
    kind = "lognorm" if lognorm else "counts"
    prediction, reference = (folder / f"{name}-{kind}-{side}.h5ad" for side in ("prediction", "reference"))
    for path, seed, strength in ((reference, 1, 1.0), (prediction, 2, 0.7)):
        write_side(path, SIZES[name], seed=seed, strength=strength, lognorm=lognorm)
    return prediction, reference


def write_side(path: Path, size: Size, *, seed: int, strength: float, lognorm: bool) -> None:
    """Write one side, whole or not at all, unless it is there."""
    if not path.exists():
        part = path.with_suffix(".part")
        write_screen(part, size, seed=seed, strength=strength, lognorm=lognorm)
        part.replace(path)
