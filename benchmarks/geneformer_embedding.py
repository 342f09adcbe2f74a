"""Embedding cells with a Geneformer against a plain loop, and against the rate of matrix multiplication

    python benchmarks/geneformer_embedding.py [--quick] [--device cuda]

A model of the smallest published size (6 layers of 256, 25,426 tokens) with random weights, counts of 19,790 genes of
which about 2,500 are expressed, 2,048 tokens a cell (--quick: 512). Ours tokenizes the counts and embeds them. The loop
is given the tokens, and does what the original's extractor does: cells by length, a `BertForMaskedLM` with all hidden
states, and the mean of the layer before the last over the cell's genes. That both give the same is checked. The bound
is what the matrix products that the layers need would take at the rate of one large square multiplication.
"""

from pathlib import Path

import numpy as np
from rank_values import medians
from tokenizer import NUM_GENES, cells_like_10x
from turns import Contest, main

WIDTH, INNER, LAYERS = 256, 512, 6
BATCH = 8


def required_flops(length: int) -> float:
    """Floating point operations of the matrix products that a cell's state before the last layer needs."""
    return (LAYERS - 1) * (2 * length * (4 * WIDTH**2 + 2 * WIDTH * INNER) + 4 * length**2 * WIDTH)


def state_hf(folder: str, cells: int, length: int, device: str):
    import torch
    from transformers import BertForMaskedLM

    from state_hf import CellEncoder, GeneformerTokenizer
    from state_hf.configuration.geneformer import new_bert_config

    torch.manual_seed(0)
    genes = [f"ENSG{row:011}" for row in range(NUM_GENES)]
    more = [f"ENSG1{row:010}" for row in range(25_424 - NUM_GENES)]
    BertForMaskedLM(new_bert_config(vocab_size=25_426, pad_token_id=0, max_position_embeddings=length)).save_pretrained(
        folder
    )
    divisors = dict(zip(genes, medians(), strict=True)) | dict.fromkeys(more, 1.0)
    GeneformerTokenizer(genes + more, divisors, model_max_length=length).save_pretrained(folder)
    encoder = CellEncoder.from_pretrained(folder, hidden_layer=-2, device=torch.device(device))
    report = encoder.tokenizer.gene_index.report(genes, column="index")
    counts = cells_like_10x(cells)

    def embedded() -> np.ndarray:
        encoding = dict(encoder.tokenizer.encode_cells(counts, report))
        with encoder.evaluating():
            return encoder._embed_block(encoding, "cell", lambda cells: None)

    def embed() -> int:
        embedded()
        return cells

    np.save(Path(folder, "tokens.npy"), encoder.tokenizer.encode_cells(counts, report)["input_ids"].numpy())
    np.save(Path(folder, "embedding.npy"), embedded())
    return embed


def plain_loop(folder: str, cells: int, length: int, device: str):
    import torch
    from transformers import BertForMaskedLM

    model = BertForMaskedLM.from_pretrained(folder, output_hidden_states=True).eval().to(device)
    tokens = torch.from_numpy(np.load(Path(folder, "tokens.npy")))
    lengths = (tokens != 0).sum(dim=1)
    order = torch.argsort(-lengths)

    def embedded() -> torch.Tensor:
        found = torch.empty(cells, WIDTH)
        for start in range(0, cells, BATCH):
            rows = order[start : start + BATCH]
            ids = tokens[rows, : lengths[rows].max()].to(device)
            mask = (ids != 0).long()
            with torch.no_grad():
                states = model(input_ids=ids, attention_mask=mask).hidden_states[-2]
            found[rows] = ((states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)).cpu()
        return found

    difference = np.abs(embedded().numpy() - np.load(Path(folder, "embedding.npy"))).max()
    if difference > 1e-4:
        raise SystemExit(f"The embeddings differ by up to {difference}.")

    def embed() -> int:
        embedded()
        return cells

    return embed


def matrix_multiplication(folder: str, cells: int, length: int, device: str):
    import torch

    side = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device) for _ in range(2))

    def multiply() -> float:
        for _ in range(10):
            left @ right
        return 10 * 2 * side**3 / required_flops(length)

    return multiply


def claim(contest: Contest) -> None:
    length = 512 if contest.quick else 2048
    with contest.folder() as folder:
        options = {"folder": str(folder), "cells": 32, "length": length, "device": contest.device}
        contest.compare(
            f"Embed cells with a Geneformer, {length:,} tokens",
            (state_hf, plain_loop, matrix_multiplication),
            options,
            repeats=3,
            items="cells",
            note="The original cannot be installed: the loop does what its extractor does.",
        )


if __name__ == "__main__":
    main(claim)
