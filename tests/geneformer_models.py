"""Geneformer as its original has it, on the disk and in its outputs: tiny random weights, dictionaries, cells."""

import pickle
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "fixtures" / "geneformer"
CELLS = np.load(FOLDER / "counts.npz")
COUNTS, IDS = CELLS["counts"], CELLS["ensembl_ids"].tolist()
# A column of the second release that stands for another gene.
FORMER_ID = "ENSG90000000001"


def expected(name: str) -> dict:
    return load_file(FOLDER / "expected" / f"{name}.safetensors")


def ragged(name: str) -> list[list[int]]:
    stored = expected("tokens")
    return [part.tolist() for part in stored[f"{name}.flat"].split(stored[f"{name}.lengths"].tolist())]


def lists(encoding) -> list[list[int]]:
    """The tokens of every cell without the padding, which must be at the end."""
    mask, ids = np.asarray(encoding["attention_mask"]), np.asarray(encoding["input_ids"])
    assert (np.diff(mask, axis=1) <= 0).all()
    assert (ids[mask == 0] == 0).all()
    return [row[:number].tolist() for row, number in zip(ids, mask.sum(axis=1), strict=True)]


def dictionaries(release: str = "v1") -> tuple[dict[str, int], dict[str, float]]:
    """Tokens and medians. Only for files that lie in this repository."""
    folder, suffix = FOLDER / release, "_gc95M" if release == "v2" else ""
    files = (folder / f"{name}{suffix}.pkl" for name in ("token_dictionary", "gene_median_dictionary"))
    tokens, medians = (pickle.loads(file.read_bytes()) for file in files)
    return {token: int(number) for token, number in tokens.items()}, {gene: float(m) for gene, m in medians.items()}
