"""From expression to cell sentences: a cell's most expressed genes in order, each with its share of the expression."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp

from state_hf.tokenization import _sentence_kernels
from state_hf.tokenization.cell_matrix import over_cells
from state_hf.tokenization.cell_tokenizer import check_choice
from state_hf.tokenization.gene_aliases import AliasTable
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


__all__ = ["Fill", "StateEmbeddingTokenizer"]
