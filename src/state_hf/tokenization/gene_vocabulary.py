"""Tokenizers whose tokens are genes: a list of genes in a text file, and special tokens around them."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AddedToken, PreTrainedTokenizer

from state_hf.configuration.auto_map import PortableTokenizerMixin
from state_hf.model_cards.card import write_model_card
from state_hf.model_cards.pushing import PushWithCardMixin
from state_hf.tokenization._sentence_kernels import MAX_GENES
from state_hf.tokenization.cell_tokenizer import CellTokenizer
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.gene_names import GeneIndex
from state_hf.tokenization.text_files import read_text


class GeneVocabularyTokenizer(CellTokenizer, PushWithCardMixin, PortableTokenizerMixin, PreTrainedTokenizer):
    """A cell tokenizer with one token a gene; `tokenizer("TP53 GAPDH")` reads genes from text.

    A family gives `special_ids`, `first_gene_id` and `_encode_block`.

    Args:
        genes: The genes in the order of their token ids.
        aliases: `gene_aliases.tsv`, other names of genes: tab-separated with the columns `alias` and `symbol`.
        model_max_length: Most tokens of a cell, special tokens included.
        **kwargs: See `PreTrainedTokenizer`.
    """

    vocab_files_names = {"vocab_file": "genes.txt", "aliases_file": "gene_aliases.tsv"}  # noqa: RUF012
    padding_side = "right"

    def __init__(
        self, genes: Sequence[str], aliases: AliasTable | None = None, *, model_max_length: int, **kwargs: Any
    ) -> None:
        self.genes = list(genes)
        self.gene_index = GeneIndex(self.genes, aliases, sum_columns=self.sum_columns)
        self._ids = {gene: self.first_gene_id + row for row, gene in enumerate(self.genes)}
        # The saved ones say the same: the vocabulary alone decides. Given here, because the base class would number
        # them in an order of its own.
        kwargs.pop("added_tokens_decoder", None)
        self._added_tokens_decoder = {
            token_id: AddedToken(token, special=True, normalized=False) for token, token_id in self.special_ids.items()
        }
        super().__init__(model_max_length=model_max_length, **kwargs)

    @property
    @abstractmethod
    def special_ids(self) -> Mapping[str, int]:
        """The special tokens and their ids: those that the genes' leave."""

    @property
    @abstractmethod
    def first_gene_id(self) -> int:
        """Token id of the first gene; the others follow it."""

    @cached_property
    def _rows_of_tokens(self) -> np.ndarray:
        rows = np.full(len(self.genes) + len(self.special_ids), -1, np.int64)
        rows[self.first_gene_id : self.first_gene_id + len(self.genes)] = np.arange(len(self.genes))
        return rows

    @property
    def vocab_size(self) -> int:
        """Number of genes, special tokens not counted."""
        return len(self.genes)

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, special ones included."""
        return self._ids | {token.content: token_id for token_id, token in self._added_tokens_decoder.items()}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        rows = self.gene_index.candidates(token)
        if len(rows) == 1:
            return self.first_gene_id + rows[0]
        if rows:
            genes = " or ".join(self.genes[row] for row in rows)
            raise ValueError(f"The gene name {token!r} is ambiguous: it may be {genes}.")
        near = self.gene_index.near(token)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"There is no gene {token!r} among the {len(self.genes):,} of the vocabulary.{hint}")

    def _convert_id_to_token(self, index: int) -> str:
        row = index - self.first_gene_id
        if not 0 <= row < len(self.genes):
            raise ValueError(f"There is no token {index}: the ids go from 0 to {len(self) - 1}.")
        return self.genes[row]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,  # noqa: FBT001, FBT002
    ) -> list[int]:
        """1 for every special token of a sequence, 0 for every gene."""
        ids = token_ids_0 if already_has_special_tokens else self.build_inputs_with_special_tokens(token_ids_0)
        return (self._rows_of_tokens[ids] < 0).astype(int).tolist()

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save the tokenizer, and tell the card of a model beside it which genes it knows."""
        paths = super().save_pretrained(save_directory, *args, **kwargs)
        write_model_card(save_directory)
        return paths

    def _vocabulary_files(self) -> dict[str, str]:
        """The text of every file that the vocabulary is saved in, by its name in `vocab_files_names`."""
        files = {"vocab_file": "".join(f"{gene}\n" for gene in self.genes)}
        if self.gene_index.aliases is not None:
            files["aliases_file"] = self.gene_index.aliases.text
        return files

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabulary's files. Returns their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        paths = []
        for file, text in self._vocabulary_files().items():
            path = Path(save_directory, prefix + self.vocab_files_names[file])
            path.write_text(text, encoding="utf-8", newline="")
            paths.append(str(path))
        return tuple(paths)


def read_genes(tokenizer: type, vocab_file: str | Path | Sequence[str] | None, place: str | None) -> list[str]:
    """The genes of a vocabulary file, or of a list.

    Args:
        tokenizer: The tokenizer's class.
        vocab_file: One gene a line, or the genes; None is what transformers passes where there is no such file.
        place: Where the tokenizer is loaded from.

    Raises:
        ValueError: There is no such file, or a line of it is no gene name, or one that was there before.
    """
    if vocab_file is None:
        raise ValueError(
            f"{place or 'The tokenizer folder'} has no {tokenizer.vocab_files_names['vocab_file']}, which names the "  # type: ignore[attr-defined]
            f"genes of a tokenizer: check `subfolder`, or make it with {tokenizer.__name__}(genes)"
            ".save_pretrained(folder)."
        )
    if isinstance(vocab_file, str | Path):
        source, genes = str(vocab_file), read_text(Path(vocab_file)).splitlines()
    else:
        source, genes = "the list of genes", list(vocab_file)
    if not genes or len(genes) > MAX_GENES:
        raise ValueError(f"{source} holds {len(genes):,} genes; a vocabulary has 1 to {MAX_GENES:,}.")
    first: dict[str, int] = {}
    for line, gene in enumerate(genes, start=1):
        if not gene or gene != "".join(gene.split()) or gene[0] + gene[-1] in ("[]", "<>"):
            raise ValueError(f"{source}, line {line}: {gene!r} is not a gene name.")
        if first.setdefault(gene, line) != line:
            raise ValueError(f"{source}, line {line}: {gene} is already on line {first[gene]}.")
    return genes


__all__ = ["GeneVocabularyTokenizer", "read_genes"]
