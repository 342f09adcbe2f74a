"""Cells as sentences against a loop over cells in NumPy

    python benchmarks/cell_sentences.py [--quick]

Blocks of 256 cells: 19,790 genes, all known, about 2,500 of them expressed, every name of these written. The loop is
the rule as it is published: a cell's genes in a random order, then sorted by expression, their names joined. That both
write the same genes, by falling expression, is checked. What a language model's tokenizer then takes is its own affair.
"""

from pathlib import Path

import numpy as np
from tokenizer import NUM_GENES, cells_like_10x
from turns import Contest, main

BLOCK = 256
GENES = [f"GENE{row}" for row in range(NUM_GENES)]


def state_hf(folder: str, ours: int, theirs: int):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from state_hf import Cell2SentenceProcessor

    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({end: 0}, unk_token=end)), eos_token=end
    )
    processor = Cell2SentenceProcessor(tokenizer, GENES, num_genes=NUM_GENES)
    report = processor.gene_index.report(GENES, column="index")
    cells = cells_like_10x(ours)
    blocks = [cells[at : at + BLOCK] for at in range(0, ours, BLOCK)]
    Path(folder, "ours.txt").write_text("\n".join(processor.sentences(cells[:theirs], report)), encoding="utf-8")

    def write() -> int:
        for number, block in enumerate(blocks):
            processor.sentences(block, report, first_cell=number * BLOCK)
        return ours

    return write


def numpy_loop(folder: str, ours: int, theirs: int):
    cells, names = cells_like_10x(ours)[:theirs], np.array(GENES, dtype=object)
    written: list[str] = []

    def write() -> int:
        written.clear()
        rng = np.random.default_rng(42)
        for number in range(theirs):
            cell = cells[[number]].toarray()[0].astype(float)
            levels = np.log10(1 + cell / cell.sum() * 10_000)
            expressed = rng.permutation(np.nonzero(levels)[0])
            order = expressed[np.argsort(-levels[expressed], kind="stable")]
            written.append(" ".join(names[order]))
        return theirs

    write()
    rows = {gene: row for row, gene in enumerate(GENES)}
    mine = Path(folder, "ours.txt").read_text(encoding="utf-8").split("\n")
    for number, (our, loop) in enumerate(zip(mine, written, strict=True)):
        values = [cells[number, rows[gene]] for gene in our.split(" ")]
        if sorted(our.split(" ")) != sorted(loop.split(" ")) or (np.diff(values) > 0).any():
            raise SystemExit("The sentences differ in more than ties.")
    return write


def claim(contest: Contest) -> None:
    with contest.folder() as folder:
        options = {"folder": str(folder), "ours": 1024, "theirs": 64 if contest.quick else 256}
        contest.compare(
            "Write cells as sentences",
            (state_hf, numpy_loop),
            options,
            repeats=3 if contest.quick else 9,
            items="cells",
            note="The rule has no peer to install: the loop is a yardstick.",
        )


if __name__ == "__main__":
    main(claim)
