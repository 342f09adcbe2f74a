"""Cells a second of reading a corpus and making pretraining batches, against arc-state's collator in the same run.

    python benchmarks/pretraining_collator.py --peer-python PATH [--turns 5]

Four files of 2,000 synthetic cells over 19,790 genes (a median of some 2,500 expressed, as 10x cells), on one thread;
batches of 64, 512 expressed, 512 unexpressed and 512 shared targets, sentences of 2,048 tokens. The peer is
`VCIDatasetSentenceCollator` with `is_train=True`, given dense rows in memory; ours reads the files too.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NUM_GENES, BATCH, PEER_CELLS = 19790, 64, 128


def counts(cells: int, seed: int):
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    rates = rng.lognormal(0.0, 1.5, NUM_GENES)
    rates *= 8000 / rates.sum()
    return sp.vstack(
        [sp.csr_matrix(rng.poisson(rates * rng.lognormal(0, 0.3)).astype(np.float32)) for _ in range(cells)]
    )


def serve_peer(folder: Path) -> None:
    import scipy.sparse as sp
    import state
    import torch
    from omegaconf import OmegaConf
    from state.emb.data.loader import VCIDatasetSentenceCollator

    torch.set_num_threads(1)
    config = OmegaConf.load(Path(state.__file__).with_name("configs") / "state-defaults.yaml")
    genes = {"cells": np.ones(NUM_GENES, bool)}, {"cells": np.arange(NUM_GENES)}
    collator = VCIDatasetSentenceCollator(config, valid_gene_mask=genes[0], ds_emb_mapping_inference=genes[1])
    cells = torch.as_tensor(sp.load_npz(folder / "peer.npz").toarray())
    items = [(cell[None], at, "cells", 0) for at, cell in enumerate(cells)]
    for _ in sys.stdin:
        start = time.perf_counter()
        for at in range(0, len(items), BATCH):
            collator(items[at : at + BATCH])
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--serve-peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_peer:
        serve_peer(arguments.serve_peer)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp
    import torch

    from state_hf import CellCorpus, ExpressionTargets, StateEmbeddingTokenizer
    from state_hf.data.corpus.corpus_manifest import CorpusFile

    torch.set_num_threads(1)
    genes = [f"GENE{row}" for row in range(NUM_GENES)]
    files = []
    for number in range(4):
        data = ad.AnnData(counts(arguments.cells, number), var=pd.DataFrame(index=genes))
        data.write_h5ad(folder / f"{number}.h5ad")
        files.append(CorpusFile(str(folder / f"{number}.h5ad"), str(number)))
    sp.save_npz(folder / "peer.npz", data.X[:PEER_CELLS])
    tokenizer = StateEmbeddingTokenizer(genes)
    corpus = CellCorpus(files, tokenizer)
    collator = ExpressionTargets(tokenizer, shared=512, dataset_classes={str(n): n for n in range(4)})
    position = 0

    def batches(number: int) -> tuple[float, float]:
        nonlocal position
        reading, start = 0.0, time.perf_counter()
        for _ in range(number):
            began = time.perf_counter()
            cells = corpus.__getitems__(range(position, position + BATCH))
            reading += time.perf_counter() - began
            collator(cells)
            position += BATCH
        return number * BATCH / (time.perf_counter() - start), number * BATCH / reading

    batches(2)
    peer, rows = None, []
    if arguments.peer_python:
        command = [str(arguments.peer_python), __file__, "--serve-peer", str(folder)]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(arguments.turns):
        theirs = float("nan")
        if peer is not None and peer.stdin is not None and peer.stdout is not None:
            peer.stdin.write("\n")
            peer.stdin.flush()
            theirs = PEER_CELLS / float(peer.stdout.readline())
        whole, reading = batches(20)
        rows.append(
            {
                "state-hf, read and collated": whole,
                "reading alone": reading,
                "collating alone": 1 / (1 / whole - 1 / reading),
                "arc-state, collating alone": theirs,
                "ratio, read and collated": whole / theirs,
                "ratio, collating alone": 1 / (1 / whole - 1 / reading) / theirs,
            }
        )
    if peer is not None and peer.stdin is not None:
        peer.stdin.close()
        peer.wait()
    print(pd.DataFrame(rows).median().round(1).to_string())


if __name__ == "__main__":
    main()
