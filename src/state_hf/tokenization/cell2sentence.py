"""Cell2Sentence's processor: cells as text for a causal language model, and what the model writes as cells again."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from transformers import BatchEncoding

from state_hf.model_cards.pushing import PushWithCardMixin
from state_hf.tokenization.cell_prompts import (
    CELL_TYPE,
    CONDITIONAL,
    EMBEDDING,
    NUM_GENES,
    SENTENCE,
    Template,
    Templates,
    few_shot,
)
from state_hf.tokenization.cell_sentences import GeneNames, ranked_rows
from state_hf.tokenization.cell_tokenizer import CellTokenizer, check_choice
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.gene_changes import GeneChange
from state_hf.tokenization.gene_names import GeneIndex, GeneReport
from state_hf.tokenization.gene_vocabulary import read_genes
from state_hf.tokenization.generated_text import FoundGenes, LabelParser, parse_genes
from state_hf.tokenization.processor_files import FILES, ProcessorWithFiles
from state_hf.tokenization.prompt_tokens import IGNORED, PromptTokens
from state_hf.tokenization.rank_expression import RankExpressionModel


class Cell2SentenceProcessor(CellTokenizer, PushWithCardMixin, ProcessorWithFiles):
    """Turns cells into text for a causal language model, and its text into labels and cells.

    A cell is the names of its expressed genes, the most expressed first. It stands in a prompt, whose tokens are the
    language model's own.

    Args:
        tokenizer: Of the language model. Without a token for padding, it pads with the one that ends a text.
        genes: The names that sentences are made of, in any order: a list, or a file with one a line.
        aliases: `gene_aliases.tsv`, other names of genes: tab-separated with the columns `alias` and `symbol`.
        templates: Prompts by task: a `Templates`, its content, or a file. Tasks that it lacks are ours.
        num_genes: Most genes of a sentence.
        organism: What prompts call it.
        labels: The cell types that an answer may be.
        expression: The line that turns ranks into expression, or a file.
        task: Of the prompts that cells are embedded in.
        cell_pooling: What of the model's hidden states is a cell's embedding: the mean over all tokens
            (`"mean_all"`), over those of genes (`"mean"`), or the `"last"` token.
        response_separator: Between a prompt and its response. Of the published models it is none.
        upper_case: Whether names are written in upper case, as for the published models.
        states_requested: Whether prompts name `num_genes` where a cell has fewer, as those of the original do.
    """

    embedding_key = "X_cell2sentence"
    vocab_files_names = {"vocab_file": FILES["genes"]}  # noqa: RUF012
    label_task, generation_task = CELL_TYPE, CONDITIONAL
    gene_changes: ClassVar[tuple[GeneChange, ...]] = ("delete", "overexpress")

    def __init__(
        self,
        tokenizer: Any,
        genes: str | Path | Sequence[str] | None = None,
        aliases: str | Path | AliasTable | None = None,
        templates: str | Path | Mapping[str, Any] | Templates | None = None,
        num_genes: int = 200,
        organism: str = "Homo sapiens",
        labels: Sequence[str] | None = None,
        expression: str | Path | RankExpressionModel | None = None,
        task: str = EMBEDDING,
        cell_pooling: Literal["mean_all", "mean", "last"] = "mean_all",
        response_separator: str = " ",
        upper_case: bool = True,  # noqa: FBT001, FBT002 - transformers reads these by position
        states_requested: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        super().__init__(tokenizer)
        names = read_genes(type(self), genes, getattr(tokenizer, "name_or_path", None))
        self.genes = [name.upper() for name in names] if upper_case else names
        _refuse_doubled(names, self.genes)
        check_choice("cell_pooling", cell_pooling, ("mean_all", "mean", "last"))
        self.aliases = AliasTable.from_file(aliases) if isinstance(aliases, str | Path) else aliases
        self.gene_index = GeneIndex(self.genes, self.aliases, upper_case=upper_case)
        self.templates = _templates(templates)
        self.templates.of(task)
        self.num_genes, self.organism, self.task = _checked_number(num_genes), organism, task
        self.cell_pooling = cell_pooling
        self.labels = None if labels is None else list(labels)
        self.expression = RankExpressionModel.load(expression) if isinstance(expression, str | Path) else expression
        self.response_separator, self.upper_case, self.states_requested = (
            response_separator,
            upper_case,
            states_requested,
        )
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError("the tokenizer has no token that ends a text, which a model has to learn to write")
            tokenizer.pad_token = tokenizer.eos_token
        self._names, self._tokens = GeneNames(self.genes), PromptTokens(tokenizer, self.genes, self.gene_index.rows)

    @property
    def encoding_choices(self) -> Mapping[str, Sequence[Any]]:  # type: ignore[override]
        """The task of the prompt that a cell stands in: those with a sentence in it."""
        known = (task for task, templates in self.templates.tasks.items() if SENTENCE in templates[0].slots)
        return {"task": tuple(known)}

    @property
    def model_max_length(self) -> int:  # type: ignore[override]
        """Most tokens of a text."""
        return self.tokenizer.model_max_length

    @property
    def pad_token_id(self) -> int:
        """The token of padding."""
        return self.tokenizer.pad_token_id

    @property
    def rows(self) -> dict[str, int]:
        """Row of every gene by its name."""
        return self.gene_index.rows

    # Cells as text

    def sentences(
        self,
        cells: Any,
        genes: GeneReport | Sequence[str] | None = None,
        *,
        num_genes: int | None = None,
        **reading: Any,
    ) -> list[str]:
        """Cells as the names of their genes.

        Args:
            cells: (cells, genes) matrix or AnnData, as of `encode_cells`.
            genes: The columns' genes.
            num_genes: Most genes of a sentence. Default: the processor's.
            **reading: `input_type`, `seed`, `first_cell`, `layer`, `gene_column` of `encode_cells`.

        Raises:
            ValueError: As of `encode_cells`.
        """
        return self._names.sentences(self.ranked_genes(cells, genes, num_genes=num_genes, **reading))

    def ranked_genes(
        self, cells: Any, genes: GeneReport | Sequence[str] | None = None, *, num_genes: int | None = None,
        seed: int = 0, first_cell: int = 0, **reading: Any,
    ) -> np.ndarray:  # fmt: skip
        """(cells, genes) vocabulary rows of cells by falling expression, -1 behind the last. See `sentences`."""
        checked = self.checked_cells(cells, genes, seed=seed, **reading)
        most = _checked_number(self.num_genes if num_genes is None else num_genes)
        return self._ranked(
            checked.cells, checked.expressed, checked.report, most=most, seed=seed, first_cell=first_cell
        )

    def _ranked(
        self, cells: sp.csr_array, expressed: np.ndarray, report: GeneReport, *, most: int, seed: int, first_cell: int
    ) -> np.ndarray:
        empty = np.flatnonzero(expressed == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty):,} of {len(expressed):,} cells express no gene of the vocabulary, so there is nothing "
                f"to encode; the first is cell {first_cell + empty[0]}. Leave them out of the data."
            )
        return ranked_rows(cells, expressed, report.columns, most=most, seed=seed, first_cell=first_cell)

    def prompts(
        self,
        task: str,
        sentences: Sequence[str] | None = None,
        *,
        number: int | None = None,
        seed: int | None = None,
        first_cell: int = 0,
        examples: Sequence[tuple[str, str]] = (),
        **values: Any,
    ) -> list[str]:
        """Prompts of a task.

        Args:
            task: One of `templates.tasks`: `"cell_type_prediction"`, `"cell_type_generation"`,
                `"perturbation_prediction"`, `"embedding"`, or of your own.
            sentences: One a cell, for a task whose prompts have them.
            number: How many prompts, where there are no sentences.
            seed: Draws a template for every cell. Default: the task's first.
            first_cell: Position of the first of the cells in its dataset.
            examples: Solved (prompt, response) that stand before every prompt.
            **values: Of the templates' other slots: one for all cells, or a list with one each.

        Raises:
            ValueError: There is no such task, or a slot has no value.
        """
        filled = self._filled(task, sentences, number=number, seed=seed, first_cell=first_cell, values=values)
        return [
            few_shot(examples, template.fill(slots), separator=self.response_separator) for template, slots in filled
        ]

    def examples(
        self,
        task: str,
        sentences: Sequence[str] | None = None,
        *,
        number: int | None = None,
        seed: int | None = None,
        first_cell: int = 0,
        **values: Any,
    ) -> list[tuple[str, str]]:
        """(prompt, response) of cells, to train a model with or to stand before a prompt. See `prompts`."""
        filled = self._filled(task, sentences, number=number, seed=seed, first_cell=first_cell, values=values)
        return [(template.fill(slots), template.answer(slots)) for template, slots in filled]

    def _filled(
        self,
        task: str,
        sentences: Sequence[str] | None,
        *,
        number: int | None,
        seed: int | None,
        first_cell: int,
        values: Mapping[str, Any],
    ) -> list[tuple[Template, dict[str, Any]]]:
        several = {name: list(value) for name, value in values.items() if not isinstance(value, str | int | float)}
        given = ([] if sentences is None else [list(sentences)]) + list(several.values())
        counts = {len(items) for items in given} | ({number} if number is not None else set())
        if len(counts) > 1:
            raise ValueError(f"the sentences and values are of {' and '.join(map(str, sorted(counts)))} cells")
        total = counts.pop() if counts else 1
        if seed is None:
            templates = [self.templates.of(task)[0]] * total
        else:
            templates = self.templates.draw(task, number=total, seed=seed, first_cell=first_cell)
        filled = []
        for cell, template in enumerate(templates):
            slots: dict[str, Any] = {"organism": self.organism, NUM_GENES: self.num_genes}
            if sentences is not None:
                slots[SENTENCE] = sentences[cell]
                if not self.states_requested:
                    slots[NUM_GENES] = len(sentences[cell].split())
            slots |= {name: several[name][cell] if name in several else value for name, value in values.items()}
            filled.append((template, slots))
        return filled

    # Text as tokens

    def __call__(self, text: str | Sequence[str] | None = None, **options: Any) -> BatchEncoding:
        """Tokenize text as the language model's tokenizer does."""
        return self.tokenizer(text, **options)

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
        rows = self._ranked(cells, expressed, report, most=self.num_genes, seed=seed, first_cell=first_cell)
        ids = self._tokens.fitting(rows, length, lambda shown: self.prompts(own["task"], self._names.sentences(shown)))
        return self._tokens.padded(ids)

    def encode_prompts(self, prompts: Sequence[str]) -> BatchEncoding:
        """Prompts for `generate`: tokens with padding before them."""
        return self.tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")

    def encode_training(
        self,
        examples: Iterable[tuple[str, str]],
        *,
        loss_on: Literal["response", "all"] = "response",
        max_length: int | None = None,
    ) -> list[dict[str, list[int]]]:
        """Examples for training, to be padded by `transformers.DataCollatorForSeq2Seq`.

        The token that ends a text stands at the end of every example, and is read and learnt like the others. Where the
        prompt is too long, genes at the end of the sentence in it are left out, whole ones; a response is never cut.

        Args:
            examples: (prompt, response) of each.
            loss_on: Which tokens are learnt: those of the response (labels of others are -100), or all.
            max_length: Most tokens of an example. Default: the tokenizer's.

        Returns:
            `input_ids`, `attention_mask` and `labels` of every example.

        Raises:
            ValueError: A response does not fit with the shortest prompt.
        """
        most = self.model_max_length if max_length is None else max_length
        return self._tokens.training(examples, loss_on=loss_on, separator=self.response_separator, length=most)

    # Tokens as genes

    def check_model(self, config: Any) -> None:
        """Check that a model's configuration has a row for every token.

        Raises:
            ValueError: It has fewer.
        """
        known = config.get_text_config().vocab_size
        if known < len(self.tokenizer):
            raise ValueError(
                f"The tokenizer has {len(self.tokenizer):,} tokens, but the model has {known:,}: they do not belong "
                "together."
            )

    def gene_rows(self, encoding: Mapping[str, Any]) -> torch.Tensor:
        """(cells, tokens) int64: the vocabulary row of the gene that a token is part of, -1 where it is none.

        Genes are those of the longest run of names in a text.
        """
        return torch.from_numpy(self._tokens.gene_rows(np.asarray(encoding["input_ids"])))

    def decode_cells(self, input_ids: Any) -> list[list[str]]:
        """The genes of every cell in order.

        Args:
            input_ids: (cells, tokens) token ids: tensor, array or nested lists.
        """
        return [[self.genes[row] for row in cell] for cell in self._tokens.genes(np.asarray(input_ids))]

    def set_genes(
        self, encoding: Mapping[str, Any], rows: Any, change: GeneChange, *, max_length: int | None = None
    ) -> BatchEncoding:
        """The encodings of cells in which genes are perturbed.

        A deleted gene's name is taken out of the sentence, an overexpressed one comes first. The text around the
        sentence stays as it is. What exceeds `max_length` goes at the sentence's end, in whole names.

        Args:
            encoding: Of `encode_cells`.
            rows: Vocabulary rows of the genes: (genes,) for all cells, or (cells, genes) with -1 for none.
            change: One of `gene_changes`.
            max_length: Most tokens of a cell; by default the tokenizer's.

        Returns:
            `input_ids` and `attention_mask` (cells, tokens), padding behind.

        Raises:
            ValueError: There is no such change, a row is none of the vocabulary, or a cell has no gene left.
        """
        check_choice("change", change, self.gene_changes)
        length = self.model_max_length if max_length is None else max_length
        ids = np.asarray(encoding["input_ids"])
        given = np.asarray(rows, np.int64)
        changed = np.broadcast_to(given, (len(ids), given.shape[-1]))
        if changed.max(initial=0) >= len(self.genes) or changed.min(initial=0) < -1:
            raise ValueError(f"rows goes from {changed.min()} to {changed.max()}; there are {len(self.genes):,} genes.")
        perturbed = self._tokens.with_genes(ids, changed, first=change == "overexpress", length=length)
        return BatchEncoding({name: torch.from_numpy(array) for name, array in self._tokens.padded(perturbed).items()})

    # Text as labels and cells

    def label_parser(self, labels: Sequence[str] | None = None, *, max_distance: float = 0.2) -> LabelParser:
        """What finds labels in the model's answers.

        Args:
            labels: The vocabulary. Default: the processor's.
            max_distance: See `LabelParser`.
        """
        return LabelParser(self.labels or [] if labels is None else labels, max_distance=max_distance)

    def answer_tokens(self, labels: Sequence[str]) -> int:
        """Tokens of the longest answer with one of these labels, the end included."""
        texts = [
            self.response_separator + template.answer({"cell_type": label})
            for label in labels
            for template in self.templates.of(self.label_task)
        ]
        return max(map(len, self.tokenizer(texts, add_special_tokens=False)["input_ids"])) + 1

    def parse_genes(self, text: str) -> FoundGenes:
        """The genes in a text that the model wrote."""
        return parse_genes(text, self.rows)


def _templates(templates: str | Path | Mapping[str, Any] | Templates | None) -> Templates:
    if isinstance(templates, Templates):
        return templates
    return Templates.from_file(templates) if isinstance(templates, str | Path) else Templates(templates)


def _checked_number(num_genes: int) -> int:
    if num_genes < 1:
        raise ValueError(f"num_genes is {num_genes}; a sentence has at least one gene")
    return num_genes


def _refuse_doubled(names: Sequence[str], written: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for name, text in zip(names, written, strict=True):
        if first.setdefault(text, name) != name:
            raise ValueError(
                f"the genes {first[text]} and {name} are both written {text}: keep one of them, or write names as they "
                "are with upper_case=False"
            )


__all__ = ["IGNORED", "Cell2SentenceProcessor"]
