"""From expression to cell sentences: a cell's most expressed genes in order, each with its share of the expression."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from transformers import AddedToken, BatchEncoding, PreTrainedTokenizer
from transformers.utils import logging

from state_hf.model_cards.card import write_model_card
from state_hf.model_cards.hub import PushWithCardMixin
from state_hf.tokenization import _kernels
from state_hf.tokenization.feature_types import expression_features
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.gene_names import GeneIndex, GeneReport, resolve_genes
from state_hf.tokenization.input_scale import check_input_type
from state_hf.tokenization.text_files import read_text

logger = logging.get_logger(__name__)

Fill: TypeAlias = Literal["seeded", "original", "none"]
_FILLS = {"none": _kernels.PAD_FILL, "seeded": _kernels.SEEDED_FILL, "original": _kernels.ORIGINAL_FILL}
# So many cells' keys stay in the processor's cache between writing, sorting and reading them.
_CELLS_AT_ONCE = 16
# What is kept of a dataset to check its scale when it comes in one piece.
_SCALE_SAMPLE = 1000


class StateEmbeddingTokenizer(PushWithCardMixin, PreTrainedTokenizer):
    """Turns cells into sentences of genes for a State Embedding model.

    Token i is gene i, the row of the model's gene table; `[CLS]` and `[PAD]` follow the genes. A sentence is `[CLS]`
    and the cell's most expressed genes in descending order; `encode_cells` makes them from expression matrices, and
    `tokenizer("TP53 GAPDH")` from text. A dataset token is the model's business, it is never part of a sentence.

    Args:
        vocab_file: `genes.txt`, one gene a line in the order of the model's gene table; or the list of genes itself.
        aliases_file: `gene_aliases.tsv`, other names of genes: tab-separated with the columns `alias` and `symbol`.
        cls_expression: The scalar of `[CLS]`: `"zero"`, or `"gene_3"` for the value of the dataset's fourth known gene,
            which checkpoints of the original have seen there in training.
        fill: What `encode_cells` goes on with where a cell expresses fewer genes than a sentence holds; a model is used
            with the fill that it was trained with.
        model_max_length: Longest sentence, `[CLS]` included.
    """

    vocab_files_names = {"vocab_file": "genes.txt", "aliases_file": "gene_aliases.tsv"}  # noqa: RUF012
    model_input_names = ["input_ids", "expression", "attention_mask"]  # noqa: RUF012
    padding_side = "right"

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
        if cls_expression not in ("zero", "gene_3"):
            raise ValueError(f"cls_expression is {cls_expression!r}; it has to be 'zero' or 'gene_3'.")
        _check_choice("fill", fill, tuple(_FILLS))
        if vocab_file is None:
            # What transformers passes where a folder, a repository or the cache has no such file.
            place = kwargs.get("name_or_path") or "The tokenizer's folder"
            raise ValueError(
                f"{place} has no {self.vocab_files_names['vocab_file']}, which names the genes of a tokenizer: check "
                "`subfolder`, or make it with StateEmbeddingTokenizer(genes).save_pretrained(folder)."
            )
        self.genes = _read_genes(vocab_file)
        self.cls_expression, self.fill = cls_expression, fill
        aliases = None if aliases_file is None else AliasTable.from_file(aliases_file)
        self.gene_index = GeneIndex(self.genes, aliases)
        self._rows = {gene: row for row, gene in enumerate(self.genes)}
        # Given here, because the base class would put [PAD] before [CLS].
        special = {"[CLS]": len(self.genes), "[PAD]": len(self.genes) + 1}
        # The saved ones say the same: the vocabulary alone decides.
        kwargs.pop("added_tokens_decoder", None)
        self._added_tokens_decoder = {
            token_id: AddedToken(token, special=True, normalized=False) for token, token_id in special.items()
        }
        kwargs.update(cls_token="[CLS]", pad_token="[PAD]")
        super().__init__(cls_expression=cls_expression, fill=fill, model_max_length=model_max_length, **kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of genes, `[CLS]` and `[PAD]` not counted."""
        return len(self.genes)

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, `[CLS]` and `[PAD]` included."""
        return self._rows | {token.content: token_id for token_id, token in self._added_tokens_decoder.items()}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        rows = self.gene_index.candidates(token)
        if len(rows) == 1:
            return rows[0]
        if rows:
            genes = " or ".join(self.genes[row] for row in rows)
            raise ValueError(f"The gene name {token!r} is ambiguous: it may be {genes}.")
        near = self.gene_index.near(token)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"There is no gene {token!r} among the {len(self.genes):,} of the vocabulary.{hint}")

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < len(self.genes):
            raise ValueError(f"There is no token {index}: the ids go from 0 to {len(self) - 1}.")
        return self.genes[index]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put `[CLS]` before a sentence. There are no pairs of sentences."""
        if token_ids_1 is not None:
            raise ValueError("A cell is one sentence: text pairs have no meaning here.")
        return [self.cls_token_id, *token_ids_0]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,  # noqa: FBT001, FBT002
    ) -> list[int]:
        """1 for every special token of a sentence, 0 for every gene."""
        ids = token_ids_0 if already_has_special_tokens else self.build_inputs_with_special_tokens(token_ids_0)
        return [int(token_id >= len(self.genes)) for token_id in ids]

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save the tokenizer, and tell the card of a model beside it which genes it knows."""
        paths = super().save_pretrained(save_directory, *args, **kwargs)
        write_model_card(save_directory)
        return paths

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write `genes.txt` and, if there are aliases, `gene_aliases.tsv`. Returns their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        contents = {"vocab_file": "".join(f"{gene}\n" for gene in self.genes)}
        if self.gene_index.aliases is not None:
            contents["aliases_file"] = self.gene_index.aliases.text
        paths = []
        for file, text in contents.items():
            path = Path(save_directory, prefix + self.vocab_files_names[file])
            path.write_text(text, encoding="utf-8", newline="")
            paths.append(str(path))
        return tuple(paths)

    @cached_property
    def _tokens(self) -> np.ndarray:
        return np.array([*self.genes, *(token.content for token in self._added_tokens_decoder.values())], dtype=object)

    def decode_cells(self, input_ids: Any) -> list[list[str]]:
        """The genes of every cell in the order of its sentence, `[CLS]` and `[PAD]` left out.

        Args:
            input_ids: (cells, length) token ids: tensor, array or nested lists.

        Raises:
            ValueError: If an id is not one of the tokenizer's.
        """
        ids = np.asarray(input_ids)
        if ids.ndim != 2:
            raise ValueError(f"input_ids has {ids.ndim} dimensions; it has to be (cells, length).")
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise ValueError(f"input_ids goes from {ids.min()} to {ids.max()}; the ids go from 0 to {len(self) - 1}.")
        return [self._tokens[cell[cell < len(self.genes)]].tolist() for cell in ids]

    def encode_cells(
        self,
        cells: Any,
        genes: GeneReport | Sequence[str] | None = None,
        *,
        input_type: Literal["counts", "log1p", "auto"] = "counts",
        fill: Fill | None = None,
        seed: int = 0,
        first_cell: int = 0,
        max_length: int | None = None,
        layer: str | None = None,
        gene_column: str | None = None,
        return_tensors: Literal["pt", "np"] = "pt",
    ) -> BatchEncoding:
        """Write the sentences of cells.

        The known genes are ranked by expression, ties in a random but fixed order, and the sentence is cut at
        `max_length`. A gene's scalar is 100 * log1p(count) / the sum of these over the cell's known genes. In a cell
        without any expression every known gene has the same share. Where a cell expresses fewer genes, `fill` says
        what follows; if the dataset has none left to fill with, `[PAD]` does.

        Args:
            cells: (cells, genes) matrix: CSR, CSC or dense, of any integer or float type; or an AnnData, whose genes
                and scale are then checked too (all of its cells are read: give large files in blocks).
            genes: The columns' genes: a report of `resolve_genes`, or their names (looked up anew in every call). Not
                for AnnData.
            input_type: Whether the values are `"counts"` or `"log1p"` of normalised counts. A matrix is taken at its
                word, as it is one block of a dataset: `check_input_type` is the check of the dataset. `"auto"` is for
                AnnData alone.
            fill: `"seeded"` goes on with unexpressed genes in a fixed random order, the same for the same cell whatever
                stands around it. `"original"` draws order and fill anew for every cell, as the original does.
                `"none"` leaves unexpressed genes out: sentences are as long as the batch's longest, the rest padded. By
                default the tokenizer's.
            seed: Seed of the order of ties and of the fill, >= 0.
            first_cell: Position of the first of `cells` in the dataset, which `fill="original"` draws by.
            max_length: Longest sentence, `[CLS]` included; by default the tokenizer's `model_max_length`.
            layer: Layer of the AnnData to read, or `"raw"` for `adata.raw`; by default `X`.
            gene_column: Column of the AnnData's `var` with the gene names; by default the best one is found.
            return_tensors: `"pt"` for torch tensors, `"np"` for arrays.

        Returns:
            `input_ids` (cells, length) int64, `expression` (cells, length) float32 in [0, 100], and `attention_mask`
            (cells, length) int64, 0 at padding.

        Raises:
            ValueError: If a value is NaN, infinite or negative, if the columns do not fit `genes`, or too few genes
                are known.
        """
        if hasattr(cells, "var_names"):
            if genes is not None:
                raise ValueError("An AnnData brings its own genes: name their column with gene_column instead.")
            cells, var = expression_of(cells, layer=layer)
            genes = resolve_genes(var, self, gene_column=gene_column)
            input_type = check_input_type(cells[:: max(1, cells.shape[0] // _SCALE_SAMPLE)], input_type)
        elif layer is not None or gene_column is not None:
            raise ValueError("layer and gene_column are for AnnData; the cells are a matrix.")
        length = self.model_max_length if max_length is None else max_length
        fill = self.fill if fill is None else fill
        _check_options(input_type=input_type, fill=fill, seed=seed, length=length, return_tensors=return_tensors)
        matrix = _as_csr(cells)
        encoded = self._write(
            matrix,
            self._report(matrix, genes),
            is_counts=input_type == "counts",
            fill=fill,
            seed=seed,
            first_cell=first_cell,
            length=length,
        )
        if return_tensors == "np":
            return BatchEncoding(encoded)
        return BatchEncoding({name: torch.from_numpy(array) for name, array in encoded.items()})

    def _report(self, cells: sp.csr_array, genes: GeneReport | Sequence[str] | None) -> GeneReport:
        if genes is None:
            raise ValueError("A matrix does not name its columns: pass genes, a report of resolve_genes or a list.")
        if isinstance(genes, GeneReport):
            report = genes
        else:
            report = resolve_genes(pd.DataFrame(index=list(genes)), self, gene_column="index")
        if report.vocabulary_size != len(self.genes):
            raise ValueError(
                f"The gene report is for a vocabulary of {report.vocabulary_size:,} genes, not of {len(self.genes):,}."
            )
        if cells.shape[1] != len(report.columns):
            raise ValueError(f"The matrix has {cells.shape[1]:,} columns, but genes names {len(report.columns):,}.")
        needed = 4 if self.cls_expression == "gene_3" else 1
        if len(report.genes) < needed:
            raise ValueError(
                f"The dataset has {len(report.genes)} genes of the vocabulary; at least {needed} are needed."
            )
        return report

    def _write(
        self,
        cells: sp.csr_array,
        report: GeneReport,
        *,
        is_counts: bool,
        fill: str,
        seed: int,
        first_cell: int,
        length: int,
    ) -> dict[str, np.ndarray]:
        cells, expressed = _inspected(cells, report)
        if fill == "none":
            length = min(length, 1 + int(expressed.max(initial=0)))
        shape = (cells.shape[0], length)
        ids, expression, mask = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.int64)
        # The original takes [CLS]'s own index for that of a known gene.
        cls_column = np.flatnonzero(report.columns >= 0)[3] if self.cls_expression == "gene_3" else -1
        draws = (_FILLS[fill], np.uint64(seed), first_cell)

        def write(start: int, stop: int) -> None:
            for begin in range(start, stop, _CELLS_AT_ONCE):
                number = expressed[begin : min(stop, begin + _CELLS_AT_ONCE)]
                keys, cls_values = np.empty((len(number), number.max()), np.uint64), np.empty(len(number), np.float32)
                matrix = (cells.data, cells.indices, cells.indptr, report.columns)
                _kernels.write_rank_keys(begin, *matrix, cls_column, *draws, keys, cls_values)
                keys.sort(axis=1)
                vocabulary = (report.genes, len(self), cls_column >= 0)
                outputs = (ids, expression, mask)
                _kernels.write_sentences(begin, keys, cls_values, *vocabulary, is_counts, *draws, *outputs)

        _over_cells(write, cells.shape[0])
        return {"input_ids": ids, "expression": expression, "attention_mask": mask}


def expression_of(adata: Any, *, layer: str | None = None) -> tuple[Any, Any]:
    """The expression matrix of an AnnData, in memory, and the annotation of its genes.

    Args:
        adata: An AnnData: in memory, backed, or a view.
        layer: Name of a layer; `"raw"` is `adata.raw`, if no layer is called so. By default `X`.

    Returns:
        The (cells, genes) matrix, and the matching `var`, without features that are not gene expression.

    Raises:
        ValueError: If there is no such layer, no `X`, or no gene expression in it.
    """
    if layer is None:
        matrix, var = adata.X, adata.var
    elif layer in adata.layers:
        matrix, var = adata.layers[layer], adata.var
    elif layer == "raw" and adata.raw is not None:
        matrix, var = adata.raw.X, adata.raw.var
    else:
        held = ", ".join([*adata.layers, *(["raw"] if adata.raw is not None else [])]) or "none"
        raise ValueError(f"The AnnData has no layer {layer!r}; it has: {held}.")
    if matrix is None:
        raise ValueError("The AnnData has no X: choose a layer.")
    # What a backed AnnData hands out knows how to read itself.
    matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix[:]
    found = expression_features(var, "the AnnData")
    if not found.others:
        return matrix, var
    logger.warning_once(f"the AnnData: {found.note}")
    return matrix[:, np.flatnonzero(found.is_expression)], var[found.is_expression]


def _read_genes(vocab_file: str | Path | Sequence[str]) -> list[str]:
    if isinstance(vocab_file, str | Path):
        source, genes = str(vocab_file), read_text(Path(vocab_file)).splitlines()
    else:
        source, genes = "the list of genes", list(vocab_file)
    if not genes or len(genes) > _kernels.MAX_GENES:
        raise ValueError(f"{source} holds {len(genes):,} genes; a vocabulary has 1 to {_kernels.MAX_GENES:,}.")
    first: dict[str, int] = {}
    for line, gene in enumerate(genes, start=1):
        if not gene or gene != "".join(gene.split()) or gene in ("[CLS]", "[PAD]"):
            raise ValueError(f"{source}, line {line}: {gene!r} is not a gene name.")
        if first.setdefault(gene, line) != line:
            raise ValueError(f"{source}, line {line}: {gene} is already on line {first[gene]}.")
    return genes


def _check_options(*, input_type: str, fill: str, seed: int, length: int, return_tensors: str) -> None:
    _check_choice("input_type", input_type, ("counts", "log1p"))
    _check_choice("fill", fill, tuple(_FILLS))
    _check_choice("return_tensors", return_tensors, ("pt", "np"))
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it has to be between 0 and 2**64 - 1.")
    if length < 2:
        raise ValueError(f"max_length is {length}; a sentence is [CLS] and at least one gene.")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        hint = " for a matrix: check_input_type decides for a dataset" if value == "auto" else ""
        raise ValueError(f"{name} is {value!r}; it has to be {' or '.join(map(repr, choices))}{hint}.")


def _as_csr(cells: Any) -> sp.csr_array:
    if not sp.issparse(cells):
        cells = np.asarray(cells)
    if cells.ndim != 2:
        raise ValueError(f"The expression matrix has {cells.ndim} dimensions; it has to be (cells, genes).")
    if cells.dtype.kind not in "uif":
        raise ValueError(f"The expression matrix is of type {cells.dtype}; it has to hold integers or floats.")
    # What is too large for float32 becomes infinite, which is then refused.
    with np.errstate(over="ignore"):
        return sp.csr_array(cells.astype(np.float32, copy=False))


def _over_cells(loop: Callable[..., None], number: int) -> None:
    """Run a kernel over ranges of cells in threads: it releases the GIL, and threads survive a fork of data workers."""
    threads = max(1, min(torch.get_num_threads(), number // 16))
    bounds = np.linspace(0, number, threads + 1).astype(int).tolist()
    if threads == 1:
        loop(0, number)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(loop, bounds[:-1], bounds[1:]))


def _inspected(cells: sp.csr_array, report: GeneReport) -> tuple[sp.csr_array, np.ndarray]:
    """The cells with repeated entries summed, and the number of known genes that each expresses."""
    expressed, invalid, repeated = np.zeros((3, cells.shape[0]), np.int64)
    arrays = {"data": cells.data, "indices": cells.indices, "indptr": cells.indptr, "columns": report.columns}
    counters = {"expressed": expressed, "invalid": invalid, "repeated": repeated}
    _over_cells(partial(_kernels.inspect_cells, **arrays, **counters), cells.shape[0])
    if repeated.any():
        cells = cells.copy()
        cells.has_canonical_format = False
        cells.sum_duplicates()
        return _inspected(cells, report)
    if invalid.any():
        cell = int(np.flatnonzero(invalid)[0])
        row = slice(cells.indptr[cell], cells.indptr[cell + 1])
        values, genes = cells.data[row], cells.indices[row]
        at = int(np.flatnonzero(~((values >= 0) & (values < np.inf)))[0])
        raise ValueError(
            f"{invalid.sum():,} values in {np.count_nonzero(invalid):,} of {cells.shape[0]:,} cells are NaN, infinite "
            f"or negative; the first is {values[at]} of gene {report.names[genes[at]]} in cell {cell}."
        )
    return cells, expressed
