"""Geneformer's tokenizer: cells as genes ranked by expression over their medians, of the first and second releases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from state_hf.tokenization.cell_tokenizer import check_choice
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.rank_values import RankValueTokenizer

V1_SPECIAL_IDS = {"<pad>": 0, "<mask>": 1}
V2_SPECIAL_IDS = {**V1_SPECIAL_IDS, "<cls>": 2, "<eos>": 3}
_POOLINGS = ("mean", "first")


class GeneformerTokenizer(RankValueTokenizer):
    """Turns cells into lists of genes for a Geneformer model, of either release.

    A cell is its expressed genes, ranked by expression over their non-zero medians. Models of the first release (V1)
    read genes alone, up to 2,048; those of the second (V2) `<cls>`, genes and `<eos>`, up to 4,096 in all.

    Args:
        vocab_file: `genes.txt`, one Ensembl id a line in the order of their token ids; or the list of ids itself.
        medians_file: `gene_medians.tsv`, tab-separated with the columns `gene` and `median`, the non-zero median of a
            gene's counts per 10,000; or {gene: median}. Genes without a median are never read.
        aliases_file: `gene_aliases.tsv`, other names of genes: tab-separated with the columns `alias` and `symbol`.
        special_ids: The special tokens and their ids. By default V1's, `<pad>` 0 and `<mask>` 1; with `<cls>` and
            `<eos>`, they frame a cell.
        cell_pooling: What of the model's hidden states is a cell's embedding: `"mean"` over its genes, or that of its
            `"first"` token. By default `"first"` where that is `<cls>`.
        sum_columns: Whether several columns of one gene are added up, as V2 does; else the first counts. By default as
            the release does.
        model_max_length: Most tokens of a cell, special ones included.
    """

    embedding_key = "X_geneformer"

    def __init__(
        self,
        vocab_file: str | Path | Sequence[str] | None,
        medians_file: str | Path | Mapping[str, float] | None,
        aliases_file: str | Path | AliasTable | None = None,
        *,
        special_ids: Mapping[str, int] = V1_SPECIAL_IDS,
        cell_pooling: Literal["mean", "first"] | None = None,
        sum_columns: bool | None = None,
        model_max_length: int = 2048,
        **kwargs: Any,
    ) -> None:
        framed = "<cls>" in special_ids
        self.cell_pooling = cell_pooling or ("first" if framed else "mean")
        check_choice("cell_pooling", self.cell_pooling, _POOLINGS)
        self.sum_columns = framed if sum_columns is None else sum_columns
        super().__init__(
            vocab_file,
            medians_file,
            aliases_file,
            special_ids=special_ids,
            cell_pooling=self.cell_pooling,
            sum_columns=self.sum_columns,
            model_max_length=model_max_length,
            **kwargs,
        )


__all__ = ["V1_SPECIAL_IDS", "V2_SPECIAL_IDS", "GeneformerTokenizer"]
