"""Masked-gene pretraining of models that read a cell as a list of genes: which genes are hidden, and the loss."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.data.corpus.cell_corpus import CorpusCells
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer
from state_hf.training.corpus_arguments import CorpusTrainingArguments
from state_hf.training.corpus_trainer import CorpusTrainer

logger = logging.get_logger(__name__)

_NO_LABEL = -100
# Of the genes that are to be predicted, so many are hidden behind the mask; of the rest, half are another token, and
# half stay (Devlin et al. 2019, doi:10.18653/v1/N19-1423).
_HIDDEN, _REPLACED = 0.8, 0.9


class MaskedGenes:
    """Collator of masked-gene pretraining: cells in, token ids with hidden genes and what they were out.

    Each gene of a cell is to be predicted with the probability `mask_share`. Of these, 80 % are replaced by `<mask>`,
    10 % by a token drawn from the whole dictionary, and 10 % stay, as Geneformer was trained. Where chance takes none
    of a cell's, one is taken all the same, so that no batch is without a loss. Special tokens are never predicted. All
    draws are functions of the seed and the cell's position in the corpus: a cell hides other genes in the next pass,
    and the same whatever stands beside it.

    Args:
        tokenizer: Writes the cells, and has a `<mask>`.
        mask_share: Share of a cell's genes to predict, in (0, 1).
        max_length: Most tokens of a cell; by default the tokenizer's.
        seed: Of all draws.

    Raises:
        ValueError: The tokenizer has no `<mask>`, or the share is none.
    """

    def __init__(
        self,
        tokenizer: GeneVocabularyTokenizer,
        *,
        mask_share: float = 0.15,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share is {mask_share}; it has to be between 0 and 1")
        if tokenizer.mask_token_id is None:
            raise ValueError(f"the {type(tokenizer).__name__} has no <mask> to hide genes behind")
        self.tokenizer, self.mask_share, self.max_length, self.seed = tokenizer, mask_share, max_length, seed

    def __call__(self, cells: Sequence[CorpusCells]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            cells: Cells by file, as `CellCorpus` gives them. Those without a gene of the vocabulary are left out.

        Returns:
            `input_ids`, `attention_mask` and `labels` (-100 where nothing is predicted), (cells, tokens) int64 each.

        Raises:
            ValueError: No cell has a gene of the vocabulary.
        """
        parts = [self._of_one_file(part) for part in map(_with_genes, cells) if len(part.positions)]
        if not parts:
            raise ValueError(
                "no cell of a batch has a gene of the vocabulary: leave such cells out of the corpus (see `state-hf "
                "corpus`)"
            )
        length = max(part["input_ids"].shape[1] for part in parts)
        padding = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0, "labels": _NO_LABEL}
        batch = {}
        for name, filling in padding.items():
            arrays = [
                np.pad(part[name], ((0, 0), (0, length - part[name].shape[1])), constant_values=filling)
                for part in parts
            ]
            batch[name] = torch.from_numpy(np.concatenate(arrays))
        return batch

    def _of_one_file(self, cells: CorpusCells) -> dict[str, np.ndarray]:
        encoding = self.tokenizer.encode_cells(
            cells.counts,
            cells.source.genes,
            input_type=cells.source.file.scale,
            seed=self.seed,
            max_length=self.max_length,
            return_tensors="np",
        )
        ids = encoding["input_ids"].copy()
        is_gene = self.tokenizer.gene_rows(encoding).numpy() >= 0
        labels = np.full_like(ids, _NO_LABEL)
        for row, position in enumerate(cells.positions.tolist()):
            genes = np.flatnonzero(is_gene[row])
            rng = np.random.default_rng([self.seed, position])
            chance = rng.random(len(genes))
            taken = genes[chance < self.mask_share] if (chance < self.mask_share).any() else genes[[chance.argmin()]]
            labels[row, taken] = ids[row, taken]
            fate = rng.random(len(taken))
            ids[row, taken[fate < _HIDDEN]] = self.tokenizer.mask_token_id
            replaced = taken[(fate >= _HIDDEN) & (fate < _REPLACED)]
            ids[row, replaced] = rng.integers(len(self.tokenizer), size=len(replaced))
        return {"input_ids": ids, "attention_mask": encoding["attention_mask"], "labels": labels}


def _with_genes(cells: CorpusCells) -> CorpusCells:
    """The cells that express a gene of the vocabulary."""
    counts = cells.counts
    known = (cells.source.genes.columns[counts.indices] >= 0) & (counts.data > 0)
    number = np.concatenate([[0], np.cumsum(known)])
    kept = number[counts.indptr[1:]] > number[counts.indptr[:-1]]
    if kept.all():
        return cells
    logger.warning_once(f"{cells.source.file.path} has cells without a gene of the vocabulary, which are left out")
    return CorpusCells(cells.source, counts[kept], cells.cells[kept], cells.positions[kept])


@dataclass
class MaskedGeneTrainingArguments(CorpusTrainingArguments):
    """`TrainingArguments` with the defaults that Geneformer was pretrained with, and the objective.

    The original's warm-up were 10,000 of about 570,000 steps.
    """

    per_device_train_batch_size: int = field(default=12, metadata={"help": "Cells a step and device."})
    per_device_eval_batch_size: int = field(default=12, metadata={"help": "Cells a step of evaluation."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=0.001, metadata={"help": "Weight decay of AdamW."})
    warmup_steps: float = field(default=0.02, metadata={"help": "Steps of linear warm-up; below 1, their share."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "How the learning rate changes."})
    mask_share: float = field(default=0.15, metadata={"help": "Share of a cell's genes to predict."})


class MaskedGeneTrainer(CorpusTrainer):
    """Pretrains a model with a head for masked genes on a `CellCorpus`, see `CorpusTrainer`.

    The loss is the mean cross-entropy over the predicted genes of a step, whatever the processes and batches that they
    are divided among. Unless the model is compiled, logits are computed for these genes alone, a seventh of all.

    Args:
        model: The model.
        args: The arguments.
        tokenizer: With the model's vocabulary.
        **kwargs: See `CorpusTrainer`.
    """

    args: MaskedGeneTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: MaskedGeneTrainingArguments,
        *,
        tokenizer: GeneVocabularyTokenizer,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault(
            "data_collator",
            MaskedGenes(
                tokenizer,
                mask_share=args.mask_share,
                max_length=model.config.max_position_embeddings,
                seed=args.seed,
            ),
        )
        super().__init__(model, args, tokenizer=tokenizer, compute_loss_func=masked_gene_loss, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's signature
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        with self._logits_where(inputs["labels"] != _NO_LABEL):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    @contextmanager
    def _logits_where(self, predicted: torch.Tensor) -> Iterator[None]:
        """Give the layer of the vocabulary the states of predicted genes alone, (genes, width)."""
        layer: Any = self.accelerator.unwrap_model(self.model).get_output_embeddings()
        if layer is None or self.args.torch_compile:
            yield
            return
        hook = layer.register_forward_pre_hook(lambda layer, given: (given[0][predicted],))
        try:
            yield
        finally:
            hook.remove()


def masked_gene_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy of the predicted genes, in float32.

    Args:
        outputs: With `logits` (cells, tokens, vocabulary), or (predicted genes, vocabulary).
        labels: (cells, tokens), -100 where nothing is predicted.
        num_items_in_batch: Predicted genes of the whole step; None for those of `labels`.
    """
    logits, predicted = outputs["logits"], labels != _NO_LABEL
    logits = logits if logits.dim() == 2 else logits[predicted]
    number = predicted.sum() if num_items_in_batch is None else num_items_in_batch
    return F.cross_entropy(logits.float(), labels[predicted], reduction="sum") / number


__all__ = ["MaskedGeneTrainer", "MaskedGeneTrainingArguments", "MaskedGenes", "masked_gene_loss"]
