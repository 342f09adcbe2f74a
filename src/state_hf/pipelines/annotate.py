"""Labels for unlabelled cells: from a labelled reference's nearest cells, a trained head, or what a model writes."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata.io import read_elem
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.analysis.nearest_cells import nearest_neighbours, vote
from state_hf.configuration.advice import refuse_existing
from state_hf.conversion.name_lists import read_names
from state_hf.data.cells.anndata_files import add_columns, open_store, read_labels
from state_hf.data.cells.cell_copies import check_copy, copy_store
from state_hf.data.cells.locations import as_location
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.partial_results import PartialResults
from state_hf.data.whole_files import store_written_whole, written_whole
from state_hf.inference.cell_encoder import BatchSize, CellEncoder, Part
from state_hf.inference.classifiers import (
    fit_last_layer,
    last_layer,
    last_logits,
    load_classifier,
    new_classifier,
    predict_classes,
    save_classifier,
)
from state_hf.inference.embedded_blocks import embed_missing_blocks
from state_hf.inference.embedding_task import DeclaredInputType, EmbeddingTask, inspect_source
from state_hf.inference.loading import load_tokenizer, model_digest
from state_hf.inference.processes import Processes, join_processes
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.inference.text_generation import CellAsker, decoded, load_writer, writes_text

logger = logging.get_logger(__name__)

UNKNOWN = "unknown"
_FORMATS = (".csv", ".h5ad", ".zarr")
_DEFAULT_THRESHOLD = 0.5


def annotate(
    data: str | Path,
    output: str | Path,
    *,
    model: str | Path,
    reference: str | Path | None = None,
    label_key: str = "cell_type",
    neighbours: int = 15,
    labels: str | Path | Sequence[str] | None = None,
    unknown_threshold: float | None = None,
    distance_quantile: float = 0.999,
    fit_head: str | Path | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    input_type: DeclaredInputType = "counts",
    seed: int = 0,
    batch_size: BatchSize = "auto",
    dtype: str | None = None,
    device: str | torch.device | None = None,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    **encoding: Any,
) -> pd.DataFrame:
    """Label the cells of a file.

    With a reference, labels are those of the nearest of its cells in the model's embedding, or, with `fit_head`, of a
    head that is trained on them (the encoder stays as it is). Without one, the model must be one of its family's
    sequence classifiers, or a language model that reads cells, which is asked what they are. Labels compare cells by
    the cell's own embedding, without what the model says of the dataset.

    As in `embed`, files are read and embedded in blocks, an interrupted run goes on with `resume`, and under
    `accelerate launch` the processes share the cells.

    Args:
        data: An .h5ad file or .zarr store.
        output: A .csv for the table; an .h5ad or .zarr for a copy of `data` with the table's columns in obs.
        model: Folder or hub id.
        reference: A labelled file.
        label_key: Its column of obs; cells without a label are left out.
        neighbours: Reference cells that vote, from 1 on.
        labels: What a language model's answers are taken for: labels, or a file with one a line. Default: those that it
            was saved with. An answer that is none of them, nor close to one, is "unknown".
        unknown_threshold: Share of the votes, or probability, below which a cell is "unknown", in [0, 1]; 0 for never.
            Default: 0.5, or what the classifier's configuration says; of answers, 0.
        distance_quantile: A cell whose nearest reference cell is farther than this quantile of the reference cells'
            own nearest is "unknown" too, in [0, 1]; 1 for no such limit. Of no meaning to a head.
        fit_head: Folder for a classifier that is trained on the reference's embeddings.
        layer: Layer to read of both files, or "raw" for `raw.X`. Default: `X`.
        gene_column: Column of `var` with the gene names, or "index". Default: the one that matches best.
        input_type: "counts", "log1p", or "auto" to decide by a sample and say so.
        seed: Seed of the tokenizer's random choices.
        batch_size: Cells that go through the model at once; "auto" chooses by the device's memory.
        dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32.
        device: Where to compute. Default: CUDA, then MPS, then the CPU.
        workers: Threads that read and tokenize ahead of the model.
        resume: Go on with what an earlier, interrupted call with the same settings left.
        overwrite: Replace an output (or a classifier) that exists, and throw away an unfinished run.
        **encoding: The tokenizer's own options. Default: as the model was trained.

    Returns:
        One row a cell: `predicted_LABEL`, `predicted_LABEL_share` (votes or probability), by neighbours
        `predicted_LABEL_distance`, and of a language model `predicted_LABEL_answer`. A complete output that `resume`
        keeps is read back.

    Raises:
        FileExistsError: The output or the classifier exists, or an unfinished run.
        ValueError: The options do not fit each other, or the files the model, or the output's format does not hold what
            the data have.
    """
    target = ResumableOutput(Path(output), resume=resume, overwrite=overwrite)
    _check_arguments(target.path, reference, fit_head, neighbours, unknown_threshold, distance_quantile)
    processes = join_processes(device)
    if processes.is_main:
        target.refuse_existing()
        _refuse_existing_head(fit_head, keep=resume or overwrite)
        if target.path.suffix != ".csv":
            check_copy(data, target.path)
    loading: dict[str, Any] = {"dtype": dtype, "device": processes.device}
    options = {"batch_size": batch_size, "seed": seed, "workers": workers, **encoding}
    reading = {"layer": layer, "gene_column": gene_column, "input_type": input_type, "processes": processes.count}
    settings: dict[str, Any] = {"label_key": label_key}
    sources: dict[str, Path | str] = {"cells": as_location(data)}
    parser: Any = None
    encoder: CellEncoder
    if reference is None and writes_text(model):
        writer, processor = load_writer(model, **loading)
        parser = processor.label_parser(_label_names(labels))
        options = {"task": processor.label_task, **options}
        encoder = CellAsker(writer, processor, max_new_tokens=processor.answer_tokens(parser.labels), **options)
        settings["unknown_threshold"] = 0.0 if unknown_threshold is None else unknown_threshold
        settings["labels_sha256"] = _digest(parser.labels)
    elif labels is not None:
        raise ValueError(
            f"labels are what answers are taken for, of a language model without a reference; {model} is none, or the "
            "reference has labels of its own: leave labels out"
        )
    elif reference is None:
        encoder = CellEncoder(*load_classifier(model, **loading), **options)
        settings["unknown_threshold"] = _threshold(unknown_threshold, encoder.model.config)
    else:
        known_labels = read_labels(reference, label_key)
        if not (known_labels != "").any():
            raise ValueError(f"No cell of {reference} has a label in obs[{label_key!r}].")
        sources["reference"] = as_location(reference)
        settings["unknown_threshold"] = _threshold(unknown_threshold)
        settings["labels_sha256"] = _digest(known_labels)
        if fit_head is None:
            encoder = CellEncoder.from_pretrained(model, **loading, **options)
            settings |= {"neighbours": neighbours, "distance_quantile": distance_quantile}
        else:
            head = _new_head(model, known_labels, seed=seed, threshold=settings["unknown_threshold"], **loading)
            encoder = CellEncoder(head, load_tokenizer(None, head), **options)
            settings["method"] = "head"
    part: Part = "logits" if reference is None else "cell" if fit_head is None else "head_inputs"
    part = "answer" if parser is not None else part
    job = _Job(target, encoder, processes, part, settings)
    job.prepare(sources, reading)
    if target.is_complete:
        logger.info(f"{target.path} is already complete")
        return _read_table(target.path, label_key)
    with encoder.evaluating(), target.disk_full_explained():
        for name in sources:
            job.embed(name)
        if processes.is_main:
            threshold = settings["unknown_threshold"]
            if parser is not None:
                table = _by_answers(job.blocks("cells"), encoder.tokenizer, parser, label_key, threshold)
            elif reference is None:
                table = _by_logits(job.blocks("cells"), encoder.model.config, label_key, threshold)
            else:
                known = np.concatenate([rows for _, rows in job.blocks("reference")])[known_labels != ""]
                names = known_labels[known_labels != ""].astype(str)
                if fit_head is None:
                    table = _by_neighbours(
                        job.blocks("cells"), known, names, label_key, neighbours, threshold, distance_quantile
                    )
                else:
                    fit_last_layer(head, known, names)
                    save_classifier(head, encoder.tokenizer, Path(fit_head))
                    logits = ((start, last_logits(head, rows)) for start, rows in job.blocks("cells"))
                    table = _by_logits(logits, head.config, label_key, threshold)
            with open_cells(data) as cells:
                table.index = pd.Index(cells.cell_names(), name="cell")
            _write(table, data, target.path, label_key, job.record)
            target.delete_partial()
            logger.info(f"Wrote {target.path}: labels of {len(table):,} cells")
    processes.wait()
    return _read_table(target.path, label_key)


def _check_arguments(
    path: Path,
    reference: Any,
    fit_head: Any,
    neighbours: int,
    unknown_threshold: float | None,
    distance_quantile: float,
) -> None:
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path} has to end in {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if fit_head is not None and reference is None:
        raise ValueError("fit_head trains a classifier on a reference: name the labelled file with reference.")
    if neighbours < 1:
        raise ValueError(f"neighbours must be a whole number from 1 on, but is {neighbours}")
    for name, value in (("unknown_threshold", unknown_threshold), ("distance_quantile", distance_quantile)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], but is {value}")


def _refuse_existing_head(folder: str | Path | None, *, keep: bool) -> None:
    if folder is not None and Path(folder).exists() and not keep:
        refuse_existing(folder, overwrite=False)


def _new_head(model: str | Path, labels: np.ndarray, *, seed: int, threshold: float, **loading: Any) -> PreTrainedModel:
    """The family's classifier for these labels, whose last layer can be fitted."""
    names, counts = np.unique(labels[labels != ""].astype(str), return_counts=True)
    if len(names) < 2:
        raise ValueError(f"a classifier needs two labels at least, and all cells are {names[0]!r}")
    head = new_classifier(model, names.tolist(), seed=seed, unknown_threshold=threshold, **loading)
    if hasattr(head.config, "class_weights"):
        # A training that goes on with the head weighs the classes as the fit does.
        head.config.class_weights = (counts.sum() / (len(names) * counts)).round(6).tolist()
    last_layer(head)  # refuses a family without one, before any work
    return head


def _threshold(wanted: float | None, config: Any = None) -> float:
    return getattr(config, "unknown_threshold", _DEFAULT_THRESHOLD) if wanted is None else wanted


@dataclass
class _Job:
    """The embeddings that a table of labels is made of.

    Args:
        target: The output.
        encoder: What embeds.
        processes: The processes that share the cells.
        part: What is kept of each cell.
        settings: What the labels depend on beside the embeddings.
    """

    target: ResumableOutput
    encoder: CellEncoder
    processes: Processes
    part: Part
    settings: dict[str, Any]
    tasks: dict[str, EmbeddingTask] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """All that the labels depend on."""
        embedded = {f"{name}_{key}": value for name, task in self.tasks.items() for key, value in task.settings.items()}
        return self.settings | embedded

    def prepare(self, sources: Mapping[str, str | Path], reading: Mapping[str, Any]) -> None:
        """Look at all data sets before hours go into one of them, and take up what an earlier run left."""
        identity = {"name": self.encoder.model.config.name_or_path, "sha256": model_digest(self.encoder.model)}
        for name, source in sources.items():
            task = inspect_source(source, self.encoder, model=identity, for_file=True, **reading)
            self.tasks[name] = task
            if self.processes.is_main:
                logger.info(f"{task.name}: {task.num_cells:,} cells; {task.genes}")
        if self.processes.is_main:
            made_with = _read_record(self.target.path, self.settings["label_key"])
            parts = {name: {"part": self.part, **task.settings} for name, task in self.tasks.items()}
            self.target.take_up(parts)
            self.target.check_complete(self.record, made_with)
            if not self.target.is_complete:
                for name, task in self.tasks.items():
                    self.target.start(parts[name], num_rows=task.num_cells, block_rows=task.block_cells, part=name)
        self.processes.wait()

    def embed(self, name: str) -> None:
        """Compute what is missing of one data set."""
        embed_missing_blocks(self.tasks[name], self.encoder, self.target.partial / name, self.processes, part=self.part)

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """First cell and rows of every block of one data set, in order."""
        return PartialResults.open(self.target.partial / name).blocks()


def _by_neighbours(
    blocks: Iterable[tuple[int, np.ndarray]],
    reference: np.ndarray,
    labels: np.ndarray,
    label_key: str,
    neighbours: int,
    threshold: float,
    quantile: float,
) -> pd.DataFrame:
    names, numbers = np.unique(labels, return_inverse=True)
    farthest = np.inf
    if quantile < 1 and len(reference) > 1:
        # The nearest of a reference cell is itself.
        farthest = float(np.quantile(nearest_neighbours(reference, reference, 2)[1][:, 1], quantile))
    prefix = f"predicted_{label_key}"
    tables = []
    for _, rows in blocks:
        near, distances = nearest_neighbours(rows, reference, neighbours)
        shares = vote(numbers, near, len(names))
        chosen, share = shares.argmax(axis=1), shares.max(axis=1)
        accepted = (share >= threshold) & (distances[:, 0] <= farthest)
        columns = {
            prefix: np.where(accepted, names[chosen].astype(object), UNKNOWN),
            f"{prefix}_share": share,
            f"{prefix}_distance": distances[:, 0],
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _by_logits(blocks: Iterable[tuple[int, np.ndarray]], config: Any, label_key: str, threshold: float) -> pd.DataFrame:
    names = np.array([*(config.id2label[number] for number in range(config.num_labels)), UNKNOWN], dtype=object)
    prefix = f"predicted_{label_key}"
    tables = []
    for _, rows in blocks:
        numbers, probability = predict_classes(torch.from_numpy(rows), threshold)
        tables.append(pd.DataFrame({prefix: names[numbers.numpy()], f"{prefix}_share": probability.numpy()}))
    return pd.concat(tables, ignore_index=True)


def _by_answers(
    blocks: Iterable[tuple[int, np.ndarray]], processor: Any, parser: Any, label_key: str, threshold: float
) -> pd.DataFrame:
    prefix = f"predicted_{label_key}"
    tables = []
    for _, rows in blocks:
        answers = decoded(processor, rows[:, :-1])
        share = np.exp(rows[:, -1])
        found = [parser(answer).label for answer in answers]
        labels = [
            label if label is not None and p >= threshold else UNKNOWN for label, p in zip(found, share, strict=True)
        ]
        columns = {prefix: labels, f"{prefix}_share": share, f"{prefix}_answer": answers}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _label_names(labels: str | Path | Sequence[str] | None) -> Sequence[str] | None:
    return read_names(Path(labels), "labels") if isinstance(labels, str | Path) else labels


def _digest(labels: Iterable[Any]) -> str:
    return hashlib.sha256("\n".join(map(str, labels)).encode()).hexdigest()


def _slot(label_key: str) -> str:
    return f"predicted_{label_key}"


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write(table: pd.DataFrame, data: str | Path, path: Path, label_key: str, record: dict[str, Any]) -> None:
    if path.suffix == ".csv":
        with written_whole(path) as temporary:
            table.to_csv(temporary)
        with written_whole(_sidecar(path)) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return
    with store_written_whole(path) as temporary:
        copy_store(data, temporary)
        add_columns(temporary, table, _slot(label_key), record)


def _read_record(path: Path, label_key: str) -> dict[str, Any]:
    """What the labels in a complete output depend on; empty where it does not say."""
    if not path.exists():
        return {}
    if path.suffix == ".csv":
        return json.loads(_sidecar(path).read_text(encoding="utf-8")) if _sidecar(path).is_file() else {}
    with open_store(path, "r") as store:
        place = f"uns/{_slot(label_key)}"
        return read_elem(store[place]) if place in store else {}


def _read_table(path: Path, label_key: str) -> pd.DataFrame:
    if path.suffix == ".csv":
        table = pd.read_csv(path, index_col=0, dtype={_slot(label_key): str}, keep_default_na=False)
    else:
        with open_store(path, "r") as store:
            obs = read_elem(store["obs"])
        table = obs[[column for column in obs if str(column).startswith(_slot(label_key))]]
    table.index.name = "cell"
    return table


__all__ = ["UNKNOWN", "annotate"]
