"""Geneformer's tokenizer against the original's steps, and against a loop over cells in NumPy

    python benchmarks/rank_values.py [--quick]

Blocks of 256 cells: 19,790 genes, all known, about 2,500 of them expressed, 2,048 tokens a cell. The original's steps:
a block of 512 cells over their totals and the medians as a sparse matrix, the values of each cell sorted, all cells
made into a `datasets.Dataset`, and that cut to the length by `map`. The loop is the rule alone: a cell's counts over
its total and the medians, sorted. That all give the same tokens is checked.
"""

from pathlib import Path

import numpy as np
from tokenizer import NUM_GENES, cells_like_10x
from turns import Contest, main

BLOCK = 256
LENGTH = 2048


def medians() -> np.ndarray:
    return np.random.default_rng(1).lognormal(1, 0.6, NUM_GENES)


def state_hf(folder: str, ours: int, theirs: int):
    from state_hf import GeneformerTokenizer

    genes = [f"ENSG{row:011}" for row in range(NUM_GENES)]
    tokenizer = GeneformerTokenizer(genes, dict(zip(genes, medians(), strict=True)), model_max_length=LENGTH)
    report = tokenizer.gene_index.report(genes, column="index")
    cells = cells_like_10x(ours)
    blocks = [cells[at : at + BLOCK] for at in range(0, ours, BLOCK)]
    np.save(Path(folder, "ours.npy"), tokenizer.encode_cells(cells[:theirs], report)["input_ids"].numpy())

    def encode() -> int:
        for block in blocks:
            tokenizer.encode_cells(block, report)
        return ours

    return encode


def numpy_loop(folder: str, ours: int, theirs: int):
    cells, divisors = cells_like_10x(ours)[:theirs], medians()

    def encode() -> int:
        tokenized.clear()
        for number in range(theirs):
            cell = cells[[number]].toarray()[0].astype(float)
            normalised = cell / cell.sum() * 10_000 / divisors
            expressed = np.nonzero(normalised)[0]
            tokenized.append((expressed[np.argsort(-normalised[expressed], kind="stable")] + 2)[:LENGTH])
        return theirs

    tokenized: list[np.ndarray] = []
    encode()
    for mine, loop in zip(np.load(Path(folder, "ours.npy")), tokenized, strict=True):
        if not np.array_equal(mine[: len(loop)], loop) or mine[len(loop) :].any():
            raise SystemExit("The tokens differ.")
    return encode


def steps_of_the_original(folder: str, ours: int, theirs: int):
    import datasets
    import scipy.sparse as sp

    datasets.disable_progress_bars()
    datasets.disable_caching()
    cells, divisors = sp.csr_matrix(cells_like_10x(ours)[:theirs]), medians()
    totals, tokens = np.asarray(cells.sum(axis=1), np.float64), np.arange(NUM_GENES) + 2

    def cut(cell):
        return {"input_ids": cell["input_ids"][:LENGTH], "length": min(cell["length"], LENGTH)}

    def encode() -> int:
        ranked = []
        for start in range(0, theirs, 512):
            block = slice(start, start + 512)
            normalised = sp.csr_matrix(cells[block] / totals[block] * 10_000 / divisors)
            for number in range(normalised.shape[0]):
                cell = normalised[number]
                ranked.append(tokens[cell.indices][np.argsort(-cell.data, kind="stable")])
        whole = datasets.Dataset.from_dict({"input_ids": ranked, "length": [len(cell) for cell in ranked]})
        tokenized.append(whole.map(cut))
        return theirs

    tokenized: list[datasets.Dataset] = []
    encode()
    for mine, cell in zip(np.load(Path(folder, "ours.npy")), tokenized.pop(), strict=True):
        if not np.array_equal(mine[: cell["length"]], cell["input_ids"]):
            raise SystemExit("The tokens differ.")
    return encode


def claim(contest: Contest) -> None:
    with contest.folder() as folder:
        options = {"folder": str(folder), "ours": 1024, "theirs": 256 if contest.quick else 1024}
        contest.compare(
            "Tokenize cells",
            (state_hf, steps_of_the_original),
            options,
            repeats=3 if contest.quick else 9,
            items="cells",
            note="The original cannot be installed: these are its steps, with the libraries that it takes for them.",
        )
        contest.compare(
            "Rank the genes of cells",
            (state_hf, numpy_loop),
            options,
            repeats=3 if contest.quick else 9,
            items="cells",
            note="The rule has no peer to install: the loop is a yardstick.",
        )


if __name__ == "__main__":
    main(claim)
