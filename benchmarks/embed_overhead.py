"""What `embed` costs beyond the model: reading, tokenizing, writing, against the forward passes on the same tensors.

    python benchmarks/embed_overhead.py [--data cells.h5ad] [--repeats 5]

Both run in one process, in turn; the median of the rounds' ratios is the claim (at most 1.15). On a machine that
does other work, too, look at the processor time, which the others' share does not enter, and at the time that `embed`
takes over the time that it spends inside the model in the same run.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import torch
from scipy import sparse

from state_hf import CellSentenceTokenizer, StateEmbeddingConfig, StateEmbeddingModel, embed, resolve_genes
from state_hf.pipelines.cell_embedder import BatchLimit


def realistic_cells(num_cells: int, num_genes: int, seed: int = 0) -> anndata.AnnData:
    """Counts with the wide spread of real expression: about 2,500 genes expressed, 8,000 molecules a cell."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(0.0, 2.2, num_genes)
    share /= share.sum()
    depth = rng.lognormal(np.log(8000), 0.4, num_cells)
    rows = [sparse.csr_matrix(rng.poisson(share * cell_depth).astype(np.float32)) for cell_depth in depth]
    adata = anndata.AnnData(sparse.vstack(rows, format="csr"))
    adata.var_names = [f"GENE{gene}" for gene in range(num_genes)]
    return adata


def small_model(genes: list[str], length: int) -> tuple[StateEmbeddingModel, CellSentenceTokenizer]:
    torch.manual_seed(0)
    config = StateEmbeddingConfig(
        num_genes=len(genes),
        gene_embedding_dim=320,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        output_dim=128,
        max_position_embeddings=length,
        num_datasets=2,
    )
    return StateEmbeddingModel(config).eval(), CellSentenceTokenizer(genes, model_max_length=length)


def run_forwards(model: StateEmbeddingModel, encoding: dict[str, torch.Tensor], batches: list[np.ndarray]) -> None:
    with torch.inference_mode():
        for batch in batches:
            rows = torch.from_numpy(batch)
            model(
                input_ids=encoding["input_ids"][rows], expression=encoding["expression"][rows], output_genes=False
            ).embedding.numpy()


class ForwardClock:
    """Adds up the seconds that a model spends in its forward passes."""

    def __init__(self, model: StateEmbeddingModel) -> None:
        self.seconds = 0.0
        model.register_forward_pre_hook(self.start)
        model.register_forward_hook(self.stop)

    def start(self, *_: object) -> None:
        self.seconds -= time.perf_counter()

    def stop(self, *_: object) -> None:
        self.seconds += time.perf_counter()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of processor time in all threads."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=".h5ad file with counts (default: 2,000 generated cells)")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sentence")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.data or Path(folder, "cells.h5ad")
        if arguments.data is None:
            realistic_cells(2000, 19_790).write_h5ad(path)
        adata = anndata.read_h5ad(path)
        model, tokenizer = small_model(adata.var_names.tolist(), arguments.length)
        encoding = tokenizer.encode_cells(adata.X, resolve_genes(adata.var, tokenizer))
        expressed = np.diff(sparse.csr_matrix(adata.X).indptr).mean()
        batches = list(BatchLimit.of("auto", model).batches(np.full(adata.n_obs, arguments.length)))
        output = Path(folder, "out.h5ad")
        clock_inside, rounds, inside = ForwardClock(model), [], []
        for _ in range(arguments.repeats + 1):
            forwards = timed(lambda: run_forwards(model, encoding, batches))
            clock_inside.seconds = 0.0
            whole = timed(lambda: embed(path, model, tokenizer=tokenizer, output=output, overwrite=True))
            rounds.append((forwards, whole))
            inside.append(whole[0] / clock_inside.seconds)
    print(f"{adata.n_obs:,} cells x {adata.n_vars:,} genes, {expressed:,.0f} expressed, {arguments.length} tokens")
    for at, clock in enumerate(("wall clock", "processor time")):
        forwards = np.array([forward[at] for forward, _ in rounds[1:]])  # the first round warms up
        embeds = np.array([whole[at] for _, whole in rounds[1:]])
        print(f"{clock:>14}: forward passes alone {np.median(forwards):6.2f} s   {forwards.round(2)}")
        print(f"{clock:>14}: embed, file to file  {np.median(embeds):6.2f} s   {embeds.round(2)}")
        print(f"{clock:>14}: median of the ratios {np.median(embeds / forwards):7.3f}  {(embeds / forwards).round(3)}")
    steady = np.array(inside[1:])
    print(f"  the same run: embed over the forward passes in it, median {np.median(steady):.3f}  {steady.round(3)}")


if __name__ == "__main__":
    main()
