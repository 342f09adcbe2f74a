"""A tokenizer of ranks for one's own cells: the medians that expression is divided by, taken over a corpus."""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.configuration.model_folders import loading_from
from state_hf.data.corpus.cell_corpus import CellCorpus
from state_hf.data.corpus.corpus_files import corpus_genes
from state_hf.data.corpus.corpus_manifest import CorpusFile, read_manifest
from state_hf.data.corpus.nonzero_medians import MAX_PASSES, NonzeroMedians
from state_hf.data.whole_files import folder_written_whole
from state_hf.families import FAMILIES, auto_classes
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.tokenization.cell_matrix import as_csr, inspected, with_columns_summed
from state_hf.tokenization.rank_values import RankValueTokenizer

_BLOCK_CELLS = 4096
# A killed search loses at most so many cells of work, which are some tens of seconds.
_KEPT_CELLS = 1_000_000
_STATE = "search.npz"
# Token ids of a new tokenizer; those of the genes follow.
_SPECIAL_IDS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}


@dataclass(frozen=True, eq=False)
class FittedMedians:
    """What a search for medians found. `str()` says it in words.

    Attributes:
        folder: Where the tokenizer lies.
        tokenizer: The tokenizer with the medians.
        cells: Cells of the corpus.
        cells_of_genes: (genes,) int64, in how many cells each gene of the vocabulary is expressed.
        kept: Genes whose former medians were kept, since too few cells of the corpus express them.
        former: (genes,) float64 medians of the tokenizer that was given, NaN for none; None for a new tokenizer.
        relative_error: The largest error of a median, as a share of it.
    """

    folder: Path
    tokenizer: RankValueTokenizer
    cells: int
    cells_of_genes: np.ndarray
    kept: int
    former: np.ndarray | None
    relative_error: float

    def __str__(self) -> str:
        medians = self.tokenizer.medians
        known = np.isfinite(medians)
        lines = [
            f"{self.cells:,} cells; {known.sum():,} of {len(medians):,} genes have a median, from "
            f"{np.nanmin(medians):.4g} to {np.nanmax(medians):.4g} counts per 10,000"
        ]
        lines.append(f"relative error: at most {self.relative_error:.2g}" if self.relative_error else "exact")
        if self.former is not None:
            both = known & np.isfinite(self.former)
            low, middle, high = np.quantile(medians[both] / self.former[both], [0.05, 0.5, 0.95]).tolist()
            lines.append(
                f"over the former medians: {middle:.2f} (a tenth of the genes is below {low:.2f} or above {high:.2f}); "
                f"{self.kept:,} former ones were kept"
            )
        return "\n".join(lines)


def fit_medians(
    manifest: str | Path | Sequence[CorpusFile],
    output: str | Path,
    *,
    tokenizer: str | Path | RankValueTokenizer | None = None,
    family: str | None = None,
    passes: int = MAX_PASSES,
    min_cells: int = 1,
    keep_former: bool = False,
    max_length: int | None = None,
    min_overlap: float = 0.3,
    resume: bool = False,
    overwrite: bool = False,
) -> FittedMedians:
    """Take the medians of genes' non-zero counts per 10,000 over a corpus, and write a tokenizer that divides by them.

    The total of a cell is over all genes of its file, whatever the vocabulary has of them. Cells are read in blocks,
    once a pass; memory does not grow with their number.

    Args:
        manifest: The files, see `read_manifest`. log1p values are undone, and taken per 10,000 of their sum.
        output: Folder for the tokenizer: `genes.txt`, `gene_medians.tsv` and what else `from_pretrained` reads.
        tokenizer: A tokenizer with medians (folder or hub id), whose vocabulary, names and options stay as they are.
        family: Instead of a tokenizer, the family of a new one. It has the genes of the files, and `<cls>` and `<eos>`.
        passes: How often the cells are read: 1 for a relative error of at most 1/128, 2 for 2^-16, 3 for none.
        min_cells: A gene that fewer cells express has no median (and no token in a new tokenizer).
        keep_former: Whether such genes keep the median that the given tokenizer has; else it never reads them.
        max_length: Most tokens of a cell. Default: the given tokenizer's; 4,096 for a new one.
        min_overlap: Smallest share of a file's genes that must be in the vocabulary, see `resolve_genes`.
        resume: Go on with an interrupted search with the same settings.
        overwrite: Replace a folder that exists, and throw away an unfinished search.

    Returns:
        The tokenizer, and what the medians were taken from.

    Raises:
        FileExistsError: The output exists, or an unfinished search.
        ValueError: The options do not fit each other, or a file the vocabulary; or no gene has a median.
    """
    target = ResumableOutput(Path(output), resume=resume, overwrite=overwrite)
    target.refuse_existing()
    if not 1 <= passes <= MAX_PASSES or min_cells < 1:
        raise ValueError(f"passes is from 1 to {MAX_PASSES}, and min_cells 1 or more; they are {passes}, {min_cells}")
    if (tokenizer is None) == (family is None):
        raise ValueError(
            Advised(
                "medians are of a tokenizer that there is, or of a new one",
                "give the first (tokenizer=...)",
                "name the family of the second (family=...)",
            )
        )
    if keep_former and tokenizer is None:
        raise ValueError(Advised("a new tokenizer has no former medians to keep", "give one that has (tokenizer=...)"))
    files = read_manifest(manifest) if isinstance(manifest, str | Path) else list(manifest)
    copies = [file.path for file in files if file.path.endswith(".parquet")]
    if copies:
        raise ValueError(
            f"{copies[0]} is a tokenised copy, which holds the genes of a vocabulary alone, so that the totals of its "
            "cells are not known: name the files that it was made of"
        )
    given = None if tokenizer is None else _given(tokenizer)
    former = _new(str(family), corpus_genes(files)) if given is None else given
    corpus = CellCorpus(files, former, min_overlap=min_overlap)
    search = NonzeroMedians(len(former.genes))
    _search(search, corpus, former, target, passes)
    medians = search.medians()
    medians[search.number < min_cells] = np.nan
    if not np.isfinite(medians).any():
        raise ValueError(f"no gene is expressed in {min_cells:,} of the {len(corpus):,} cells")
    unseen = np.isnan(medians) & np.isfinite(former.medians)
    if keep_former:
        medians = np.where(unseen, former.medians, medians)
    made = _with_medians(former, medians, is_new=given is None, max_length=max_length)
    number = search.number if given is not None else search.number[np.isfinite(medians)]
    with folder_written_whole(target.path, overwrite=True) as unfinished:
        made.save_pretrained(unfinished)
    target.delete_partial()
    kept = int(unseen.sum()) if keep_former else 0
    was = None if given is None else given.medians
    return FittedMedians(target.path, made, len(corpus), number, kept, was, search.relative_error)


def _given(tokenizer: str | Path | RankValueTokenizer) -> RankValueTokenizer:
    loaded: Any = tokenizer
    if isinstance(tokenizer, str | Path):
        with loading_from(tokenizer):
            loaded = AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False)
    if not isinstance(loaded, RankValueTokenizer):
        raise ValueError(f"{tokenizer} is a {type(loaded).__name__}, which divides by no medians")
    return loaded


def _new(family: str, genes: Sequence[str]) -> RankValueTokenizer:
    dividing: dict[str, Any] = {}
    for name in FAMILIES:
        module, class_name = auto_classes(name).get("AutoTokenizer", ("", ""))
        found: Any = getattr(importlib.import_module(module), class_name) if module else object
        if issubclass(found, RankValueTokenizer):
            dividing[name] = found
    if family not in dividing:
        raise ValueError(f"family is {family!r}; those whose tokenizers divide by medians are {', '.join(dividing)}")
    return dividing[family](genes, dict.fromkeys(genes, 1.0), special_ids=_SPECIAL_IDS, model_max_length=4096)


def _search(
    search: NonzeroMedians, corpus: CellCorpus, tokenizer: RankValueTokenizer, target: ResumableOutput, passes: int
) -> None:
    """Read the cells so often, or what an interrupted search has left of that."""
    settings = {
        "files": [asdict(file.file) for file in corpus.files],
        "cells": corpus.file_sizes.tolist(),
        "genes": hashlib.sha256("\n".join(tokenizer.genes).encode()).hexdigest(),
        "passes": passes,
    }
    target.take_up({"": settings})
    target.start(settings, num_rows=1, block_rows=1)
    state = target.partial / _STATE
    position = search.load(state) if state.exists() else {"file": 0, "cell": 0}
    before = search.finished_passes * len(corpus) + int(corpus.file_sizes[: position["file"]].sum()) + position["cell"]
    since = 0
    with logging.tqdm(total=passes * len(corpus), initial=before, unit=" cells", desc="medians") as bar:
        while search.finished_passes < passes:
            for number in range(position["file"], len(corpus.files)):
                source = corpus.files[number]
                for start in range(position["cell"], source.num_cells, _BLOCK_CELLS):
                    stop = min(start + _BLOCK_CELLS, source.num_cells)
                    is_counts = source.file.scale == "counts"
                    cells, _ = inspected(as_csr(corpus.read(number, start, stop)), source.genes)
                    if source.genes.summed:
                        cells = with_columns_summed(cells, source.genes, is_counts=is_counts)
                    try:
                        search.add(cells, source.genes.columns, is_counts=is_counts)
                    except ValueError as error:
                        raise ValueError(f"{source.file.path}, cells {start} to {stop - 1}: {error}") from error
                    bar.update(stop - start)
                    since += stop - start
                    if since >= _KEPT_CELLS:
                        search.save(state, {"file": number, "cell": stop})
                        since = 0
                position["cell"] = 0
            position = {"file": 0, "cell": 0}
            search.finish_pass()


def _with_medians(
    former: RankValueTokenizer, medians: np.ndarray, *, is_new: bool, max_length: int | None
) -> RankValueTokenizer:
    """The tokenizer with other medians; a new one has a token for genes with a median alone."""
    known = {gene: value for gene, value in zip(former.genes, medians.tolist(), strict=True) if value > 0}
    length = former.model_max_length if max_length is None else max_length
    options = {**former.init_kwargs, "special_ids": former.special_ids, "model_max_length": length}
    for name in ("vocab_file", "medians_file", "aliases_file", "name_or_path", "tokenizer_file"):
        options.pop(name, None)
    genes = list(known) if is_new else former.genes
    return type(former)(genes, known, former.gene_index.aliases, **options)


__all__ = ["FittedMedians", "fit_medians"]
