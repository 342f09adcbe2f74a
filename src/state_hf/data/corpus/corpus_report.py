"""What a corpus holds, and what is wrong with it, before a model trains on it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from state_hf.data.corpus.corpus_files import check_corpus_scale, open_corpus_file
from state_hf.data.corpus.corpus_manifest import CorpusFile, read_manifest
from state_hf.tokenization.gene_names import resolve_genes
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer

_BLOCK_CELLS = 4096


@dataclass(frozen=True)
class FileReport:
    """What one file of a corpus holds.

    Attributes:
        path: The file.
        dataset: Its dataset.
        cells: Number of cells.
        genes: Genes of the file.
        kept: Of these, genes of the vocabulary.
        overlap: Share of the genes that could match and do.
        scale: "counts" or "log1p", as the manifest says and the values bear out.
        median_genes: Median number of kept genes that a cell expresses.
        empty_cells: Cells that express none of them.
        duplicate_cells: Cells with the same kept expression as one before, in this file or an earlier one.
        problem: Why the file cannot be trained on; "" if it can.
    """

    path: str
    dataset: str
    cells: int = 0
    genes: int = 0
    kept: int = 0
    overlap: float = 0.0
    scale: str = ""
    median_genes: float = 0.0
    empty_cells: int = 0
    duplicate_cells: int = 0
    problem: str = ""


def check_corpus(
    files: str | Path | Sequence[CorpusFile], tokenizer: GeneVocabularyTokenizer, *, min_overlap: float = 0.3
) -> pd.DataFrame:
    """Read every file of a corpus once, in blocks.

    Memory is one block and 16 bytes a cell, by which equal cells are found.

    Args:
        files: A manifest's path, or its rows.
        tokenizer: With the vocabulary.
        min_overlap: See `resolve_genes`.

    Returns:
        One row a file, with the fields of `FileReport`.
    """
    rows = read_manifest(files) if isinstance(files, str | Path) else files
    seen: set[bytes] = set()
    return pd.DataFrame([asdict(_check(file, tokenizer, min_overlap, seen)) for file in rows])


def _check(file: CorpusFile, tokenizer: GeneVocabularyTokenizer, min_overlap: float, seen: set[bytes]) -> FileReport:
    try:
        with open_corpus_file(file) as cells:
            genes = resolve_genes(cells.var, tokenizer, gene_column=file.gene_column, min_overlap=min_overlap)
            lengths, duplicates = [], 0
            for start in range(0, cells.num_cells, _BLOCK_CELLS):
                block = cells.block(start, start + _BLOCK_CELLS)
                check_corpus_scale(block, file)
                block.sum_duplicates()
                kept = (genes.columns[block.indices] >= 0) & (block.data > 0)
                places, values = genes.columns[block.indices], block.data.astype(np.float32)
                for row in range(block.shape[0]):
                    inside = slice(block.indptr[row], block.indptr[row + 1])
                    own = np.flatnonzero(kept[inside])
                    lengths.append(len(own))
                    order = own[np.argsort(places[inside][own])]
                    content = places[inside][order].tobytes() + values[inside][order].tobytes()
                    digest = hashlib.blake2b(content, digest_size=16).digest()
                    duplicates += len(own) > 0 and digest in seen
                    seen.add(digest)
            return FileReport(
                path=file.path,
                dataset=file.dataset,
                cells=cells.num_cells,
                genes=cells.num_features,
                kept=len(genes.genes),
                overlap=genes.overlap,
                scale=file.scale,
                median_genes=float(np.median(lengths)),
                empty_cells=lengths.count(0),
                duplicate_cells=duplicates,
            )
    except (ValueError, OSError) as error:
        return FileReport(path=file.path, dataset=file.dataset, scale=file.scale, problem=str(error))


__all__ = ["FileReport", "check_corpus"]
