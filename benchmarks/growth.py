"""How time and memory grow with the number of cells, from a thousand to a million

    python benchmarks/growth.py [--quick] [--folder FOLDER]

Ours alone: embedding with a tiny model, evaluating with profile `vcc2025` from files, and one epoch of the loader,
each in a process of its own. Screens of 20 perturbations and 500 genes, some 60 values a cell, are generated block by
block; a million cells take less than 2 GB on disk, and the files of one size at a time are there.
"""

from pathlib import Path

from perturbation_screens import Size, write_side
from turns import Contest, main

GENES = 500
TINY_CELLS = 400


def growing_size(num_cells: int) -> Size:
    return Size(perturbations=20, cells=num_cells // 25, controls=num_cells // 5, genes=GENES, depth=150)


def write_tiny_model(folder: Path, length: int = 64) -> None:
    import torch

    from state_hf import StateEmbeddingConfig, StateEmbeddingModel, StateEmbeddingTokenizer

    torch.manual_seed(0)
    config = StateEmbeddingConfig(
        num_genes=GENES,
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
    StateEmbeddingTokenizer([f"GENE{gene}" for gene in range(GENES)], model_max_length=length).save_pretrained(folder)


def embed_all(folder: Path, name: str):
    from state_hf import embed

    embed(folder / f"{name}-reference.h5ad", folder / "tiny-model", output=folder / "out.h5ad", overwrite=True)


def evaluate_all(folder: Path, name: str):
    from state_hf import evaluate_predictions

    paths = [folder / f"{name}-{side}.h5ad" for side in ("prediction", "reference")]
    evaluate_predictions(*paths, "vcc2025", perturbation_key="target_gene", on_error="nan")


def read_all(folder: Path, name: str):
    from torch.utils.data import DataLoader

    from state_hf import PerturbationDataset, open_screens
    from state_hf.data.screens.perturbation_dataset import SetSampler

    screens = open_screens(
        folder / f"{name}-reference.h5ad", perturbation_key="target_gene", cell_type_key=None, batch_key=None
    )
    dataset = PerturbationDataset(screens, set_size=64, features="X")
    for _ in DataLoader(dataset, batch_size=16, sampler=SetSampler(dataset)):
        pass


JOBS = {"embed": embed_all, "evaluate": evaluate_all, "read": read_all}


def state_hf(folder: str, name: str, job: str):
    """The job on the named files, compiled and warmed up on tiny ones."""
    JOBS[job](Path(folder), "tiny")
    return lambda: JOBS[job](Path(folder), name)


def write_files(folder: Path, name: str, num_cells: int) -> list[Path]:
    paths = [folder / f"{name}-{side}.h5ad" for side in ("reference", "prediction")]
    for path, seed, strength in zip(paths, (1, 2), (1.0, 0.7), strict=True):
        write_side(path, growing_size(num_cells), seed=seed, strength=strength, lognorm=False)
    return paths


def claim(contest: Contest) -> None:
    with contest.folder() as folder:
        write_tiny_model(folder / "tiny-model")
        write_files(folder, "tiny", TINY_CELLS)
        for num_cells in (1_000, 3_000, 10_000) if contest.quick else (1_000, 10_000, 100_000, 1_000_000):
            name = f"grown_{num_cells}"
            paths = write_files(folder, name, num_cells)
            gigabytes = sum(path.stat().st_size for path in paths) / 1e9
            for job in JOBS:
                options = {"folder": str(folder), "name": name, "job": job}
                repeats = 3 if num_cells <= 10_000 and not contest.quick else 1
                case = f"{job} {num_cells:,} cells"
                labels = {"job": job, "cells": num_cells, "gigabytes": gigabytes}
                contest.compare(case, (state_hf,), options, repeats=repeats, fresh=True, **labels)
            for path in paths:
                path.unlink()


if __name__ == "__main__":
    main(claim)
