"""Cells a second that a corpus gives from disk, cold and warm, and the memory that it takes: 10 files x 50,000 cells.

    python benchmarks/corpus_reading.py --folder FOLDER [--files 10] [--cells 50000] [--parquet]

Writes synthetic files to FOLDER (a median of some 500 genes a cell, of 5,000; about 2 GB in all), reads one pass of the
shuffled order in batches of 128 on one thread, and removes them. Cold is after the system was told to drop the
files from its cache (`posix_fadvise`), warm is the next pass. Beside it: the same files read from front to back, the
most that this storage format allows. `--parquet` reads the copy that `state-hf tokenize` makes, too.
"""

import argparse
import os
import resource
import shutil
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from state_hf import CellCorpus, StateEmbeddingTokenizer
from state_hf.data.corpus.corpus_files import open_corpus_file
from state_hf.data.corpus.corpus_manifest import CorpusFile, read_manifest
from state_hf.pipelines.tokenize import tokenize

GENES, BATCH = 5000, 128


def write(folder: Path, files: int, cells: int) -> list[CorpusFile]:
    rng = np.random.default_rng(0)
    genes = pd.DataFrame(index=[f"GENE{row}" for row in range(GENES)])
    rows = []
    for number in range(files):
        lengths = np.clip(rng.lognormal(np.log(500), 0.4, cells), 50, 2500).astype(int)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        # Each gene of a cell at a random place of its own stretch of the genes: sorted, and without repeats.
        within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
        stretch = GENES / np.repeat(lengths, lengths)
        indices = (within * stretch + rng.random(indptr[-1]) * (stretch - 1)).astype(np.int32)
        values = (1 + rng.poisson(0.7, indptr[-1])).astype(np.float32)
        path = folder / f"{number}.h5ad"
        ad.AnnData(sp.csr_matrix((values, indices, indptr), shape=(cells, GENES)), var=genes).write_h5ad(path)
        rows.append(CorpusFile(str(path), str(number)))
    return rows


def forget(files: list[CorpusFile]) -> None:
    """Let the system drop the files from memory."""
    os.sync()
    for file in files:
        handle = os.open(file.path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def resident() -> float:
    """MB of this process' own memory."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * resource.getpagesize() / 1e6


def one_pass(files: list[CorpusFile], tokenizer: StateEmbeddingTokenizer) -> tuple[float, list[float]]:
    """Cells a second, and memory at each tenth of the pass."""
    corpus = CellCorpus(files, tokenizer)
    memory, began = [], time.perf_counter()
    tenth = len(corpus) // 10
    for start in range(0, len(corpus), BATCH):
        corpus.__getitems__(range(start, min(start + BATCH, len(corpus))))
        if start // tenth > len(memory) - 1:
            memory.append(resident())
    return len(corpus) / (time.perf_counter() - began), memory


def in_order(files: list[CorpusFile]) -> float:
    """Cells a second of reading blocks from front to back."""
    number, began = 0, time.perf_counter()
    for file in files:
        with open_corpus_file(file) as cells:
            for start in range(0, cells.num_cells, 4096):
                number += cells.read(start, start + 4096).shape[0]
    return number / (time.perf_counter() - began)


def measure(name: str, files: list[CorpusFile], tokenizer: StateEmbeddingTokenizer) -> None:
    size = sum(Path(file.path).stat().st_size for file in files) / 1e9
    forget(files)
    cold, memory = one_pass(files, tokenizer)
    warm, _ = one_pass(files, tokenizer)
    forget(files)
    front = in_order(files)
    print(f"{name}: {size:.2f} GB; shuffled, cold {cold:,.0f} cells/s, warm {warm:,.0f}; in order, cold {front:,.0f}")
    print(f"  MB of memory in the first pass: {', '.join(f'{value:.0f}' for value in memory)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--cells", type=int, default=50000)
    parser.add_argument("--parquet", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder / "corpus_reading"
    folder.mkdir(parents=True)
    try:
        files = write(folder, arguments.files, arguments.cells)
        tokenizer = StateEmbeddingTokenizer([f"GENE{row}" for row in range(GENES)])
        measure("h5ad", files, tokenizer)
        if arguments.parquet:
            tokenize(files, folder / "copy", tokenizer)
            measure("parquet", read_manifest(folder / "copy" / "corpus.csv"), tokenizer)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
