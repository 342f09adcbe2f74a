"""A tokenised copy of a corpus in Parquet, to train on and for other tools."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from state_hf.configuration.advice import Advised, refuse_existing
from state_hf.data.corpus.cell_corpus import CellCorpus, CorpusCells, examples
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.data.corpus.tokenised_cells import GROUP_CELLS, tokenised_schema
from state_hf.data.whole_files import written_whole
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer
from state_hf.tokenization.text_files import read_text


def tokenize(
    files: str | Path | Sequence[CorpusFile],
    output: str | Path,
    tokenizer: GeneVocabularyTokenizer,
    *,
    min_overlap: float = 0.3,
    overwrite: bool = False,
    resume: bool = False,
) -> list[Path]:
    """Write each file of a corpus as a Parquet file, with one row a cell in the file's order.

    A row holds `gene_ids`, the rows of the vocabulary that the cell expresses, the most expressed first, and `values`,
    their values in the file's `scale`; and `dataset`, `file` and `cell`. `datasets.load_dataset("parquet", ...)` reads
    it, and so does a training: `corpus.csv` beside the files is a manifest of them, `genes.txt` their vocabulary.

    Args:
        files: A manifest's path, or its rows.
        output: Folder for the copy.
        tokenizer: With the vocabulary.
        min_overlap: See `resolve_genes`.
        overwrite: Whether files in a folder that exists are written anew.
        resume: Whether to go on with an interrupted run: files that are there are kept.

    Returns:
        The Parquet files.

    Raises:
        FileExistsError: The folder exists, is not empty, and neither `resume` nor `overwrite` is set.
        ValueError: The folder was begun with another vocabulary.
    """
    folder = Path(output)
    refuse_existing(folder, overwrite=overwrite or resume)
    vocabulary = folder / "genes.txt"
    if resume and vocabulary.is_file() and read_text(vocabulary).splitlines() != list(tokenizer.genes):
        raise ValueError(Advised(f"{folder} was begun with other genes", "write it anew (overwrite=True)"))
    folder.mkdir(parents=True, exist_ok=True)
    corpus = CellCorpus(files, tokenizer, min_overlap=min_overlap)
    tokenizer.save_vocabulary(str(folder))
    schema, paths = tokenised_schema(tokenizer.genes), []
    for number, source in enumerate(corpus.files):
        path = folder / f"{number:05d}-{Path(source.file.path).stem}.parquet"
        paths.append(path)
        if resume and path.exists():
            continue
        with written_whole(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for start in range(0, source.num_cells, GROUP_CELLS):
                matrix = sparse.csr_array(corpus.read(number, start, start + GROUP_CELLS))
                cells = np.arange(start, start + matrix.shape[0])
                rows: list[dict[str, Any]] = list(examples(CorpusCells(source, matrix, cells, cells)))
                for row in rows:
                    del row["position"]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    with written_whole(folder / "corpus.csv") as temporary, temporary.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "dataset", "species", "gene_column", "scale"])
        for path, source in zip(paths, corpus.files, strict=True):
            table.writerow([path.name, source.file.dataset, source.file.species, "index", source.file.scale])
    return paths


__all__ = ["tokenize"]
