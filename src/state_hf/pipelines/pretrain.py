"""From a manifest of files to a pretrained model, of any family that has an objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from state_hf.analysis.neighbour_probe import NeighbourProbe
from state_hf.data.corpus.cell_corpus import CellCorpus
from state_hf.data.corpus.corpus_manifest import CorpusFile, read_manifest
from state_hf.tokenization.gene_vocabulary import GeneVocabularyTokenizer
from state_hf.training.checkpoints import CHECKPOINTS, clear_training, start_of_training
from state_hf.training.corpus_arguments import CorpusTrainingArguments
from state_hf.training.corpus_trainer import EmbeddingMetrics
from state_hf.training.pretraining_objective import objective_for


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

    model: PreTrainedModel
    tokenizer: GeneVocabularyTokenizer
    metrics: dict[str, float]
    history: list[dict[str, float]]
    folder: Path


def pretrain(
    manifest: str | Path | Sequence[CorpusFile],
    output: str | Path,
    *,
    training: CorpusTrainingArguments,
    initial_model: str | Path | None = None,
    tokenizer: str | Path | None = None,
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
    """Pretrain a model, or go on with one.

    Its family is that of the initial model, or of the tokenizer; without either, it is State Embedding.

    Args:
        manifest: The files, see `read_manifest`.
        output: Folder for the model and its tokenizer; checkpoints go to `checkpoints/` in it.
        training: Arguments of the Trainer, of the family's class; its `output_dir` is replaced.
        initial_model: A model to go on with (folder or hub id), with its tokenizer. A State Embedding model gets
            classes for new datasets.
        tokenizer: Instead, a tokenizer (folder or hub id) that a new model is made for.
        genes: `genes.txt`, the vocabulary of a new model without a tokenizer; by default every gene of the files.
        gene_embeddings: .safetensors with the tensor `gene_embeddings` (genes, width) in the vocabulary's order, which
            stay fixed; by default they are learnt, at the configuration's width.
        config: Fields of the new model's configuration that differ from the family's defaults.
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
    if initial_model is not None and (config or tokenizer or genes or gene_embeddings):
        raise ValueError(
            "The initial model has its sizes, tokenizer and genes: give no config, tokenizer, genes or gene embeddings."
        )
    objective, words = objective_for(initial_model or tokenizer)
    if not isinstance(training, objective.arguments):
        raise ValueError(f"training is a {type(training).__name__}; it has to be a {objective.arguments.__name__}")
    if initial_model is not None:
        model = objective.continued(initial_model, words, files)
    else:
        model, words = objective.started(
            words, files, genes=genes, gene_embeddings=gene_embeddings, config=config or {}
        )
    options = {"seed": training.seed, "cache": folder / "corpus", **(corpus or {})}
    cells = CellCorpus(files, words, **options)
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
        metrics_of = NeighbourProbe(probe, words, label_key=probe_label)
    trainer = objective.trainer(
        model, training, tokenizer=words, train_dataset=cells, eval_dataset=held,
        compute_embedding_metrics=metrics_of, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.train(checkpoint)
    metrics = trainer.evaluate() if held is not None else {}
    with trainer.averaged():
        trainer.save_model(str(folder))
    if trainer.average is not None:
        trainer.average.put_into(model)
    return PretrainedModel(model, words, metrics, trainer.state.log_history, folder)


__all__ = ["PretrainedModel", "pretrain"]
