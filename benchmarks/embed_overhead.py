"""Embedding a file: against the forward passes alone, and command against command with arc-state

    python benchmarks/embed_overhead.py [--quick] [--device cuda]

The first case is what `embed` costs beyond the model (reading, tokenizing, writing): sentences of 512 tokens of cells
of about 2,500 expressed genes, a small model, the forward passes on the same tensors in the same batches beside it. The
second is `state-hf embed` beside `state emb transform` with the same small weights and 2,048 tokens, start-up included.
"""

from pathlib import Path

import numpy as np
from turns import Contest, command, main

NUM_GENES = 19_790


def write_cells(path: Path, num_cells: int, seed: int = 0) -> None:
    """Counts with the wide spread of real expression: about 2,500 genes expressed, 8,000 molecules a cell."""
    import anndata
    from scipy import sparse

    rng = np.random.default_rng(seed)
    share = rng.lognormal(0.0, 2.2, NUM_GENES)
    share /= share.sum()
    depth = rng.lognormal(np.log(8000), 0.4, num_cells)
    rows = [sparse.csr_matrix(rng.poisson(share * cell_depth).astype(np.float32)) for cell_depth in depth]
    adata = anndata.AnnData(sparse.vstack(rows, format="csr"))
    adata.var_names = [f"GENE{gene}" for gene in range(NUM_GENES)]
    adata.write_h5ad(path)


def write_model(folder: Path, length: int) -> None:
    import torch

    from state_hf import StateEmbeddingConfig, StateEmbeddingTokenizer
    from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression

    torch.manual_seed(0)
    config = StateEmbeddingConfig(
        num_genes=NUM_GENES,
        gene_embedding_dim=320,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        output_dim=128,
        max_position_embeddings=length,
        num_datasets=2,
    )
    StateEmbeddingForMaskedExpression(config).save_pretrained(folder)
    StateEmbeddingTokenizer([f"GENE{gene}" for gene in range(NUM_GENES)], model_max_length=length).save_pretrained(
        folder
    )


def loaded(folder: str, device: str):
    from state_hf import StateEmbeddingModel, StateEmbeddingTokenizer

    return StateEmbeddingModel.from_pretrained(folder).eval().to(device), StateEmbeddingTokenizer.from_pretrained(
        folder
    )


def state_hf(cells: str, model: str, device: str, how: str):
    output = str(Path(model, f"ours_{how}.h5ad"))
    if how == "command":
        words = ["embed", cells, "--model", model, "--output", output, "--device", device, "--overwrite"]
        return command("python", "-m", "state_hf", *words)
    from state_hf import embed

    se, tokenizer = loaded(model, device)

    def call() -> None:
        embed(cells, se, tokenizer=tokenizer, output=output, overwrite=True)

    return call


def arc_state(cells: str, model: str, device: str, how: str):
    output = str(Path(model, "theirs.h5ad"))
    return command("state", "emb", "transform", "--checkpoint", f"{model}.ckpt", "--input", cells, "--output", output)


def forward_passes(cells: str, model: str, device: str, how: str):
    import anndata
    import torch

    from state_hf import resolve_genes
    from state_hf.inference.cell_encoder import BatchLimit

    se, tokenizer = loaded(model, device)
    adata = anndata.read_h5ad(cells)
    encoding = tokenizer.encode_cells(adata.X, resolve_genes(adata.var, tokenizer))
    lengths = np.full(adata.n_obs, tokenizer.model_max_length)
    batches = [torch.from_numpy(batch) for batch in BatchLimit.of("auto", se).batches(lengths)]

    def call() -> None:
        with torch.inference_mode():
            for rows in batches:
                ids, expression = (encoding[name][rows].to(device) for name in ("input_ids", "expression"))
                se(input_ids=ids, expression=expression, output_genes=False).embedding.cpu()

    return call


def claim(contest: Contest) -> None:
    from state_hf import convert_to_arc

    with contest.folder() as folder:
        many, few = (200, 32) if contest.quick else (1000, 200)
        for num_cells, length, how, other in (
            (many, 512, "in process", forward_passes),
            (few, 2048, "command", arc_state),
        ):
            cells, model = folder / f"cells_{num_cells}.h5ad", folder / f"small_{length}"
            write_cells(cells, num_cells)
            write_model(model, length)
            if how == "command":
                convert_to_arc(model, model.with_suffix(".ckpt"), overwrite=True)
            contest.compare(
                f"Embed a file of {num_cells:,} cells, {length:,} tokens, {how}",
                (state_hf, other),
                {"cells": str(cells), "model": str(model), "device": contest.device, "how": how},
                repeats=1 if contest.quick else (4 if how == "in process" else 2),
                warm_up=1 if how == "in process" else 0,
            )


if __name__ == "__main__":
    main(claim)
