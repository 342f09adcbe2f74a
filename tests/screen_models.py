"""A small screen and a small model for the tests of training and prediction."""

from pathlib import Path

import anndata
import numpy as np
from safetensors.torch import load_file, save_file

from state_hf import (
    PerturbationDataset,
    PerturbationSplit,
    PerturbationVocabulary,
    StateTransitionConfig,
    StateTransitionForPerturbation,
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


def small_model(vocabulary: PerturbationVocabulary, **fields) -> StateTransitionForPerturbation:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"input_dim": len(vocabulary.genes), "perturbation_dim": len(vocabulary.perturbations)}
    config = StateTransitionConfig(**{"feature_key": "X", "cell_set_length": 8, **sizes, **fields})
    model = StateTransitionForPerturbation(config)
    model.vocabulary = vocabulary
    return model
