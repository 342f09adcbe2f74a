"""A small screen and a small model for the tests of training and prediction."""

from pathlib import Path

import anndata
import numpy as np
from safetensors.torch import load_file, save_file

from state_hf import (
    PerturbationDataset,
    PerturbationSplit,
    PerturbationVocabulary,
    generate_screen,
)


def normalised_screen() -> anndata.AnnData:
    screen = generate_screen(
        num_cell_types=3, num_perturbations=4, num_genes=20, cells_per_perturbation=20, controls=24, seed=3
    )
    screen.layers["counts"] = screen.X.copy()
    totals = np.asarray(screen.X.sum(axis=1)).ravel()
    screen.X.data = np.log1p(screen.X.data / np.repeat(totals, np.diff(screen.X.indptr)) * 1e4).astype(np.float32)
    return screen


def lose_a_weight(folder: Path, part: str) -> None:
    """Take one weight, with `part` in its name, out of a model's folder."""
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in sorted(weights) if part in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def vocabulary_of(split: PerturbationSplit) -> PerturbationVocabulary:
    return vocabulary_of_sets(PerturbationDataset(split.screens, split=split))


def vocabulary_of_sets(sets: PerturbationDataset) -> PerturbationVocabulary:
    screens = sets.screens
    return PerturbationVocabulary(
        screens.perturbations, screens.control, screens.batches, screens.cell_types, sets.feature_names
    )
