"""Small files with different genes, and a manifest of them."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_hf import StateEmbeddingForMaskedExpression, StateEmbeddingTokenizer
from tests.tiny_models import state_embedding_config

GENES = [f"G{number:02d}" for number in range(40)]
SIZES = {"one": 70, "two": 45, "three": 101}


def cells(seed: int, number: int, genes: list[str], *, types: int = 2) -> ad.AnnData:
    """Counts of cells of some types, each with its own highly expressed genes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(types, size=number)
    rates = np.full((types, len(genes)), 0.4)
    for label in range(types):
        rates[label, label::types] = 4.0
    matrix = sp.csr_matrix(rng.poisson(rates[labels]).astype(np.float32))
    obs = pd.DataFrame({"cell_type": [f"type_{label}" for label in labels]}, index=[f"c{n}" for n in range(number)])
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=genes))


def write_corpus(folder: Path) -> Path:
    """Three files, whose genes overlap in part; the third holds log1p values and a gene that nobody knows."""
    own = {"one": GENES[:30], "two": GENES[10:][::-1], "three": [*GENES[5:35], "unheard-of"]}
    rows = []
    for seed, (name, number) in enumerate(SIZES.items()):
        data = cells(seed, number, own[name])
        scale = "log1p" if name == "three" else "counts"
        if scale == "log1p":
            data.X = (data.X * 0.5).log1p()
        data.write_h5ad(folder / f"{name}.h5ad")
        rows.append(f"{name}.h5ad,{name},{scale}")
    manifest = folder / "corpus.csv"
    manifest.write_text("path,dataset,scale\n" + "\n".join(rows) + "\n")
    return manifest


def tokenizer() -> StateEmbeddingTokenizer:
    return StateEmbeddingTokenizer(GENES, fill="none", model_max_length=20)


def small_embedding_model(**changes) -> StateEmbeddingForMaskedExpression:
    fields = {
        "hidden_size": 16, "intermediate_size": 16, "output_dim": 8, "max_position_embeddings": 20, "num_datasets": 3,
        "dataset_classes": {"one": 0, "two": 1, "three": 2}, "hidden_dropout_prob": 0.1, "classifier_dropout": 0.0,
        "initializer_range": 0.2, "train_gene_table": True,
    }  # fmt: skip
    return StateEmbeddingForMaskedExpression(state_embedding_config(len(GENES), **{**fields, **changes}))
