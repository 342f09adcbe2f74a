"""From expression to cell sentences: a cell's most expressed genes in order, each with its share of the expression."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
from transformers import BatchEncoding

from state_hf.tokenization import _sentence_kernels
from state_hf.tokenization.cell_matrix import over_cells
from state_hf.tokenization.cell_tokenizer import check_choice
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.gene_changes import GENE_CHANGES, ChangedGenes, GeneChange, change_genes
from state_hf.tokenization.gene_names import GeneReport
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer, read_genes

Fill: TypeAlias = Literal["seeded", "original", "none"]
_FILLS = {
    "none": _sentence_kernels.PAD_FILL,
    "seeded": _sentence_kernels.SEEDED_FILL,
    "original": _sentence_kernels.ORIGINAL_FILL,
}
# So many cells' keys stay in the processor's cache between writing, sorting and reading them.
_CELLS_AT_ONCE = 16


class StateEmbeddingTokenizer(GeneVocabularyTokenizer):
    """Turns cells into sentences of genes for a State Embedding model.

    Token i is gene i, the row of the model's gene table; `[CLS]` and `[PAD]` follow the genes. A sentence is `[CLS]`
    and the cell's most expressed genes in descending order; `encode_cells` makes them from expression matrices, and
    `tokenizer("TP53 GAPDH")` from text. A dataset token is the model's business, it is never part of a sentence.

    `encode_cells` ranks the known genes by expression, ties in a random but fixed order, and cuts the sentence at
    `max_length`. A gene's scalar in `expression` (cells, length), float32 in [0, 100], is 100 * log1p(count) / the sum
    of these over the cell's known genes. In a cell without any expression every known gene has the same share. Where a
    cell expresses fewer genes, `fill` says what follows; if the dataset has none left to fill with, `[PAD]` does.

    Args:
        vocab_file: `genes.txt`, one gene a line in the order of the model's gene table; or the list of genes itself.
        aliases_file: `gene_aliases.tsv`, other names of genes: tab-separated with the columns `alias` and `symbol`.
        cls_expression: The scalar of `[CLS]`: `"zero"`, or `"gene_3"` for the value of the dataset's fourth known gene,
            which checkpoints of the original have seen there in training.
        fill: What `encode_cells` goes on with where a cell expresses fewer genes than a sentence holds; a model is used
            with the fill that it was trained with. `"seeded"` goes on with unexpressed genes in a fixed random order,
            the same for the same cell whatever stands around it. `"original"` draws order and fill anew for every cell,
            as the original does. `"none"` leaves unexpressed genes out: sentences are as long as the batch's longest,
            the rest padded.
        model_max_length: Longest sentence, `[CLS]` included.
    """

    embedding_key = "X_state"
    encoding_choices: ClassVar[dict[str, Sequence[Any]]] = {"fill": tuple(_FILLS)}
    gene_changes: ClassVar[tuple[GeneChange, ...]] = GENE_CHANGES
    model_input_names = ["input_ids", "expression", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str | Path | Sequence[str] | None,
        aliases_file: str | Path | None = None,
        *,
        cls_expression: Literal["zero", "gene_3"] = "zero",
        fill: Fill = "seeded",
        model_max_length: int = 2048,
        **kwargs: Any,
    ) -> None:
        check_choice("cls_expression", cls_expression, ("zero", "gene_3"))
        check_choice("fill", fill, tuple(_FILLS))
        self.cls_expression, self.fill = cls_expression, fill
        # The original takes [CLS]'s own index for that of a known gene.
        self.min_genes = 4 if cls_expression == "gene_3" else 1
        kwargs.update(cls_token="[CLS]", pad_token="[PAD]")
        super().__init__(
            read_genes(type(self), vocab_file, kwargs.get("name_or_path")),
            None if aliases_file is None else AliasTable.from_file(aliases_file),
            cls_expression=cls_expression,
            fill=fill,
            model_max_length=model_max_length,
            **kwargs,
        )

    @property
    def special_ids(self) -> dict[str, int]:
        """`[CLS]` and `[PAD]`, after the genes."""
        return {"[CLS]": len(self.genes), "[PAD]": len(self.genes) + 1}

    @property
    def first_gene_id(self) -> int:
        """0: a token is a row of the gene table."""
        return 0

    def check_model(self, config: Any) -> None:
        """Check that a model's gene table is this vocabulary's.

        Raises:
            ValueError: It has another number of genes.
        """
        if self.vocab_size != config.num_genes:
            raise ValueError(
                f"The tokenizer knows {self.vocab_size:,} genes, but the model's gene table has "
                f"{config.num_genes:,}: they do not belong together."
            )

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put `[CLS]` before a sentence. There are no pairs of sentences."""
        if token_ids_1 is not None:
            raise ValueError("A cell is one sentence: text pairs have no meaning here.")
        return [self.cls_token_id, *token_ids_0]

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
        fill = own["fill"]
        if length < 2:
            raise ValueError(f"max_length is {length}; a sentence is [CLS] and at least one gene.")
        if fill == "none":
            length = min(length, 1 + int(expressed.max(initial=0)))
        shape = (cells.shape[0], length)
        ids, expression, mask = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.int64)
        cls_column = np.flatnonzero(report.columns >= 0)[3] if self.cls_expression == "gene_3" else -1
        draws = (_FILLS[fill], np.uint64(seed), first_cell)

        def write(start: int, stop: int) -> None:
            for begin in range(start, stop, _CELLS_AT_ONCE):
                number = expressed[begin : min(stop, begin + _CELLS_AT_ONCE)]
                keys, cls_values = np.empty((len(number), number.max()), np.uint64), np.empty(len(number), np.float32)
                matrix = (cells.data, cells.indices, cells.indptr, report.columns)
                _sentence_kernels.write_rank_keys(begin, *matrix, cls_column, *draws, keys, cls_values)
                keys.sort(axis=1)
                vocabulary = (report.genes, len(self), cls_column >= 0)
                outputs = (ids, expression, mask)
                _sentence_kernels.write_sentences(begin, keys, cls_values, *vocabulary, is_counts, *draws, *outputs)

        over_cells(write, cells.shape[0])
        return {"input_ids": ids, "expression": expression, "attention_mask": mask}

    def expressed_tokens(self, encoding: Mapping[str, Any]) -> torch.Tensor:
        """(cells, tokens) bool: whether a token is a gene that the cell expresses. One that fills a sentence is not."""
        return (self.gene_rows(encoding) >= 0) & (torch.as_tensor(encoding["expression"]) > 0)

    def set_genes(
        self,
        encoding: Mapping[str, Any],
        rows: Any,
        change: GeneChange,
        *,
        level: float | None = None,
        max_length: int | None = None,
    ) -> BatchEncoding:
        """The sentences of cells in which genes are perturbed.

        A deleted gene leaves the sentence. With a level, a gene takes the expression of the gene that stands there, an
        overexpressed one that of the cell's most expressed gene, and its place; a gene that already stands there keeps
        its own. The scalars of all genes are then shares of the new sum. `[CLS]`'s scalar is scaled like theirs: where
        it is that of a gene (`cls_expression="gene_3"`), it does not follow a change of this very gene.

        The sentence says nothing of expressed genes that it was too short for: such a gene counts as not expressed,
        and none comes after where a gene was deleted. A gene that a cell does not express cannot be deleted or
        inhibited; one that fills the sentence leaves it all the same.

        Args:
            encoding: Of `encode_cells`.
            rows: Vocabulary rows of the genes: (genes,) for all cells, or (cells, genes) with -1 for none. Several are
                perturbed together.
            change: One of `gene_changes`, see `gene_changes.py`.
            level: Of the change "level": the share of the cell's other expressed genes that stand below, in [0, 1].
            max_length: Longest sentence; by default the tokenizer's `model_max_length`.

        Returns:
            `input_ids`, `expression` and `attention_mask` (cells, tokens), as long as the longest of the perturbed
            sentences. The genes that are not perturbed keep their order.

        Raises:
            ValueError: There is no such change or level, a row is none of the vocabulary or named twice, or a cell has
                no gene left.
        """
        tokens, shares = self.gene_rows(encoding).numpy(), np.asarray(encoding["expression"], np.float64)
        expressed = self.expressed_tokens(encoding).numpy()
        known: dict[str, Any] = {"level": level, "supported": self.gene_changes, "vocabulary_size": len(self.genes)}
        changed = change_genes(tokens, expressed, rows, change, **known)
        order, counts = changed.order()
        counts = np.minimum(counts, (self.model_max_length if max_length is None else max_length) - 1)
        if not counts.all():
            raise ValueError(f"{(counts == 0).sum():,} of {len(counts):,} cells have no gene left.")
        before = np.where(changed.own >= 0, np.take_along_axis(shares, np.maximum(changed.own, 0), axis=1), 0.0)
        after = _shares_at(changed, shares, expressed, before)
        total = 1 + (after.sum(axis=1) - before.sum(axis=1)) / 100

        width = 1 + counts.max(initial=0)
        inside = np.arange(1, width) < 1 + counts[:, None]
        cls_id, pad_id = self.special_ids["[CLS]"], self.special_ids["[PAD]"]
        ids = np.full((len(tokens), width), cls_id, np.int64)
        ranked = np.take_along_axis(np.concatenate([changed.rows, tokens], axis=1), order[:, : width - 1], axis=1)
        ids[:, 1:] = np.where(inside, ranked, pad_id)
        expression = np.empty(ids.shape, np.float32)
        values = np.take_along_axis(np.concatenate([after, shares], axis=1), order[:, : width - 1], axis=1)
        expression[:, 0] = shares[:, 0] / total
        expression[:, 1:] = np.where(inside, values / total[:, None], 0)
        mask = (np.arange(width) < 1 + counts[:, None]).astype(np.int64)
        arrays = {"input_ids": ids, "expression": expression, "attention_mask": mask}
        return BatchEncoding({name: torch.from_numpy(array) for name, array in arrays.items()})


def _shares_at(changed: ChangedGenes, shares: np.ndarray, expressed: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(cells, changed) the expression of the perturbed genes, as shares of the sum of before."""
    counted = changed.others & expressed
    ranked = np.take_along_axis(shares, np.argsort(~counted, axis=1, kind="stable"), axis=1)
    last = np.maximum(counted.sum(axis=1, keepdims=True) - 1, 0)
    # A gene that is alone has all of the expression, whatever its value.
    there = np.where(counted.any(axis=1, keepdims=True), np.take_along_axis(
        ranked, np.clip(changed.places, 0, last), axis=1), 100.0)  # fmt: skip
    return np.where(changed.places < 0, 0.0, np.where(changed.moved, there, before))


__all__ = ["Fill", "StateEmbeddingTokenizer"]
