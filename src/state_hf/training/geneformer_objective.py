"""Geneformer's pretraining: masked genes, by a stock BERT."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging

from state_hf.configuration.geneformer import new_bert_config
from state_hf.configuration.model_folders import loading_from, refuse_missing_weights
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.tokenization.geneformer import GeneformerTokenizer
from state_hf.training.masked_genes import MaskedGeneTrainer, MaskedGeneTrainingArguments

logger = logging.get_logger(__name__)


class _GeneformerObjective:
    """See `PretrainingObjective`."""

    arguments = MaskedGeneTrainingArguments
    epochs = 3.0

    def continued(
        self, model: str | Path, tokenizer: GeneformerTokenizer, files: Sequence[CorpusFile]
    ) -> BertForMaskedLM:
        stock: Any = BertForMaskedLM
        with loading_from(model):
            loaded, info = stock.from_pretrained(str(model), output_loading_info=True)
        tokenizer.check_model(loaded.config)
        head = {name for name in info["missing_keys"] if name.startswith("cls.")}
        refuse_missing_weights(model, set(info["missing_keys"]) - head)
        if head:
            logger.warning(f"{model} has no head for masked genes: it starts from random numbers")
        return loaded

    def started(
        self,
        tokenizer: GeneformerTokenizer,
        files: Sequence[CorpusFile],
        *,
        genes: str | Path | None,
        gene_embeddings: str | Path | None,
        config: Mapping[str, Any],
    ) -> tuple[BertForMaskedLM, GeneformerTokenizer]:
        if genes is not None or gene_embeddings is not None:
            raise ValueError("The tokenizer has its genes, and their embeddings are learnt: give neither beside it.")
        unknown = sorted(config.keys() - set(BertConfig().to_dict()))
        if unknown:
            raise ValueError(f"A BERT has no {', '.join(unknown)}: leave it out.")
        fields = {"max_position_embeddings": tokenizer.model_max_length, **config}
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        made = new_bert_config(vocab_size=len(tokenizer), **ends, **fields)
        tokenizer.model_max_length = made.max_position_embeddings
        return BertForMaskedLM(made), tokenizer

    def trainer(self, model: Any, args: Any, *, tokenizer: GeneformerTokenizer, **options: Any) -> MaskedGeneTrainer:
        return MaskedGeneTrainer(model, args, tokenizer=tokenizer, **options)


GENEFORMER_PRETRAINING = _GeneformerObjective()

__all__ = ["GENEFORMER_PRETRAINING"]
