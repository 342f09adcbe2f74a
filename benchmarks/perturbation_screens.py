"""Generated perturbation screens for the evaluation benchmarks: a real and a predicted side, as .h5ad files."""

from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp


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


def write_screen(path: Path, size: Size, *, seed: int, strength: float, lognorm: bool) -> float:
    """Write one side. The perturbations' effects are those of every seed, scaled by `strength`. Returns the density."""
    shared = np.random.default_rng(0)
    base = shared.lognormal(0.0, 2.0, size.genes)
    rng = np.random.default_rng(seed)
    genes = [f"GENE{gene}" for gene in range(size.genes)]
    blocks, labels = [], []
    for number in range(size.perturbations + 1):
        is_control = number == size.perturbations
        effect = np.zeros(size.genes)
        changed = shared.choice(size.genes, size.genes // 50, replace=False)
        effect[changed] = shared.normal(0.0, 0.8, len(changed))
        weights = base if is_control else base * np.exp(strength * effect)
        rate = weights / weights.sum()
        cells = size.controls if is_control else size.cells
        depth = rng.lognormal(np.log(size.depth), 0.35, cells)
        for start in range(0, cells, 500):
            counts = rng.poisson(depth[start : start + 500, None] * rate).astype(np.float32)
            blocks.append(sp.csr_matrix(counts))
        labels += ["non-targeting" if is_control else genes[number]] * cells
    matrix = sp.vstack(blocks, format="csr")
    del blocks
    if lognorm:
        totals = np.asarray(matrix.sum(axis=1)).ravel()
        matrix.data = np.log1p(matrix.data / np.repeat((totals / 10_000).astype(np.float32), np.diff(matrix.indptr)))
    obs = pd.DataFrame({"target_gene": pd.Categorical(labels)}, index=[f"cell{cell}" for cell in range(len(labels))])
    anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return matrix.nnz / (matrix.shape[0] * matrix.shape[1])


def write_pair(folder: Path, name: str, *, lognorm: bool) -> tuple[Path, Path]:
    """Write (or find) the predicted and the real side of a size."""
    kind = "lognorm" if lognorm else "counts"
    prediction, reference = (folder / f"{name}-{kind}-{side}.h5ad" for side in ("prediction", "reference"))
    for path, seed, strength in ((reference, 1, 1.0), (prediction, 2, 0.7)):
        if not path.exists():
            density = write_screen(path, SIZES[name], seed=seed, strength=strength, lognorm=lognorm)
            print(f"wrote {path.name}: density {density:.2f}", flush=True)
    return prediction, reference
