"""A Trainer that pretrains State Embedding models on a corpus of cells."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from state_hf.data.corpus.cell_corpus import CellCorpus, CorpusCells
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer
from state_hf.training.corpus_trainer import CorpusTrainer
from state_hf.training.decoded_expression import decoded_expression_pearson, variable_genes
from state_hf.training.expression_targets import ExpressionTargets
from state_hf.training.state_embedding_arguments import StateEmbeddingTrainingArguments
from state_hf.training.throughput import training_flops

_DECODED_GENES, _DECODED_CELLS = 256, 2048


class StateEmbeddingTrainer(CorpusTrainer):
    """Pretrains a State Embedding model on a `CellCorpus`, see `CorpusTrainer`.

    An evaluation correlates decoded with measured expression, too.

    Args:
        model: The model.
        args: The arguments.
        tokenizer: With the model's vocabulary.
        **kwargs: See `CorpusTrainer`.

    Raises:
        ValueError: The corpus has less cells than a step, or the model lacks a dataset's class.
    """

    args: StateEmbeddingTrainingArguments
    loss_parts: ClassVar[tuple[str, ...]] = ("expression_loss", "dataset_loss")

    def __init__(
        self,
        model: StateEmbeddingForMaskedExpression,
        args: StateEmbeddingTrainingArguments,
        *,
        tokenizer: StateEmbeddingTokenizer,
        **kwargs: Any,
    ) -> None:
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        kwargs.setdefault("data_collator", _collator(args, model.config, tokenizer, cells_per_step=step))
        super().__init__(model, args, tokenizer=tokenizer, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Operations of the matrix products of a step, see `training_flops`."""
        cells, tokens = inputs["input_ids"].shape
        targets = inputs["labels"].shape[1]
        return int(training_flops(self.config, cells=cells, tokens=tokens, targets=targets))

    def decoding_metrics(self, model: StateEmbeddingForMaskedExpression, dataset: CellCorpus) -> Mapping[str, float]:
        """Correlations of decoded with measured expression."""
        genes = variable_genes(self._some_cells(dataset), self.config.num_genes, _DECODED_GENES)
        collator: Any = self.data_collator
        return decoded_expression_pearson(model, self._some_cells(dataset), collator, genes)

    def _some_cells(self, dataset: CellCorpus) -> Iterator[Sequence[CorpusCells]]:
        number = min(len(dataset), _DECODED_CELLS)
        for start in range(0, number, self.args.eval_batch_size):
            yield dataset.__getitems__(range(start, min(number, start + self.args.eval_batch_size)))


def _collator(
    args: StateEmbeddingTrainingArguments, config: Any, tokenizer: StateEmbeddingTokenizer, *, cells_per_step: int
) -> ExpressionTargets:
    return ExpressionTargets(
        tokenizer,
        expressed=args.expressed_targets,
        unexpressed=args.unexpressed_targets,
        shared=args.shared_targets,
        views=args.views,
        lowest_share=args.lowest_share,
        hidden_share=tuple(args.hidden_share),  # type: ignore[arg-type]
        unexpressed_genes=args.unexpressed_genes,
        # Only these two leave labels out that there are not.
        unmeasured="unlabelled" if config.expression_loss in ("mse", "bce") else "zero",
        sentence_length=args.sentence_length or config.max_position_embeddings,
        dataset_classes=config.dataset_classes if config.use_dataset_token else None,
        cells_per_step=cells_per_step,
        seed=args.seed,
    )


__all__ = ["StateEmbeddingTrainer"]
