"""Rank-value encoding: a cell as its expressed genes, those first that stand out most from their usual expression.

A gene's rank is that of its expression over its non-zero median, which was taken over a corpus of cells (Theodoris et
al. 2023, doi:10.1038/s41586-023-06139-9). The depth of a cell divides all of its genes alike, so ranks do not depend
on it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from transformers import BatchEncoding

from state_hf.tokenization import _rank_value_kernels
from state_hf.tokenization.cell_matrix import over_cells
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.gene_changes import GENE_CHANGES, GeneChange, change_genes
from state_hf.tokenization.gene_names import GeneReport
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer, read_genes
from state_hf.tokenization.text_files import read_text

# So many cells' keys stay in the processor's cache between writing, sorting and reading them.
_CELLS_AT_ONCE = 16
_MEDIAN_FIELDS = ("gene", "median")


def rank_genes(
    cells: sp.csr_array,
    columns: np.ndarray,
    divisors: np.ndarray,
    *,
    is_counts: bool,
    first_id: int,
    pad_id: int,
    ids: np.ndarray,
) -> np.ndarray:
    """Write the genes of every cell by falling expression over a value of each gene.

    Args:
        cells: (cells, dataset genes) values, a gene at most once above 0.
        columns: (dataset genes,) the vocabulary row of every column, -1 for none.
        divisors: (genes,) float64; a gene with NaN is left out.
        is_counts: Whether the values are counts; else they are log1p of normalised ones, and undone first.
        first_id: Token id of the vocabulary's first gene.
        pad_id: What stands behind a cell's genes.
        ids: (cells, most) int64, written.

    Returns:
        (cells,) how many genes of each are in `ids`.
    """
    counts = np.zeros(cells.shape[0], np.int64)
    of_columns = np.where((columns >= 0) & (divisors[columns] > 0), divisors[columns], np.nan)

    def write(start: int, stop: int) -> None:
        lengths = np.diff(cells.indptr[start : stop + 1])
        space = np.empty((_CELLS_AT_ONCE, int(lengths.max(initial=0))), np.uint32)
        for begin in range(start, stop, _CELLS_AT_ONCE):
            end = min(stop, begin + _CELLS_AT_ONCE)
            width = int(lengths[begin - start : end - start].max())
            keys = space[: end - begin, :width]
            matrix = cells.data, cells.indices, cells.indptr, of_columns, is_counts
            # One more than the places: the largest number is that of no rank.
            block = (begin, *matrix, (width + 1).bit_length(), keys, counts)
            _rank_value_kernels.write_ratio_keys(*block)
            keys.sort(axis=1)
            _rank_value_kernels.write_ranked_ids(*block, columns, first_id, pad_id, ids)

    over_cells(write, cells.shape[0])
    return np.minimum(counts, ids.shape[1])


class RankValueTokenizer(GeneVocabularyTokenizer):
    """A tokenizer of cells as lists of genes, ranked by expression over the genes' medians.

    Of equal ratios, the gene that comes first in the vocabulary is first, whatever the order of the dataset's columns.
    Where there is a `<cls>`, it stands before the genes, and `<eos>` after them.

    Args:
        vocab_file: `genes.txt`, one gene a line in the order of their token ids; or the list of genes itself.
        medians_file: `gene_medians.tsv`, tab-separated with the columns `gene` and `median`; or {gene: median}. Genes
            without a median are never read.
        aliases_file: `gene_aliases.tsv`, other names of genes.
        special_ids: The special tokens and their ids, which surround those of the genes.
        **kwargs: See `GeneVocabularyTokenizer`.
    """

    vocab_files_names = {  # noqa: RUF012
        **GeneVocabularyTokenizer.vocab_files_names,
        "medians_file": "gene_medians.tsv",
    }
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    gene_changes: ClassVar[tuple[GeneChange, ...]] = GENE_CHANGES

    def __init__(
        self,
        vocab_file: str | Path | Sequence[str] | None,
        medians_file: str | Path | Mapping[str, float] | None,
        aliases_file: str | Path | AliasTable | None = None,
        *,
        special_ids: Mapping[str, int],
        **kwargs: Any,
    ) -> None:
        place = kwargs.get("name_or_path")
        genes = read_genes(type(self), vocab_file, place)
        self._special_ids = dict(special_ids)
        self.medians = _medians(genes, medians_file, place)
        if isinstance(aliases_file, str | Path):
            aliases_file = AliasTable.from_file(aliases_file)
        ids = sorted(self._special_ids.values())
        taken = {*ids, *range(self.first_gene_id, self.first_gene_id + len(genes))}
        if taken != set(range(len(ids) + len(genes))):
            raise ValueError(f"special_ids {self._special_ids} do not surround the ids of {len(genes):,} genes.")
        named = {f"{token.strip('<>')}_token": token for token in self._special_ids}
        super().__init__(genes, aliases_file, special_ids=self._special_ids, **{**kwargs, **named})

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens and their ids."""
        return self._special_ids

    @property
    def first_gene_id(self) -> int:
        """The first id that no special token has."""
        return next(number for number in range(len(self._special_ids) + 1) if number not in self._special_ids.values())

    def _vocabulary_files(self) -> dict[str, str]:
        known = ((gene, median) for gene, median in zip(self.genes, self.medians.tolist(), strict=True) if median > 0)
        lines = ["\t".join(_MEDIAN_FIELDS), *(f"{gene}\t{median!r}" for gene, median in known)]
        return super()._vocabulary_files() | {"medians_file": "\n".join(lines) + "\n"}

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put `<cls>` before a cell's genes and `<eos>` after them, where there are such. There are no pairs."""
        if token_ids_1 is not None:
            raise ValueError("A cell is one list of genes: text pairs have no meaning here.")
        before, after = self._frame
        return [*before, *token_ids_0, *after]

    @property
    def _frame(self) -> tuple[list[int], list[int]]:
        """Ids of the tokens before and after a cell's genes."""
        ids = self._special_ids
        before, after = ([ids[token]] if token in ids else [] for token in ("<cls>", "<eos>"))
        return before, after

    def _genes_that_fit(self, length: int) -> int:
        most = length - sum(map(len, self._frame))
        if most < 1:
            raise ValueError(f"max_length is {length}, which leaves no room for a gene beside the special tokens.")
        return most

    def _framed(self, number: int, most: int, write: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        """The model's inputs for cells whose genes are written into (number, most) ids, which returns how many each."""
        before, after = self._frame
        # In one piece, since the system takes longer to hand out two of half the size.
        ids, mask = np.empty((2, number, len(before) + most + len(after)), np.int64)
        counts = write(ids[:, len(before) : len(before) + most])
        ids[:, : len(before)] = before
        ids[:, len(before) + most :] = self.pad_token_id
        for offset, token in enumerate(after):
            ids[np.arange(number), len(before) + counts + offset] = token
        lengths = len(before) + counts + len(after)
        _rank_value_kernels.write_mask(lengths, mask)
        return {"input_ids": ids, "attention_mask": mask}

    def _encode_block(
        self,
        cells: sp.csr_array,
        expressed: np.ndarray,
        report: GeneReport,
        *,
        is_counts: bool,
        seed: int,
        first_cell: int,
        length: int,
        **own: Any,
    ) -> dict[str, np.ndarray]:
        def write(ids: np.ndarray) -> np.ndarray:
            options = {"is_counts": is_counts, "first_id": self.first_gene_id, "pad_id": self.pad_token_id, "ids": ids}
            counts = rank_genes(cells, report.columns, self.medians, **options)
            if not counts.all():
                empty = np.flatnonzero(counts == 0)
                raise ValueError(
                    f"{len(empty):,} of {len(counts):,} cells express no gene of the vocabulary, so there is nothing "
                    f"to encode; the first is cell {first_cell + empty[0]}. Leave them out of the data."
                )
            return counts

        most = min(self._genes_that_fit(length), int(expressed.max(initial=0)))
        return self._framed(cells.shape[0], most, write)

    def set_genes(
        self,
        encoding: Mapping[str, Any],
        rows: Any,
        change: GeneChange,
        *,
        level: float | None = None,
        max_length: int | None = None,
    ) -> BatchEncoding:
        """The encodings of cells in which genes are perturbed.

        A deleted gene's token is taken out, so that the others move up. With a level, a gene goes to the rank of that
        level, an overexpressed one first; if the cell did not have it, the cell is one longer, and what then exceeds
        `max_length` goes at the end. A gene that a cell lacks cannot be deleted or inhibited: the cell stays.

        Args:
            encoding: Of `encode_cells`.
            rows: Vocabulary rows of the genes: (genes,) for all cells, or (cells, genes) with -1 for none. Several are
                perturbed together; those of one level come in this order.
            change: One of `gene_changes`, see `gene_changes.py`.
            level: Of the change "level": the share of the cell's other genes that are ranked below, in [0, 1].
            max_length: Most tokens of a cell; by default the tokenizer's `model_max_length`.

        Returns:
            `input_ids` and `attention_mask` (cells, tokens), as long as the longest of the perturbed cells. The genes
            that are not perturbed keep their order.

        Raises:
            ValueError: There is no such change or level, a row is none of the vocabulary or named twice, or a cell has
                no gene left.
        """
        tokens = self.gene_rows(encoding).numpy()
        known: dict[str, Any] = {"level": level, "supported": self.gene_changes, "vocabulary_size": len(self.genes)}
        changed = change_genes(tokens, tokens >= 0, rows, change, **known)
        order, counts = changed.order()
        most = self._genes_that_fit(self.model_max_length if max_length is None else max_length)
        counts = np.minimum(counts, most)
        if not counts.all():
            raise ValueError(f"{(counts == 0).sum():,} of {len(counts):,} cells have no gene left.")
        width = counts.max(initial=0)
        ranked = np.take_along_axis(np.concatenate([changed.rows, tokens], axis=1), order[:, :width], axis=1)
        inside = np.arange(width) < counts[:, None]

        def write(ids: np.ndarray) -> np.ndarray:
            ids[:] = np.where(inside, ranked + self.first_gene_id, self.pad_token_id)
            return counts

        framed = self._framed(len(ranked), width, write)
        return BatchEncoding({name: torch.from_numpy(array) for name, array in framed.items()})


def _medians(genes: Sequence[str], medians: str | Path | Mapping[str, float] | None, place: str | None) -> np.ndarray:
    """(genes,) float64, NaN for genes without a median."""
    if medians is None:
        name = RankValueTokenizer.vocab_files_names["medians_file"]
        raise ValueError(f"{place or 'The tokenizer folder'} has no {name}, which says by what a gene is divided.")
    if isinstance(medians, str | Path):
        source, medians = str(medians), _read_medians(Path(medians))
    else:
        source = "the table of medians"
    wrong = [gene for gene, median in medians.items() if not 0 < median < math.inf]
    if wrong:
        raise ValueError(f"{source}: the median of {wrong[0]} is {medians[wrong[0]]}; it has to be above 0.")
    unknown = sorted(medians.keys() - set(genes))
    if unknown:
        raise ValueError(
            f"{source} has medians of {len(unknown):,} genes that are not in the vocabulary ({unknown[0]} is the "
            "first): they do not belong together."
        )
    return np.array([medians.get(gene, math.nan) for gene in genes], np.float64)


def _read_medians(path: Path) -> dict[str, float]:
    header, *lines = read_text(path).splitlines() or [""]
    if tuple(header.split("\t")) != _MEDIAN_FIELDS:
        raise ValueError(f"{path}: the first line has to be {' and '.join(_MEDIAN_FIELDS)}, but it is {header!r}.")
    medians: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        gene, tab, median = line.partition("\t")
        try:
            value = float(median)
        except ValueError:
            value = math.nan
        if not tab or math.isnan(value) or gene in medians:
            what = "names a gene a second time" if gene in medians else "is not a gene and a number"
            raise ValueError(f"{path}, line {number}: {line!r} {what}.")
        medians[gene] = value
    return medians


__all__ = ["RankValueTokenizer", "rank_genes"]
