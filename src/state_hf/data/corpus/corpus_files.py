"""What is known of each file of a corpus before its cells are read: cells, genes, scale."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.data.corpus.tokenised_cells import TokenisedCells
from state_hf.data.whole_files import written_whole
from state_hf.tokenization.gene_names import GeneReport, resolve_genes
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer
from state_hf.tokenization.input_scale import SCALE_SAMPLE, check_input_type

# Changes with how genes are looked up, so that what was kept before is found out anew.
_CACHE_VERSION = 2


@dataclass(frozen=True, eq=False)
class IndexedFile:
    """A file of a corpus, looked into once.

    Attributes:
        file: The manifest's row.
        num_cells: Number of cells.
        genes: Which gene of the vocabulary each column is.
    """

    file: CorpusFile
    num_cells: int
    genes: GeneReport


def open_corpus_file(file: CorpusFile) -> CellMatrix:
    """Open a file for reading blocks in any order."""
    if file.path.endswith(".parquet"):
        return TokenisedCells(file.path).expression()
    return open_cells(file.path).expression(file.layer)


def corpus_genes(files: Sequence[CorpusFile]) -> list[str]:
    """Every gene name of some files, sorted: the vocabulary of a model whose gene embeddings are learnt."""
    names: set[str] = set()
    for file in files:
        with open_corpus_file(file) as cells:
            column = file.gene_column
            values = cells.var.index if column in (None, "index") else cells.var[column]
            names.update(name for name in values.astype(str) if name and len(name.split()) == 1)
    return sorted(names)


def check_corpus_scale(block: Any, file: CorpusFile) -> None:
    """Hold cells of a file against the scale that the manifest gives.

    Raises:
        ValueError: They are of another.
    """
    check_input_type(
        block,
        file.scale,
        declare="write {scale} into the column `scale` of the manifest",
        instead="name the layer with counts or log1p values in its column `layer`",
    )


def index_files(
    files: Sequence[CorpusFile],
    tokenizer: GeneVocabularyTokenizer,
    *,
    min_overlap: float,
    cache: str | Path | None,
) -> list[IndexedFile]:
    """Look into every file, or into the cache where the file has not changed since.

    Args:
        files: The manifest.
        tokenizer: With the vocabulary.
        min_overlap: See `resolve_genes`.
        cache: Folder that keeps what was found, one small file for each; None for no cache.

    Raises:
        ValueError: A file has too few genes of the vocabulary, or values that are not of its scale; it is named.
    """
    vocabulary = hashlib.sha256("\n".join(tokenizer.genes).encode()).hexdigest()
    if cache is not None:
        Path(cache).mkdir(parents=True, exist_ok=True)
    return [_index(file, tokenizer, min_overlap, None if cache is None else Path(cache), vocabulary) for file in files]


def _index(
    file: CorpusFile, tokenizer: GeneVocabularyTokenizer, min_overlap: float, cache: Path | None, vocabulary: str
) -> IndexedFile:
    with open_corpus_file(file) as cells:
        kept = None
        if cache is not None:
            aliases = tokenizer.gene_index.aliases
            state = (
                _CACHE_VERSION,
                file,
                min_overlap,
                cells.cells.fingerprint(),
                cells.num_features,
                vocabulary,
                "" if aliases is None else aliases.text,
            )
            kept = cache / f"{hashlib.sha256(repr(state).encode()).hexdigest()}.npz"
            if kept.exists():
                return _from_cache(file, kept, len(tokenizer.genes))
        try:
            genes = resolve_genes(cells.var, tokenizer, gene_column=file.gene_column, min_overlap=min_overlap)
            check_corpus_scale(cells.sample(SCALE_SAMPLE), file)
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from error
        if kept is not None:
            arrays: dict[str, Any] = {"cells": cells.num_cells, "columns": genes.columns, "names": list(genes.names)}
            # Under the temporary name, NumPy would add a suffix to a path.
            with written_whole(kept) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, **arrays, column=genes.column)
        return IndexedFile(file, cells.num_cells, genes)


def _from_cache(file: CorpusFile, kept: Path, vocabulary_size: int) -> IndexedFile:
    with np.load(kept, allow_pickle=False) as arrays:
        genes = GeneReport(
            columns=arrays["columns"],
            names=tuple(arrays["names"].tolist()),
            column=str(arrays["column"]),
            vocabulary_size=vocabulary_size,
        )
        return IndexedFile(file, int(arrays["cells"]), genes)


__all__ = ["IndexedFile", "check_corpus_scale", "corpus_genes", "index_files", "open_corpus_file"]
