"""The cell sentence tokenizer against arc-state's collator

    python benchmarks/tokenizer.py [--quick]

Batches of 64 cells: 19,790 genes, all known, about 2,500 of them expressed, sentences of 2,048 tokens. The scalars of
both are compared.
"""

from functools import partial
from pathlib import Path

import numpy as np
from turns import Contest, main

NUM_GENES = 19_790
BATCH = 64


def cells_like_10x(cells: int, *, seed: int = 0):
    """Counts (cells, 19,790) of about 8,000 molecules a cell, 2,500 genes expressed."""
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    share = rng.gamma(0.08, size=NUM_GENES)
    depth = rng.lognormal(np.log(8000), 0.3, size=cells)
    rows = [sp.csr_array(rng.poisson(total * share / share.sum())[None].astype(np.float32)) for total in depth]
    return sp.csr_array(sp.vstack(rows))


def state_hf(folder: str, ours: int, theirs: int):
    from state_hf import StateEmbeddingTokenizer

    tokenizer = StateEmbeddingTokenizer([f"GENE{row}" for row in range(NUM_GENES)], cls_expression="gene_3")
    report = tokenizer.gene_index.report(tokenizer.genes, column="index")
    cells = cells_like_10x(ours)
    blocks = [cells[at : at + BATCH] for at in range(0, ours, BATCH)]
    np.save(Path(folder, "ours.npy"), tokenizer.encode_cells(cells[:theirs], report)["expression"].numpy())

    def encode() -> int:
        for block in blocks:
            tokenizer.encode_cells(block, report)
        return ours

    return encode


def arc_state(folder: str, ours: int, theirs: int):
    import state
    import torch
    from omegaconf import OmegaConf
    from state.emb.data.loader import VCIDatasetSentenceCollator

    config = OmegaConf.load(Path(state.__file__).with_name("configs") / "state-defaults.yaml")
    collator = VCIDatasetSentenceCollator(
        config,
        valid_gene_mask={"cells": np.ones(NUM_GENES, bool)},
        ds_emb_mapping_inference={"cells": np.arange(NUM_GENES)},
        is_train=False,
    )
    dense = torch.as_tensor(cells_like_10x(ours)[:theirs].toarray())
    items = [(cell[None], at, "cells", at) for at, cell in enumerate(dense)]
    collate = partial(map, collator, [items[at : at + BATCH] for at in range(0, theirs, BATCH)])
    expression = torch.cat([batch[7] for batch in collate()]).numpy()
    difference = np.abs(expression - np.load(Path(folder, "ours.npy"))).max()
    if difference > 1e-5:
        raise SystemExit(f"The scalars differ by up to {difference}.")

    def encode() -> int:
        list(collate())
        return theirs

    return encode


def claim(contest: Contest) -> None:
    with contest.folder() as folder:
        options = {"folder": str(folder), "ours": 1024, "theirs": BATCH if contest.quick else 2 * BATCH}
        contest.compare(
            "Tokenize cells", (state_hf, arc_state), options, repeats=3 if contest.quick else 9, items="cells"
        )


if __name__ == "__main__":
    main(claim)
