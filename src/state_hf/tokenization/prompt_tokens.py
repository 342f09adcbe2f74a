"""Prompts as tokens that fit into a language model, and the genes that stand in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.tokenization.cell_tokenizer import check_choice
from state_hf.tokenization.generated_text import gene_run

logger = logging.get_logger(__name__)

# The label of a token that is not learnt.
IGNORED = -100


class PromptTokens:
    """The tokens of prompts with a cell's genes in them.

    Where a text is too long, the last of its genes go, whole names, and nothing else.

    Args:
        tokenizer: Of the language model.
        genes: The vocabulary.
        rows: Row of a gene by its name.
    """

    def __init__(self, tokenizer: Any, genes: Sequence[str], rows: Mapping[str, int]) -> None:
        self.tokenizer, self.names, self.rows = tokenizer, genes, rows

    def fitting(self, rows: np.ndarray, length: int, write: Callable[[np.ndarray], Sequence[str]]) -> list[list[int]]:
        """Token ids of prompts, at most so many each.

        Args:
            rows: (cells, genes) vocabulary rows, -1 behind the last of each.
            length: Most tokens.
            write: Makes the prompts of such rows.

        Raises:
            ValueError: A prompt with one gene is too long.
        """
        counts = (rows >= 0).sum(axis=1)
        ids: list[list[int]] = [[] for _ in rows]
        waiting = np.arange(len(rows))
        while len(waiting):
            shown = np.where(np.arange(rows.shape[1]) < counts[waiting][:, None], rows[waiting], -1)
            encoded = self.tokenizer(list(write(shown)))["input_ids"]
            over = []
            for cell, tokens in zip(waiting.tolist(), encoded, strict=True):
                ids[cell] = tokens
                if len(tokens) > length:
                    counts[cell] = _fewer(int(counts[cell]), len(tokens), length)
                    over.append(cell)
            if over and len(waiting) == len(rows):
                logger.warning_once(
                    f"{len(over):,} of {len(rows):,} prompts are longer than the {length:,} tokens that the model "
                    "reads: the last genes of their sentences are left out (num_genes says how many are written)"
                )
            waiting = np.array(over, np.int64)
        return ids

    def padded(self, ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """(cells, tokens) int64 `input_ids` with padding behind them, and `attention_mask`."""
        lengths = np.array([len(tokens) for tokens in ids])
        padded = np.full((len(ids), int(lengths.max(initial=0))), self.tokenizer.pad_token_id, np.int64)
        for cell, tokens in enumerate(ids):
            padded[cell, : len(tokens)] = tokens
        mask = (np.arange(padded.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": padded, "attention_mask": mask}

    def training(
        self, examples: Iterable[tuple[str, str]], *, loss_on: Literal["response", "all"], separator: str, length: int
    ) -> list[dict[str, list[int]]]:
        """Inputs and labels of (prompt, response) pairs; see `Cell2SentenceProcessor.encode_training`."""
        check_choice("loss_on", loss_on, ("response", "all"))
        encoded = []
        for number, (prompt, response) in enumerate(examples):
            shown = prompt
            ids, learnt = self._example(shown, response, loss_on, separator)
            while len(ids) > length:
                run = gene_run(shown, self.rows)
                if len(run) < 2:
                    raise ValueError(
                        Advised(
                            f"example {number} has {len(ids):,} tokens, of which the model reads {length:,}, and no "
                            "more genes in its prompt that could be left out; a response is not cut",
                            "write fewer genes (num_genes=...)",
                            "allow more, if the model reads as much (max_length=...)",
                        )
                    )
                last = run[_fewer(len(run), len(ids), length) - 1]
                shown = shown[: last[2]] + shown[run[-1][2] :]
                ids, learnt = self._example(shown, response, loss_on, separator)
            labels = [token if counts else IGNORED for token, counts in zip(ids, learnt, strict=True)]
            encoded.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
        return encoded

    def _example(self, prompt: str, response: str, loss_on: str, separator: str) -> tuple[list[int], list[bool]]:
        end = [self.tokenizer.eos_token_id]
        if loss_on == "all":
            ids = self.tokenizer(f"{prompt} {response}")["input_ids"] + end
            return ids, [True] * len(ids)
        asked = self.tokenizer(prompt)["input_ids"]
        answer = self.tokenizer(separator + response, add_special_tokens=False)["input_ids"] + end
        return asked + answer, [False] * len(asked) + [True] * len(answer)

    @cached_property
    def _pieces(self) -> list[str]:
        """Text by token id: what it adds behind another token, so with the space that it may begin with.

        Padding has none, nor what the tokenizer puts around every text by itself.
        """
        silent = {self.tokenizer.pad_token_id, *self.tokenizer("")["input_ids"]}
        anchor = self.tokenizer("A", add_special_tokens=False)["input_ids"][-1]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        alone = len(self.tokenizer.decode([anchor], **options))
        texts = self.tokenizer.batch_decode([[anchor, token] for token in range(len(self.tokenizer))], **options)
        return ["" if token in silent else text[alone:] for token, text in enumerate(texts)]

    @cached_property
    def _words(self) -> list[str]:
        """The same with blanks for special tokens, which may stand beside a gene, and are no part of its name."""
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(token for token, made in added.items() if made.special)}
        return [" " * len(text) if token in special else text for token, text in enumerate(self._pieces)]

    def _text(self, ids: Sequence[int]) -> tuple[str, np.ndarray]:
        """The text of some tokens, and (tokens + 1,) where each begins, and the last ends."""
        texts = self._of(self._pieces, ids)
        return "".join(texts), np.cumsum([0, *map(len, texts)])

    def _run(self, ids: Sequence[int]) -> list[tuple[int, int, int]]:
        """The genes in the text of some tokens; see `gene_run`."""
        return gene_run("".join(self._of(self._words, ids)), self.rows)

    @staticmethod
    def _of(pieces: Sequence[str], ids: Sequence[int]) -> list[str]:
        return [pieces[token] if token < len(pieces) else "" for token in ids]

    def genes(self, ids: np.ndarray) -> list[list[int]]:
        """Vocabulary rows of the genes in order, of (cells, tokens) ids."""
        return [[row for row, _, _ in self._run(tokens)] for tokens in ids.tolist()]

    def gene_rows(self, ids: np.ndarray) -> np.ndarray:
        """(cells, tokens) the vocabulary row of the gene that a token is part of, -1 for none, of such ids."""
        found = np.full(ids.shape, -1, np.int64)
        for cell, tokens in enumerate(ids.tolist()):
            bounds = self._text(tokens)[1]
            for row, start, end in self._run(tokens):
                # A token that ends where the gene begins is none of it.
                first = int(np.searchsorted(bounds[1:], start, side="right"))
                last = int(np.searchsorted(bounds[:-1], end, side="left"))
                found[cell, first:last] = row
        # Padding has no text, and may lie between two tokens of a gene for none of these.
        found[np.isin(ids, self.tokenizer.all_special_ids)] = -1
        return found

    def with_genes(self, ids: np.ndarray, changed: np.ndarray, *, first: bool, length: int) -> list[list[int]]:
        """Token ids of prompts in whose sentences genes come first, or are taken out.

        Args:
            ids: (cells, tokens).
            changed: (cells, genes) vocabulary rows, -1 for none.
            first: Whether they come first.
            length: Most tokens.

        Raises:
            ValueError: A cell has no gene left, or there is no room for one.
        """
        perturbed = []
        for cell, tokens in enumerate(ids.tolist()):
            text, run = self._text(tokens)[0], self._run(tokens)
            wanted = [row for row in changed[cell].tolist() if row >= 0]
            kept = [row for row, _, _ in run if row not in wanted]
            order = wanted + kept if first else kept
            if not order or not run:
                raise ValueError(f"cell {cell} has no gene left.")
            before, after = text[: run[0][1]], text[run[-1][2] :]
            perturbed.append(self._around(before, order, after, length))
        return perturbed

    def _around(self, before: str, order: Sequence[int], after: str, length: int) -> list[int]:
        kept = list(order)
        while True:
            tokens = self.tokenizer(before + " ".join(self.names[row] for row in kept) + after)["input_ids"]
            if len(tokens) <= length:
                return tokens
            kept = kept[: _fewer(len(kept), len(tokens), length)]


def _fewer(genes: int, tokens: int, length: int) -> int:
    """How many genes of a text may fit: as many fewer as are too much at its own rate of tokens a gene.

    Raises:
        ValueError: It has one gene already.
    """
    if genes == 1:
        raise ValueError(f"max_length is {length}, but a prompt with one gene has {tokens:,} tokens.")
    return max(genes - max(genes * (tokens - length) // tokens, 1), 1)


__all__ = ["IGNORED", "PromptTokens"]
