"""From a manifest of files to a pretrained State Embedding model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, set_seed
from transformers.utils import logging

from state_hf.analysis.neighbour_probe import NeighbourProbe
from state_hf.configuration.file_permissions import check_readable
from state_hf.configuration.model_folders import loading_from
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.data.corpus.cell_corpus import CellCorpus
from state_hf.data.corpus.corpus_files import open_corpus_file
from state_hf.data.corpus.corpus_manifest import CorpusFile, read_manifest
from state_hf.inference.loading import refuse_missing_weights
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer
from state_hf.training.checkpoints import CHECKPOINTS, clear_training, start_of_training
from state_hf.training.dataset_classes import extend_datasets
from state_hf.training.state_embedding_arguments import StateEmbeddingTrainingArguments
from state_hf.training.state_embedding_trainer import EmbeddingMetrics, StateEmbeddingTrainer

logger = logging.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class PretrainedModel:
    """What a pretraining gives.

    Attributes:
        model: The trained model, with the averaged weights if an average was kept.
        tokenizer: Its tokenizer.
        metrics: Of the held-out cells; empty without any.
        history: What was logged, as `Trainer` keeps it.
        folder: Where both were saved.
    """

    model: StateEmbeddingForMaskedExpression
    tokenizer: StateEmbeddingTokenizer
    metrics: dict[str, float]
    history: list[dict[str, float]]
    folder: Path


def pretrain(
    manifest: str | Path | Sequence[CorpusFile],
    output: str | Path,
    *,
    training: StateEmbeddingTrainingArguments,
    initial_model: str | Path | None = None,
    genes: str | Path | None = None,
    gene_embeddings: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    corpus: Mapping[str, Any] | None = None,
    held_out: float = 0.0,
    probe: str | Path | None = None,
    probe_label: str = "cell_type",
    callbacks: Sequence[Any] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> PretrainedModel:
    """Pretrain a State Embedding model, or go on with one.

    Args:
        manifest: The files, see `read_manifest`.
        output: Folder for the model and its tokenizer; checkpoints go to `checkpoints/` in it.
        training: Arguments of the Trainer; its `output_dir` is replaced.
        initial_model: A model to go on with (folder or hub id), with its tokenizer; it gets classes for new datasets.
        genes: `genes.txt`, the vocabulary of a new model; by default every gene of the files.
        gene_embeddings: .safetensors with the tensor `gene_embeddings` (genes, width) in the vocabulary's order, which
            stay fixed; by default they are learnt, at the configuration's width.
        config: Fields of the new model's `StateEmbeddingConfig` that differ from the defaults.
        corpus: Arguments of `CellCorpus` that differ from the defaults.
        held_out: Share of the cells that are held out and evaluated on.
        probe: A labelled file, on which a nearest-neighbour probe is evaluated.
        probe_label: Its column of obs with the labels.
        callbacks: Callbacks of the Trainer.
        resume: Whether to go on from the last complete checkpoint in `output`.
        overwrite: Whether to start anew in a folder that holds a training, which is lost.

    Raises:
        FileExistsError: The output holds a model or checkpoints, and neither `resume` nor `overwrite` is set.
        ValueError: Files, model or options do not fit each other; the message says what to change.
    """
    folder = Path(output)
    checkpoint = start_of_training(folder, resume=resume, overwrite=overwrite)
    files = read_manifest(manifest) if isinstance(manifest, str | Path) else list(manifest)
    set_seed(training.seed)
    tokenizer: Any
    if initial_model is not None:
        if config or genes or gene_embeddings:
            raise ValueError("The initial model has its sizes and genes: give no config, genes or gene embeddings.")
        with loading_from(initial_model):
            tokenizer = AutoTokenizer.from_pretrained(str(initial_model), trust_remote_code=False)
            model, info = StateEmbeddingForMaskedExpression.from_pretrained(
                str(initial_model), output_loading_info=True
            )
        # The heads of an embedding model are new; the rest of it is what training goes on with.
        body = {name for name in info["missing_keys"] if name.startswith(f"{model.base_model_prefix}.")}
        refuse_missing_weights(initial_model, body)
    else:
        tokenizer = _tokenizer(files, genes, config or {})
        model = _new_model(tokenizer, files, gene_embeddings, dict(config or {}))
    if model.config.use_dataset_token:
        new = extend_datasets(model, [file.dataset for file in files])
        if new:
            logger.info(f"the model has {len(new)} new datasets, {new[0]!r} among them")
    options = {"seed": training.seed, "cache": folder / "corpus", **(corpus or {})}
    cells = CellCorpus(files, tokenizer, **options)
    held: CellCorpus | None = None
    if held_out:
        cells, held = cells.split(held_out, seed=training.seed)
    if overwrite:
        with training.main_process_first(desc="clearing the folder"):
            if training.process_index == 0:
                clear_training(folder)
    folder.mkdir(parents=True, exist_ok=True)
    training.output_dir = str(folder / CHECKPOINTS)
    metrics_of: EmbeddingMetrics | None = None
    if probe is not None:
        metrics_of = NeighbourProbe(probe, tokenizer, label_key=probe_label)
    trainer = StateEmbeddingTrainer(
        model, training, tokenizer=tokenizer, train_dataset=cells, eval_dataset=held,
        compute_embedding_metrics=metrics_of, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.train(checkpoint)
    metrics = trainer.evaluate() if held is not None else {}
    with trainer.averaged():
        trainer.save_model(str(folder))
    if trainer.average is not None:
        trainer.average.put_into(model)
    return PretrainedModel(model, tokenizer, metrics, trainer.state.log_history, folder)


def _tokenizer(
    files: Sequence[CorpusFile], genes: str | Path | None, config: Mapping[str, Any]
) -> StateEmbeddingTokenizer:
    names: Any = str(genes) if genes is not None else corpus_genes(files)
    options = {"model_max_length": config.get("max_position_embeddings", 2048)}
    return StateEmbeddingTokenizer(names, fill="none", cls_expression=config.get("cls_expression", "zero"), **options)


def corpus_genes(files: Sequence[CorpusFile]) -> list[str]:
    """Every gene name of some files, sorted: the vocabulary of a model whose gene embeddings are learnt."""
    names: set[str] = set()
    for file in files:
        with open_corpus_file(file) as cells:
            column = file.gene_column
            values = cells.var.index if column in (None, "index") else cells.var[column]
            names.update(name for name in values.astype(str) if name and len(name.split()) == 1)
    return sorted(names)


def _new_model(
    tokenizer: StateEmbeddingTokenizer,
    files: Sequence[CorpusFile],
    gene_embeddings: str | Path | None,
    config: dict[str, Any],
) -> StateEmbeddingForMaskedExpression:
    # Not by default: with a token, the decoder learns of the cell by its dataset embedding too, which is not
    # normalised, and cell types lie closer together in the cell embedding.
    fields: dict[str, Any] = {"use_dataset_token": False, "train_gene_table": gene_embeddings is None, **config}
    fields["num_genes"] = tokenizer.vocab_size
    if fields["use_dataset_token"]:
        names = list(dict.fromkeys(file.dataset for file in files))
        classes = {name: number for number, name in enumerate(names)}
        fields |= {"num_datasets": len(names), "dataset_classes": classes}
    table = None
    if gene_embeddings is not None:
        check_readable(gene_embeddings)
        tensors = load_file(str(gene_embeddings))
        table = tensors.get("gene_embeddings")
        if table is None or table.dim() != 2 or len(table) != tokenizer.vocab_size:
            found = {name: tuple(value.shape) for name, value in tensors.items()}
            raise ValueError(
                f"{gene_embeddings} has no tensor 'gene_embeddings' of {tokenizer.vocab_size:,} rows; it has {found}"
            )
        fields["gene_embedding_dim"] = table.shape[1]
    model = StateEmbeddingForMaskedExpression(StateEmbeddingConfig(**fields))
    if table is not None:
        with torch.no_grad():
            model.state_embedding.gene_table.weight.copy_(table)
    return model


__all__ = ["PretrainedModel", "corpus_genes", "pretrain"]
