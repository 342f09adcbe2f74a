"""What the tokenizers of all families do alike: check cells and their scale, match their genes, and hand over blocks.

A family's tokenizer is its passport: pipelines ask it, and never which family it is of, how cells become the model's
input, which tokens are genes, and where the model's outputs hold the cell.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from transformers import BatchEncoding

from state_hf.tokenization.cell_matrix import as_csr, expression_of, inspected, with_columns_summed
from state_hf.tokenization.gene_changes import GeneChange
from state_hf.tokenization.gene_names import GeneIndex, GeneReport, resolve_genes
from state_hf.tokenization.input_scale import SCALE_SAMPLE, check_input_type


class UnknownOptionError(TypeError, ValueError):
    """An option that a family's tokenizer does not have: a wrong argument in Python, a wrong value of a command."""


@dataclass(frozen=True)
class CheckedCells:
    """Cells that can be tokenized.

    Attributes:
        cells: (cells, dataset genes), float32, finite and >= 0, every entry once, and of several columns of one gene no
            more than one above 0.
        expressed: (cells,) how many known genes each expresses.
        report: The vocabulary's row of every column.
        is_counts: Whether the values are counts; else they are log1p of normalised ones.
    """

    cells: sp.csr_array
    expressed: np.ndarray
    report: GeneReport
    is_counts: bool


class CellTokenizer(ABC):
    """Base of all families' tokenizers and processors of cells.

    A family gives the class attributes, `gene_index` and `_encode_block`; and `_rows_of_tokens`, or where a gene is not
    one token, `gene_rows`, `decode_cells` and `check_model`.

    Attributes:
        embedding_key: Slot of `obsm` that `embed` writes by default.
        cell_pooling: How the hidden states of a model without `get_cell_features` become a cell: `"first"` token, mean
            over the gene tokens (`"mean"`), over all tokens (`"mean_all"`), or `"last"` token.
        encoding_choices: The family's own options of `encode_cells`, each with the values that it takes. Their defaults
            are the tokenizer's attributes of the same name.
        sum_columns: Whether several columns of one gene are added up, counts to counts; else the first counts.
        min_genes: Fewest genes of the vocabulary that a dataset has to have.
        gene_changes: What the family's `set_genes` can do to genes in silico; a family without one has no such method.
        gene_index: The vocabulary: ordered genes with their other names.
    """

    embedding_key: ClassVar[str]
    cell_pooling: Literal["first", "mean", "mean_all", "last"] | None = None
    encoding_choices: ClassVar[Mapping[str, Sequence[Any]]] = {}
    sum_columns: bool = False
    min_genes: int = 1
    gene_changes: ClassVar[tuple[GeneChange, ...]] = ()
    gene_index: GeneIndex
    model_max_length: int

    @property
    def _rows_of_tokens(self) -> np.ndarray:
        """(tokens,) the vocabulary row of every token id, -1 where it is no gene."""
        raise NotImplementedError

    @property
    def gene_tokens(self) -> np.ndarray:
        """(genes,) the token id of every gene, by vocabulary row; NotImplementedError where a gene is several."""
        tokens = np.flatnonzero(self._rows_of_tokens >= 0)
        return tokens[np.argsort(self._rows_of_tokens[tokens], kind="stable")]

    @abstractmethod
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
        """The model's inputs for a block of cells.

        Args:
            cells: (cells, dataset genes), float32, finite and >= 0, every entry once, and of several columns of one
                gene no more than one above 0.
            expressed: (cells,) how many known genes each expresses.
            report: The vocabulary's row of every column.
            is_counts: Whether the values are counts; else they are log1p of normalised ones.
            seed: Of every random choice.
            first_cell: Position of the first of the cells in its dataset.
            length: Most tokens of a cell.
            **own: The family's options, of `encoding_choices`.

        Returns:
            (cells, tokens) arrays by the names of the model's inputs, `input_ids` and `attention_mask` among them.
        """

    def encoding_options(self, **own: Any) -> dict[str, Any]:
        """The family's own options of `encode_cells`: those given (None for none), and the tokenizer's for the rest.

        Raises:
            UnknownOptionError: The tokenizer has no such option.
            ValueError: The option has no such value.
        """
        given = {name: value for name, value in own.items() if value is not None}
        for name, value in given.items():
            if name not in self.encoding_choices:
                known = ", ".join(self.encoding_choices) or "none"
                raise UnknownOptionError(
                    f"unexpected keyword argument {name!r}: the options of {type(self).__name__} are {known}."
                )
            check_choice(name, value, self.encoding_choices[name])
        return {name: getattr(self, name) for name in self.encoding_choices} | given

    def encode_cells(
        self,
        cells: Any,
        genes: GeneReport | Sequence[str] | None = None,
        *,
        input_type: Literal["counts", "log1p", "auto"] = "counts",
        seed: int = 0,
        first_cell: int = 0,
        max_length: int | None = None,
        layer: str | None = None,
        gene_column: str | None = None,
        return_tensors: Literal["pt", "np"] = "pt",
        **own: Any,
    ) -> BatchEncoding:
        """Turn cells into the model's input. The class says what it is, and what its own options mean.

        Args:
            cells: (cells, genes) matrix: CSR, CSC or dense, of any integer or float type; or an AnnData, whose genes
                and scale are then checked too (all of its cells are read: give large files in blocks).
            genes: The columns' genes: a report of `resolve_genes`, or their names (looked up anew in every call). Not
                for AnnData.
            input_type: Whether the values are `"counts"` or `"log1p"` of normalised counts. A matrix is taken at its
                word, as it is one block of a dataset: `check_input_type` is the check of the dataset. `"auto"` is for
                AnnData alone.
            seed: Seed of every random choice, >= 0.
            first_cell: Position of the first of `cells` in the dataset, for choices that differ from cell to cell.
            max_length: Most tokens of a cell; by default the tokenizer's `model_max_length`.
            layer: Layer of the AnnData to read, or `"raw"` for `adata.raw`; by default `X`.
            gene_column: Column of the AnnData's `var` with the gene names; by default the best one is found.
            return_tensors: `"pt"` for torch tensors, `"np"` for arrays.
            **own: The family's own options; by default as the tokenizer was saved.

        Returns:
            The model's inputs by name, (cells, tokens) each: `input_ids` int64, `attention_mask` int64 with 0 at
            padding, and what else the family's model reads.

        Raises:
            ValueError: If a value is NaN, infinite or negative, if the columns do not fit `genes`, or too few genes
                are known.
        """
        length = self.model_max_length if max_length is None else max_length
        options = self.encoding_options(**own)
        check_choice("return_tensors", return_tensors, ("pt", "np"))
        checked = self.checked_cells(
            cells, genes, input_type=input_type, seed=seed, layer=layer, gene_column=gene_column
        )
        encoded = self._encode_block(
            checked.cells,
            checked.expressed,
            checked.report,
            is_counts=checked.is_counts,
            seed=seed,
            first_cell=first_cell,
            length=length,
            **options,
        )
        if return_tensors == "np":
            return BatchEncoding(encoded)
        return BatchEncoding({name: torch.from_numpy(array) for name, array in encoded.items()})

    def checked_cells(
        self,
        cells: Any,
        genes: GeneReport | Sequence[str] | None = None,
        *,
        input_type: Literal["counts", "log1p", "auto"] = "counts",
        seed: int = 0,
        layer: str | None = None,
        gene_column: str | None = None,
    ) -> CheckedCells:
        """Cells as `encode_cells` takes them, after its checks, and raising as it does."""
        if hasattr(cells, "var_names"):
            if genes is not None:
                raise ValueError("An AnnData brings its own genes: name their column with gene_column instead.")
            cells, var = expression_of(cells, layer=layer)
            genes = resolve_genes(var, self, gene_column=gene_column)
            input_type = check_input_type(cells[:: max(1, cells.shape[0] // SCALE_SAMPLE)], input_type)
        elif layer is not None or gene_column is not None:
            raise ValueError("layer and gene_column are for AnnData; the cells are a matrix.")
        check_choice("input_type", input_type, ("counts", "log1p"))
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}; it has to be between 0 and 2**64 - 1.")
        matrix = as_csr(cells)
        report = self._report(matrix, genes)
        is_counts = input_type == "counts"
        matrix, expressed = inspected(matrix, report)
        if report.summed:
            matrix, expressed = inspected(with_columns_summed(matrix, report, is_counts=is_counts), report)
        return CheckedCells(matrix, expressed, report, is_counts)

    def _report(self, cells: sp.csr_array, genes: GeneReport | Sequence[str] | None) -> GeneReport:
        if genes is None:
            raise ValueError("A matrix does not name its columns: pass genes, a report of resolve_genes or a list.")
        if isinstance(genes, GeneReport):
            report = genes
        else:
            report = resolve_genes(pd.DataFrame(index=list(genes)), self, gene_column="index")
        size = len(self.gene_index.genes)
        if report.vocabulary_size != size:
            raise ValueError(
                f"The gene report is for a vocabulary of {report.vocabulary_size:,} genes, not of {size:,}."
            )
        if cells.shape[1] != len(report.columns):
            raise ValueError(f"The matrix has {cells.shape[1]:,} columns, but genes names {len(report.columns):,}.")
        if len(report.genes) < self.min_genes:
            raise ValueError(
                f"The dataset has {len(report.genes)} genes of the vocabulary; at least {self.min_genes} are needed."
            )
        return report

    def gene_rows(self, encoding: Mapping[str, Any]) -> torch.Tensor:
        """(cells, tokens) int64: the vocabulary row of every token of an encoding, -1 where it is no gene."""
        return torch.from_numpy(self._rows_of_tokens)[torch.as_tensor(encoding["input_ids"])]

    def expressed_tokens(self, encoding: Mapping[str, Any]) -> torch.Tensor:
        """(cells, tokens) bool: whether a token is a gene that the cell expresses. Here, every gene's is."""
        return self.gene_rows(encoding) >= 0

    def gene_levels(self, encoding: Mapping[str, Any]) -> torch.Tensor:
        """(cells, tokens) float32 in [0, 1]: the share of a cell's other expressed genes that a gene stands above.

        NaN where a token is no gene that the cell expresses. Here, for tokens by falling expression.
        """
        expressed = self.expressed_tokens(encoding)
        below = expressed.sum(dim=1, keepdim=True) - expressed.cumsum(dim=1)
        levels = below / (expressed.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        return levels.masked_fill(~expressed, torch.nan)

    def decode_cells(self, input_ids: Any) -> list[list[str]]:
        """The genes of every cell in the order of its tokens, special tokens left out.

        Args:
            input_ids: (cells, tokens) token ids: tensor, array or nested lists.

        Raises:
            ValueError: If an id is not one of the tokenizer's.
        """
        ids, rows = np.asarray(input_ids), self._rows_of_tokens
        if ids.ndim != 2:
            raise ValueError(f"input_ids has {ids.ndim} dimensions; it has to be (cells, length).")
        if ids.size and (ids.min() < 0 or ids.max() >= len(rows)):
            raise ValueError(f"input_ids goes from {ids.min()} to {ids.max()}; the ids go from 0 to {len(rows) - 1}.")
        genes = self.gene_index.genes
        return [[genes[row] for row in cell if row >= 0] for cell in rows[ids].tolist()]

    def check_model(self, config: Any) -> None:
        """Check that a model's configuration is one for this vocabulary.

        Raises:
            ValueError: The model has another number of tokens.
        """
        if config.vocab_size != len(self._rows_of_tokens):
            raise ValueError(
                f"The tokenizer has {len(self._rows_of_tokens):,} tokens, but the model has {config.vocab_size:,}: "
                "they do not belong together."
            )


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Check the value of an option.

    Raises:
        ValueError: It is none of the choices.
    """
    if value not in choices:
        hint = " for a matrix: check_input_type decides for a dataset" if value == "auto" else ""
        raise ValueError(f"{name} is {value!r}; it has to be {' or '.join(map(repr, choices))}{hint}.")


__all__ = ["CellTokenizer", "CheckedCells", "UnknownOptionError", "check_choice"]
