"""Fine-tunes a family's token classifier to tell classes of genes apart, held out gene by gene."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from transformers import AutoModelForTokenClassification, TrainingArguments
from transformers.utils import logging

from state_hf.analysis.gene_profiles import gene_profiles
from state_hf.analysis.gene_scores import held_out_scores
from state_hf.analysis.label_scores import class_scores
from state_hf.data.cells.locations import as_location
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.gene_labels import GeneLabels, gene_folds, read_gene_labels
from state_hf.data.whole_files import folder_written_whole, written_whole
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.classifiers import new_classifier
from state_hf.inference.embedding_task import DeclaredInputType, inspect_source
from state_hf.inference.loading import evaluation_mode, load_tokenizer, model_digest
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.model_cards.card import write_model_card
from state_hf.model_cards.facts import read_json
from state_hf.tokenization.cell_tokenizer import CellTokenizer
from state_hf.training.checkpoints import last_complete_checkpoint
from state_hf.training.encoded_cells import EncodedCells, encode_to_disk
from state_hf.training.label_trainer import (
    TRAINED,
    LabelTrainer,
    Trained,
    choose_trained_weights,
    label_training_arguments,
    merged,
)

logger = logging.get_logger(__name__)

GENE_RECORD_FILE = "gene_finetuning.json"
_BLOCK_CELLS = 1024
# Expression profiles of genes are of so many cells; principal components need no more.
_PROFILE_CELLS = 2000
_PROFILES = "expression profile"
_INPUT_EMBEDDING = "input embedding"


@dataclass(frozen=True, eq=False)
class FineTunedGenes:
    """Classifiers of genes, each scored on genes that it has not seen, and one of all genes. `str()` is the scores.

    Attributes:
        folder: Where the classifier of all labelled genes lies.
        scores: One row a model (this one and the simple ones), one column a score, over all labelled genes that occur,
            each predicted by the fold that held it out; for two classes, `auroc_sd` is between folds.
        predictions: One row a gene: its label and fold, what is predicted, the share of every class, and in how many
            cells it occurs. Genes without a label are predicted by the classifier of all labelled ones.
        record: How it was made: settings, genes, audit.
    """

    folder: Path
    scores: pd.DataFrame
    predictions: pd.DataFrame
    record: dict[str, Any]

    def __str__(self) -> str:
        genes = self.record["genes"]
        counted = ", ".join(f"{name} {number:,}" for name, number in genes["classes"].items())
        lines = [f"genes: {counted}; {self.record['settings']['folds']} folds, {self.record['cells']:,} cells", ""]
        lines.append(self.scores.to_string(float_format=lambda value: f"{value:.3f}"))
        lines += [f"note: {sentence}" for sentence in self.record["audit"]]
        return "\n".join(lines)


def finetune_genes(
    cells: str | Path,
    output: str | Path,
    *,
    model: str | Path,
    gene_labels: str | Path,
    folds: int = 5,
    max_cells: int = 10_000,
    trained: Trained = "last",
    layers: int = 2,
    lora_rank: int = 8,
    class_weights: bool = True,
    epochs: float = 1,
    learning_rate: float | None = None,
    batch_size: int = 12,
    layer: str | None = None,
    gene_column: str | None = None,
    input_type: DeclaredInputType = "counts",
    seed: int = 0,
    bf16: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    training: TrainingArguments | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **encoding: Any,
) -> FineTunedGenes:
    """Fine-tune a model of any family with a token classifier to tell classes of genes apart, from cells' contexts.

    The genes are divided into folds, of every class the same share; for each fold a model learns from the others' genes
    in the cells, and predicts the fold's: the class whose probability is the largest on average over the cells that
    express the gene. The scores stand beside those of the most frequent class, and of logistic regression, a random
    forest and support vectors with the same folds, on the genes' expression profiles in the cells, and on the model's
    own input embeddings. A last model learns from all labelled genes; it is what is saved, and predicts the others.

    Args:
        cells: A .h5ad file or .zarr store; the cells need no labels.
        output: Folder for the model, its tokenizer, and the tables of scores and predictions.
        model: Folder or hub id of the model to start from.
        gene_labels: A table of genes and their classes, see `read_gene_labels`.
        folds: How often genes are held out.
        max_cells: Cells that are used, drawn at random where there are more.
        trained: "all" weights, the "last" layers, the "head" alone, or "lora" (low-rank changes, which are merged).
        layers: How many "last" layers.
        lora_rank: Rank of the changes.
        class_weights: Whether every class weighs the same in the loss, whatever its genes and their cells.
        epochs: Passes over the cells.
        learning_rate: Of AdamW. Default: 5e-5 for all weights, 1e-4 for the last layers, 1e-3 for a head, 3e-4 for
            low-rank changes.
        batch_size: Cells a step and process.
        layer: Layer to read, or "raw". Default: `X`.
        gene_column: Column of `var` with the gene names, or "index". Default: the one that matches best.
        input_type: "counts", "log1p", or "auto" to decide by a sample and say so.
        seed: Of the folds, the drawn cells, the new heads, and the order of the cells.
        bf16: Whether to compute in bfloat16 where that is safe.
        device: "cpu" even if there is a GPU.
        training: All of the training's arguments, instead of the ones above; its `output_dir` is not used.
        resume: Go on with an interrupted call with the same settings: folds that are finished are kept.
        overwrite: Replace a folder that exists, and throw away an unfinished run.
        **encoding: The tokenizer's own options. Default: as the model was trained.

    Returns:
        The scores and predictions, and where the model lies.

    Raises:
        FileExistsError: The output exists, or an unfinished run.
        ValueError: The options do not fit each other, the genes, or the model; or an interrupted run was made with
            other settings.
    """
    target = ResumableOutput(Path(output), resume=resume, overwrite=overwrite)
    target.refuse_existing()
    if trained not in TRAINED or max_cells < 1:
        raise ValueError(
            f"trained is one of {', '.join(TRAINED)}, and max_cells 1 or more; they are {trained!r}, {max_cells}"
        )
    probe = new_classifier(model, ["a", "b"], seed=seed, auto_class=AutoModelForTokenClassification)
    tokenizer = load_tokenizer(str(model), probe)
    encoder = CellEncoder(probe, tokenizer, seed=seed, **encoding)
    genes = read_gene_labels(gene_labels, tokenizer.gene_index)
    names = sorted(set(genes.labels))
    if len(names) < 2:
        raise ValueError(f"the genes of {gene_labels} that the model knows have one label, {names[0]}; it takes two")
    task = inspect_source(
        as_location(cells),
        encoder,
        layer=layer,
        gene_column=gene_column,
        input_type=input_type,
        model={"name": str(model), "sha256": model_digest(probe.base_model)},
        for_file=True,
    )
    logger.info(f"{task.name}: {task.num_cells:,} cells; {task.genes}")
    table = hashlib.sha256(Path(gene_labels).read_bytes()).hexdigest()
    settings = task.settings | {
        "gene_labels_sha256": table, "folds": folds, "max_cells": max_cells, "trained": trained, "layers": layers,
        "lora_rank": lora_rank, "class_weights": class_weights,
    }  # fmt: skip
    if training is None:
        settings |= {"epochs": epochs, "learning_rate": str(learning_rate), "batch_size": batch_size}
    if target.is_complete:
        target.check_complete(settings, read_json(target.path / GENE_RECORD_FILE).get("settings", {}))
        logger.info(f"{target.path} is already complete")
        return read_finetuned_genes(target.path)
    arguments = training or label_training_arguments(
        trained,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        bf16=bf16,
        device=device,
        seed=seed,
    )
    with arguments.main_process_first(desc="making room"):
        if arguments.process_index == 0:
            target.take_up({"run": settings})
            target.start(settings, num_rows=1, block_rows=1, part="run")
    chosen = np.arange(task.num_cells)
    if task.num_cells > max_cells:
        chosen = np.sort(np.random.default_rng(seed).choice(task.num_cells, max_cells, replace=False))
    with open_cells(cells).expression(layer) as matrix:
        folder = target.partial / "cells"
        with arguments.main_process_first(desc="tokenizing"):
            encode_to_disk(
                folder,
                matrix,
                encoder.tokenizer,
                task.genes,
                input_type=task.input_type,
                max_length=encoder.length,
                seed=seed,
                rows=chosen,
                **encoder.encoding,
            )
        profile_cells = _rows_of(matrix, chosen[:: max(1, len(chosen) // _PROFILE_CELLS)][:_PROFILE_CELLS])
    encoded = EncodedCells(folder, np.arange(len(chosen)))
    tokens = probe.get_input_embeddings().num_embeddings
    rows_of = tokenizer.gene_rows({"input_ids": torch.arange(tokens)[None]}).numpy()[0]
    occurring = np.zeros(len(tokenizer.gene_index.genes), np.int64)
    np.add.at(occurring, rows_of[rows_of >= 0], encoded.cells_of_tokens(tokens)[rows_of >= 0])
    audit = _audit(genes, occurring, task.num_cells, len(chosen))
    genes = genes.among(occurring[genes.rows] > 0)
    fold_of = gene_folds(genes, folds, seed=seed)
    work = _Work(
        model=str(model), names=names, encoded=encoded, rows_of=rows_of, occurring=occurring, trained=trained,
        layers=layers, lora_rank=lora_rank, class_weights=class_weights, seed=seed,
    )  # fmt: skip
    arguments.remove_unused_columns = False
    shares = np.full((len(genes.rows), len(names)), np.nan)
    for fold in range(folds):
        held_out = fold_of == fold
        found, _ = _one_training(work, genes.among(~held_out), arguments, target.partial / f"fold-{fold}")
        shares[held_out] = found[genes.rows[held_out]]
    found, tuned = _one_training(work, genes, arguments, target.partial / "all", keep=True)
    embeddings = probe.get_input_embeddings().weight.detach().float().cpu().numpy()
    features = {
        _PROFILES: gene_profiles(
            profile_cells, task.genes.columns, genes.rows, is_counts=task.input_type == "counts", seed=seed
        ),
        _INPUT_EMBEDDING: embeddings[work.tokens_of(genes.rows)].astype(np.float64),
    }
    scores = held_out_scores(shares, features, genes, names, fold_of, seed=seed)
    predictions = _predictions(tokenizer, genes, names, fold_of, shares, found, occurring)
    record = {
        "settings": settings,
        "model": str(model),
        "cells": len(chosen),
        "genes": {
            "classes": {name: int((genes.labels == name).sum()) for name in names},
            "unknown": genes.unknown,
        },
        "audit": audit,
        "training": {"epochs": arguments.num_train_epochs, "learning_rate": arguments.learning_rate},
    }
    with arguments.main_process_first(desc="writing"):
        if arguments.process_index == 0:
            with folder_written_whole(target.path, overwrite=True) as unfinished:
                scores.to_csv(unfinished / "gene_scores.csv")
                predictions.to_csv(unfinished / "gene_predictions.csv")
                (unfinished / GENE_RECORD_FILE).write_text(
                    json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8"
                )
                tuned.save_pretrained(unfinished)
                encoder.tokenizer.save_pretrained(unfinished)  # type: ignore[attr-defined]
                write_model_card(unfinished, name=target.path.resolve().name)
            target.delete_partial()
            logger.info(f"Wrote {target.path}: {type(tuned).__name__}, {len(names)} classes")
    return read_finetuned_genes(target.path)


@dataclass(frozen=True, eq=False)
class _Work:
    """What all trainings of a call have in common; `rows_of` are the vocabulary rows of token ids, -1 for no gene."""

    model: str
    names: list[str]
    encoded: EncodedCells
    rows_of: np.ndarray
    occurring: np.ndarray
    trained: Trained
    layers: int
    lora_rank: int
    class_weights: bool
    seed: int

    def tokens_of(self, rows: np.ndarray) -> np.ndarray:
        """(genes,) token ids of rows of the vocabulary."""
        token = np.zeros(len(self.occurring), np.int64)
        is_gene = self.rows_of >= 0
        token[self.rows_of[is_gene]] = np.flatnonzero(is_gene)
        return token[rows]


def _one_training(
    work: _Work, genes: GeneLabels, arguments: TrainingArguments, folder: Path, *, keep: bool = False
) -> tuple[np.ndarray, Any]:
    """Train on some genes. Returns (vocabulary genes, classes) mean probabilities over cells, and the model if kept."""
    kept = folder.with_suffix(".npy")
    if kept.exists() and not keep:
        return np.load(kept), None
    model = new_classifier(work.model, work.names, seed=work.seed, auto_class=AutoModelForTokenClassification)
    number = {name: at for at, name in enumerate(work.names)}
    classes = np.array([number[label] for label in genes.labels])
    token_labels = np.full(len(work.rows_of), -100, np.int64)
    token_labels[work.tokens_of(genes.rows)] = classes
    rows = np.flatnonzero(work.encoded.holding(work.tokens_of(genes.rows)))
    weights = None
    if work.class_weights:
        tokens = np.bincount(classes, weights=work.occurring[genes.rows], minlength=len(work.names))
        weights = tokens.sum() / (len(work.names) * tokens)
    arguments.output_dir = str(folder)
    trainer = LabelTrainer(
        model=choose_trained_weights(model, work.trained, layers=work.layers, lora_rank=work.lora_rank),
        args=arguments,
        train_dataset=EncodedCells(work.encoded.folder, rows, token_labels=token_labels),
        scores=class_scores,
        class_weights=weights,
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    tuned = merged(trainer.accelerator.unwrap_model(trainer.model)).eval()
    found = _mean_shares(tuned, work, arguments)
    if trainer.is_world_process_zero():
        with written_whole(kept) as temporary, temporary.open("wb") as stream:
            np.save(stream, found)
    trainer.accelerator.wait_for_everyone()
    return found, tuned


def _mean_shares(model: Any, work: _Work, arguments: TrainingArguments) -> np.ndarray:
    """(vocabulary genes, classes) probabilities, means over the cells that express a gene; NaN without one."""
    sums = torch.zeros(len(work.rows_of), len(work.names), dtype=torch.float64)
    order = np.argsort(-work.encoded.lengths, kind="stable")
    step = arguments.per_device_eval_batch_size
    with evaluation_mode(model), logging.tqdm(total=len(order), unit=" cells", desc="predict") as bar:
        for start in range(0, len(order), step):
            batch = work.encoded.__getitems__(order[start : start + step].tolist())
            inputs = {name: values.to(model.device) for name, values in batch.items()}
            shares = model(**inputs).logits.float().softmax(dim=-1).double().cpu()
            real = batch["attention_mask"] == 1
            sums.index_add_(0, batch["input_ids"][real], shares[real])
            bar.update(len(batch["input_ids"]))
    found = sums.numpy()[work.tokens_of(np.arange(len(work.occurring)))]
    return found / np.where(work.occurring > 0, work.occurring, np.nan)[:, None]


def _rows_of(cells: CellMatrix, rows: np.ndarray) -> sparse.csr_array:
    def parts() -> Iterator[sparse.csr_matrix]:
        for start in range(0, cells.num_cells, _BLOCK_CELLS):
            inside = rows[(rows >= start) & (rows < start + _BLOCK_CELLS)]
            if len(inside):
                yield cells.block(start, start + _BLOCK_CELLS)[inside - start]

    return sparse.csr_array(sparse.vstack(list(parts()), format="csr"))


def _audit(genes: GeneLabels, occurring: np.ndarray, num_cells: int, used: int) -> list[str]:
    """What can be said against the scores, a sentence each."""
    found = [
        "genes are held out, cells are not: held-out genes, without their labels, were part of the contexts in which "
        "the others were learnt"
    ]
    if genes.groups is None:
        found.append(
            "genes of one family resemble each other, and may be on both sides of the split (a column `group` in the "
            "table holds whole families out)"
        )
    if genes.unknown:
        named = ", ".join(genes.unknown[:5])
        found.append(f"{len(genes.unknown):,} genes of the table are not in the vocabulary, and left out ({named})")
    absent = int((occurring[genes.rows] == 0).sum())
    if absent:
        found.append(f"{absent:,} labelled genes are among the tokens of no cell, so nothing is learnt or said of them")
    if used < num_cells:
        found.append(f"{used:,} of {num_cells:,} cells are used, drawn at random")
    return found


def _predictions(
    tokenizer: CellTokenizer,
    genes: GeneLabels,
    names: list[str],
    fold_of: np.ndarray,
    shares: np.ndarray,
    of_all: np.ndarray,
    occurring: np.ndarray,
) -> pd.DataFrame:
    rows = np.flatnonzero(occurring > 0)
    found = of_all[rows]
    place = np.searchsorted(rows, genes.rows)
    found[place] = shares
    label, fold = np.full(len(rows), "", object), np.full(len(rows), -1)
    label[place], fold[place] = genes.labels, fold_of
    table = {
        "label": label,
        "fold": fold,
        "predicted": np.array(names)[found.argmax(axis=1)],
        **{f"share_{name}": found[:, at] for at, name in enumerate(names)},
        "cells": occurring[rows],
    }
    return pd.DataFrame(table, index=pd.Index([tokenizer.gene_index.genes[row] for row in rows], name="gene"))


def read_finetuned_genes(folder: str | Path) -> FineTunedGenes:
    """What `finetune_genes` wrote into a folder.

    Raises:
        FileNotFoundError: It wrote nothing there.
    """
    folder = Path(folder)
    record = read_json(folder / GENE_RECORD_FILE)
    if not record:
        raise FileNotFoundError(f"{folder} has no {GENE_RECORD_FILE}, which finetune_genes writes")
    scores, predictions = (
        pd.read_csv(folder / f"gene_{name}.csv", index_col=0, keep_default_na=name == "scores")
        for name in ("scores", "predictions")
    )
    return FineTunedGenes(folder, scores, predictions, record)


__all__ = ["FineTunedGenes", "finetune_genes", "read_finetuned_genes"]
