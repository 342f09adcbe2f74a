"""Fine-tunes a family's sequence classifier on labelled cells, and says what simple answers reach on the same cells."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments
from transformers.utils import logging

from state_hf.analysis.label_scores import class_scores, regression_scores
from state_hf.analysis.split_scores import blocks_of, scores_of_split
from state_hf.configuration.wording import counted
from state_hf.data.cells.anndata_files import read_groups, read_labels, read_obs_column
from state_hf.data.cells.group_split import PARTS, LabelledSplit, shared_profiles, split_labelled_cells
from state_hf.data.cells.locations import as_location
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.whole_files import folder_written_whole
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.classifiers import new_classifier
from state_hf.inference.embedding_task import DeclaredInputType, inspect_source
from state_hf.inference.loading import load_tokenizer, model_digest
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.model_cards.card import write_model_card
from state_hf.model_cards.facts import read_json
from state_hf.training.checkpoints import last_complete_checkpoint
from state_hf.training.encoded_cells import EncodedCells, encode_to_disk
from state_hf.training.hyperparameter_search import search_settings, trials_of
from state_hf.training.label_trainer import (
    TRAINED,
    LabelTrainer,
    Trained,
    choose_trained_weights,
    label_training_arguments,
    merged,
)

logger = logging.get_logger(__name__)

Task = Literal["classification", "regression"]
RECORD_FILE = "finetuning.json"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned classifier, and how well it does. `str()` is the table of scores.

    Attributes:
        folder: Where the model lies.
        scores: One row a model (this one and the baselines), one column a score, on the test part.
        per_class: Precision, recall, F1 and cells of every class; None for a regression.
        confusion: (true, predicted) numbers of cells; None for a regression.
        record: How it was made: settings, split with its audit, scores.
    """

    folder: Path
    scores: pd.DataFrame
    per_class: pd.DataFrame | None
    confusion: pd.DataFrame | None
    record: dict[str, Any]

    def __str__(self) -> str:
        cells, groups = self.record["split"]["cells"], self.record["split"]["groups"]
        sizes = ", ".join(
            f"{part} {cells[part]:,}" + (f" ({counted(len(groups[part]), 'group')})" if groups[part] else "")
            for part in PARTS
        )
        lines = [f"cells: {sizes}", "", self.scores.to_string(float_format=lambda value: f"{value:.3f}")]
        lines += [f"note: {sentence}" for sentence in self.record["split"]["audit"]]
        return "\n".join(lines)


def finetune(
    reference: str | Path,
    output: str | Path,
    *,
    model: str | Path,
    label_key: str = "cell_type",
    task: Task = "classification",
    trained: Trained = "all",
    layers: int = 2,
    lora_rank: int = 8,
    group_key: str | None = None,
    val_share: float = 0.1,
    test_share: float = 0.2,
    class_weights: bool = True,
    trials: int = 0,
    epochs: float = 10,
    learning_rate: float | None = None,
    batch_size: int = 16,
    patience: int = 3,
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
) -> FineTuned:
    """Fine-tune a model of any family with a sequence classifier on labelled cells.

    Cells are tokenized once, divided into parts that train, choose the checkpoint, and are scored, and the scores stand
    beside those of the most frequent class (or mean), and of logistic regression, a random forest and support vectors
    (or ridge) on variable genes, fitted to the same cells.

    Args:
        reference: A labelled .h5ad file or .zarr store.
        output: Folder for the model, its tokenizer, the tables of scores and the test part's predictions.
        model: Folder or hub id of the model to start from, with or without a head.
        label_key: Column of obs with the labels; cells without one are left out.
        task: Whether labels are classes or numbers.
        trained: "all" weights, the "last" layers, the "head" alone, or "lora" (low-rank changes, which are merged at
            the end).
        layers: How many "last" layers.
        lora_rank: Rank of the changes.
        group_key: Column of obs whose values (donors, batches) stay on one side of the split. Default: cells are
            divided at random, which the audit says.
        val_share: Share of the cells that choose the checkpoint and end the training, in [0, 1).
        test_share: Share of the cells that are scored, in (0, 1).
        class_weights: Whether every class weighs the same in the loss, whatever its size.
        trials: So many trainings with other settings come first, drawn as `search_settings` says; those of the best on
            the validation cells are trained with.
        epochs: Most passes over the training cells.
        learning_rate: Of AdamW. Default: 5e-5 for all weights, 1e-4 for the last layers, 1e-3 for a head, 3e-4 for
            low-rank changes.
        batch_size: Cells a step and process.
        patience: The training ends when so many epochs brought no improvement on the validation cells.
        layer: Layer to read, or "raw". Default: `X`.
        gene_column: Column of `var` with the gene names, or "index". Default: the one that matches best.
        input_type: "counts", "log1p", or "auto" to decide by a sample and say so.
        seed: Of the split, the new head, and the order of the cells.
        bf16: Whether to compute in bfloat16 where that is safe.
        device: "cpu" even if there is a GPU.
        training: All of the training's arguments, instead of the ones above; its `output_dir` is not used.
        resume: Go on from the last checkpoint of an interrupted call with the same settings.
        overwrite: Replace a folder that exists, and throw away an unfinished run.
        **encoding: The tokenizer's own options. Default: as the model was trained.

    Returns:
        The scores, and where the model lies.

    Raises:
        FileExistsError: The output exists, or an unfinished run.
        ValueError: The options do not fit each other, the labels, or the model; or an interrupted run was made with
            other settings.
    """
    target = ResumableOutput(Path(output), resume=resume, overwrite=overwrite)
    target.refuse_existing()
    if task not in ("classification", "regression") or trained not in TRAINED:
        raise ValueError(
            f"task is 'classification' or 'regression', and trained one of {', '.join(TRAINED)}; they are {task!r} and "
            f"{trained!r}"
        )
    by_class = task == "classification"
    labels = _labels(reference, label_key, by_class=by_class)
    groups = None if group_key is None else read_groups(reference, group_key)
    split = split_labelled_cells(
        labels, groups=groups, val_share=val_share, test_share=test_share, seed=seed, by_class=by_class
    )
    names = sorted(set(labels[split.rows["train"]])) if by_class else []
    if by_class and len(names) < 2:
        raise ValueError(f"the training cells have one label in obs[{label_key!r}], {names}; a classifier needs two")
    loaded = new_classifier(model, names, seed=seed)
    encoder = CellEncoder(loaded, load_tokenizer(str(model), loaded), seed=seed, **encoding)
    task_of = inspect_source(
        as_location(reference),
        encoder,
        layer=layer,
        gene_column=gene_column,
        input_type=input_type,
        model={"name": str(model), "sha256": model_digest(loaded.base_model)},
        for_file=True,
    )
    logger.info(f"{task_of.name}: {task_of.num_cells:,} cells; {task_of.genes}")
    settings = task_of.settings | {
        "label_key": label_key, "labels_sha256": hashlib.sha256("\n".join(map(str, labels)).encode()).hexdigest(),
        "task": task, "trained": trained, "layers": layers, "lora_rank": lora_rank, "group_key": str(group_key),
        "val_share": val_share, "test_share": test_share, "class_weights": class_weights, "trials": trials,
    }  # fmt: skip
    if target.is_complete:
        target.check_complete(settings, read_json(target.path / RECORD_FILE).get("settings", {}))
        logger.info(f"{target.path} is already complete")
        return read_finetuned(target.path)
    validates = len(split.rows["val"]) > 0
    if trials and (not validates or training is not None):
        raise ValueError("trials are compared on validation cells (val_share above 0), and set the training themselves")
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
    arguments.output_dir = str(target.partial / "checkpoints")
    # Batches come whole, with what the model reads and the labels.
    arguments.remove_unused_columns = False
    if training is None:
        arguments.eval_strategy = arguments.save_strategy = "epoch" if validates else "no"
        arguments.load_best_model_at_end = validates
        arguments.metric_for_best_model = "macro_f1" if by_class else "mae"
        arguments.greater_is_better = by_class
        arguments.save_total_limit = 2
    with open_cells(reference).expression(layer) as cells:
        with arguments.main_process_first(desc="tokenizing"):
            encode_to_disk(
                target.partial / "cells",
                cells,
                encoder.tokenizer,
                task_of.genes,
                input_type=task_of.input_type,
                max_length=encoder.length,
                seed=seed,
                **encoder.encoding,
            )
        digests = _digests(cells)
        parts = {part: _part(target.partial / "cells", rows, labels, names) for part, rows in split.rows.items()}
        doubled = shared_profiles(digests, split.rows)
        if doubled:
            split.audit.append(f"{doubled:,} cells of the other parts have exactly the expression of a training cell")
        common: dict[str, Any] = {
            "args": arguments,
            "train_dataset": parts["train"],
            "eval_dataset": parts["val"] if validates else None,
            "scores": class_scores if by_class else regression_scores,
            "class_weights": _weights(parts["train"], len(names)) if by_class and class_weights else None,
            "by_class": by_class,
        }

        def chosen_weights() -> PreTrainedModel:
            fresh = new_classifier(model, names, seed=seed)
            return choose_trained_weights(fresh, trained, layers=layers, lora_rank=lora_rank)

        if trials:
            search_settings(
                target.partial / "search", lambda: LabelTrainer(model_init=chosen_weights, **common), trials
            )
        trainer = LabelTrainer(
            model=chosen_weights(),
            callbacks=[EarlyStoppingCallback(patience)] if validates and training is None else [],
            **common,
        )
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(arguments.output_dir))
        tuned = merged(trainer.accelerator.unwrap_model(trainer.model)).eval()
        logits = np.asarray(trainer.predict(parts["test"]).predictions)
        predictions = _predictions(logits, labels, split, names, cells)
        is_counts = task_of.input_type == "counts"
        result = scores_of_split(predictions, labels, split, names, cells, is_counts=is_counts, seed=seed)
    if trainer.is_world_process_zero():
        record = {
            "settings": settings,
            "split": split.to_dict(),
            "training": {
                "epochs": trainer.state.epoch,
                "steps": trainer.state.global_step,
                "learning_rate": arguments.learning_rate,
                "batch_size": arguments.per_device_train_batch_size,
                "best": trainer.state.best_metric,
                "trials": trials_of(target.partial / "search"),
            },
            "model": str(model),
        }
        _write(target.path, tuned, encoder.tokenizer, result, predictions, record)
        target.delete_partial()
        logger.info(f"Wrote {target.path}: {type(tuned).__name__}, {len(names) or 1} outputs")
    trainer.accelerator.wait_for_everyone()
    return read_finetuned(target.path)


def _labels(reference: str | Path, label_key: str, *, by_class: bool) -> np.ndarray:
    if by_class:
        return read_labels(reference, label_key)
    column = read_obs_column(reference, label_key)
    try:
        return pd.to_numeric(column.astype(object)).to_numpy(dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"obs[{label_key!r}] of {reference} is no column of numbers, which a regression needs"
        ) from error


def _digests(cells: CellMatrix) -> np.ndarray:
    """(cells,) digests of their expression."""
    digests: list[str] = []
    for _, block in blocks_of(cells):
        for start, stop in zip(block.indptr[:-1], block.indptr[1:], strict=True):
            order = np.argsort(block.indices[start:stop], kind="stable")
            digest = hashlib.blake2b(block.indices[start:stop][order].astype(np.int64).data, digest_size=8)
            digest.update(block.data[start:stop][order].astype(np.float32).data)
            digests.append(digest.hexdigest() if stop > start else f"empty {len(digests)}")
    return np.array(digests)


def _part(folder: Path, rows: np.ndarray, labels: np.ndarray, names: list[str]) -> EncodedCells:
    if not names:
        return EncodedCells(folder, rows, labels[rows].astype(np.float32))
    # A label that no training cell has is wrong whatever is predicted; cross-entropy leaves it out.
    numbers = {name: number for number, name in enumerate(names)}
    return EncodedCells(folder, rows, np.array([numbers.get(label, -100) for label in labels[rows]], dtype=np.int64))


def _weights(part: EncodedCells, number: int) -> np.ndarray:
    counts = np.bincount(np.asarray(part.labels), minlength=number)
    return len(part) / (number * counts)


def _predictions(
    logits: np.ndarray, labels: np.ndarray, split: LabelledSplit, names: list[str], cells: CellMatrix
) -> pd.DataFrame:
    rows = split.rows["test"]
    index = pd.Index(cells.cells.cell_names()[rows], name="cell")
    if not names:
        return pd.DataFrame({"label": labels[rows].astype(float), "predicted": logits.reshape(-1)}, index=index)
    probability = torch.from_numpy(logits).float().softmax(dim=-1).numpy()
    predicted = np.array(names, dtype=object)[probability.argmax(axis=1)]
    return pd.DataFrame({"label": labels[rows], "predicted": predicted, "share": probability.max(axis=1)}, index=index)


def _write(
    folder: Path,
    model: Any,
    tokenizer: Any,
    result: tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None],
    predictions: pd.DataFrame,
    record: dict[str, Any],
) -> None:
    with folder_written_whole(folder, overwrite=True) as unfinished:
        tables = dict(zip(("test_scores", "per_class", "confusion"), result, strict=True))
        for name, table in (*tables.items(), ("test_predictions", predictions)):
            if table is not None:
                table.to_csv(unfinished / f"{name}.csv")
        (unfinished / RECORD_FILE).write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        # The folder has its own name only later.
        write_model_card(unfinished, name=folder.resolve().name)


def read_finetuned(folder: str | Path) -> FineTuned:
    """What `finetune` wrote into a folder.

    Raises:
        FileNotFoundError: It wrote nothing there.
    """
    folder = Path(folder)
    record = read_json(folder / RECORD_FILE)
    if not record:
        raise FileNotFoundError(f"{folder} has no {RECORD_FILE}, which finetune writes")
    tables = {
        name: pd.read_csv(folder / f"{name}.csv", index_col=0, keep_default_na=name != "confusion")
        if (folder / f"{name}.csv").is_file()
        else None
        for name in ("test_scores", "per_class", "confusion")
    }
    scores = tables["test_scores"]
    assert scores is not None  # noqa: S101 - written together with the record
    return FineTuned(folder, scores, tables["per_class"], tables["confusion"], record)


__all__ = ["FineTuned", "finetune", "read_finetuned"]
