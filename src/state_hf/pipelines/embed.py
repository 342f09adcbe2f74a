"""Embeds the cells of AnnData objects and files with a model of any family."""

import errno
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.data.cells.cell_copies import check_copy
from state_hf.data.cells.embedding_files import output_format, read_embedding_record, write_embedding
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.partial_results import PartialResults
from state_hf.inference.cell_encoder import BatchSize, CellEncoder
from state_hf.inference.embedded_blocks import embed_missing_blocks, progress_bar
from state_hf.inference.embedding_task import (
    AnyPath,
    DeclaredInputType,
    EmbeddingTask,
    embed_in_memory,
    inspect_source,
    is_several,
    list_sources,
    name_outputs,
)
from state_hf.inference.loading import model_digest
from state_hf.inference.processes import Processes, join_processes
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.tokenization.cell_tokenizer import CellTokenizer

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class _Run:
    """What all data sets of one call share."""

    encoder: CellEncoder
    processes: Processes
    key: str
    overwrite: bool


def embed(
    data: anndata.AnnData | AnyPath | Sequence[AnyPath],
    model: AnyPath | PreTrainedModel,
    *,
    output: AnyPath | None = None,
    format: str | None = None,
    key: str | None = None,
    tokenizer: AnyPath | CellTokenizer | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    input_type: DeclaredInputType = "counts",
    seed: int = 0,
    batch_size: BatchSize = "auto",
    dtype: str | None = None,
    device: str | torch.device | None = None,
    workers: int = 1,
    hidden_layer: int = -1,
    resume: bool = False,
    overwrite: bool = False,
    **encoding: Any,
) -> anndata.AnnData | Path | list[Path]:
    """Embed cells: an AnnData object gets a new slot in `obsm`, a file becomes a new file.

    Files are read, embedded and written in blocks, so memory does not grow with the number of cells, and the input is
    never changed. Under `accelerate launch` the processes share the cells of every file; they need an `output`.
    The result does not depend on `batch_size`, `workers` or the number of processes, but for rounding.

    Args:
        data: An AnnData object (in memory or backed), a path (.h5ad file or .zarr store), several paths, or a folder of
            .h5ad files.
        model: A folder, a hub id, or a loaded model, which is used as it is and where it is.
        output: Where to write: for one input, a file whose suffix is the format (.h5ad or .zarr: a copy of the input
            with `obsm[key]` and `uns[key]` added; .npy: the array, and a .json file beside it; .parquet: one row a
            cell, named in the index). For several inputs, a folder, with one file for each. An AnnData object needs
            none: then it is itself what the embedding is added to.
        format: Of the files in an output folder: "h5ad", "zarr", "npy" or "parquet". Default: "h5ad".
        key: Name of the new slot. Default: that of the model's family, as "X_state".
        tokenizer: A folder, a hub id or a loaded tokenizer. Default: the model's.
        layer: Layer to read, or "raw" for `raw.X`. Default: `X`.
        gene_column: Column of `var` with the gene names, or "index". Default: the one that matches best.
        input_type: "counts", "log1p", or "auto" to decide by a sample of the values and say so. A contradiction between
            this and the values is an error.
        seed: Seed of the tokenizer's random choices, from 0 on.
        batch_size: Cells that go through the model at once; "auto" chooses by the device's memory. Where a batch
            does not fit, it is halved, with a warning.
        dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32.
        device: Where to compute. Default: CUDA, then MPS, then the CPU; not for a loaded model.
        workers: Threads that read and tokenize ahead of the model.
        hidden_layer: Which of the model's hidden states cells are pooled from: -1 for the last, -2 for the one before.
            For families on a stock model, whose tokenizer pools.
        resume: Go on with what an earlier, interrupted call with the same settings left, if there is anything; outputs
            that are already complete are kept.
        overwrite: Replace outputs (or a slot `key`) that already exist, and throw away an unfinished run. An old
            output stays until the new one is complete.
        **encoding: The tokenizer's own options, as `fill="none"` for a State Embedding model (see its class). Default:
            as the model was trained, which its tokenizer says.

    Returns:
        The AnnData object, or the path of the output, or for several inputs the paths of their outputs.

    Raises:
        FileNotFoundError: An input does not exist.
        FileExistsError: An output exists, or an unfinished run.
        ValueError: The data cannot be embedded as asked (the message says why), or an interrupted run was made with
            other settings.
        OSError: The disk is full. Finished blocks are kept for `resume`.
    """
    _check_arguments(data, model, output=output, key=key, device=device, resume=resume, overwrite=overwrite)
    sources = list_sources(data)
    outputs = [] if output is None else name_outputs(sources, output, several=is_several(data), format=format)
    processes = join_processes(device)
    targets = [ResumableOutput(path, resume=resume, overwrite=overwrite) for path in outputs]
    if processes.is_main:
        for target in targets:
            target.refuse_existing()
    encoder = CellEncoder.from_pretrained(
        model,
        tokenizer=tokenizer,
        dtype=dtype,
        device=processes.device,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        hidden_layer=hidden_layer,
        **encoding,
    )
    key = encoder.tokenizer.embedding_key if key is None else key
    run = _Run(encoder, processes, key=key, overwrite=overwrite)
    identity = {"name": encoder.model.config.name_or_path, "sha256": model_digest(encoder.model)}
    tasks = []
    for source in sources:
        task = inspect_source(
            source,
            encoder,
            layer=layer,
            gene_column=gene_column,
            input_type=input_type,
            model=identity,
            for_file=output is not None,
            processes=processes.count,
        )
        tasks.append(task)
        if processes.is_main:
            logger.info(f"{task.name}: {task.num_cells:,} cells; {task.genes}")
        _check_key(run, task, output)
    for task, path in zip(tasks, outputs, strict=bool(outputs)):
        if processes.is_main and output_format(path) in ("h5ad", "zarr"):
            check_copy(task.source, path)
    with encoder.evaluating():
        if isinstance(data, anndata.AnnData) and output is None:
            return _embed_object(run, tasks[0], data)
        if processes.is_main:
            for task, target in zip(tasks, targets, strict=True):
                target.take_up({"": task.settings})
                if target.is_complete:
                    target.check_complete(task.settings, read_embedding_record(target.path, key))
        for task, target in zip(tasks, targets, strict=True):
            _embed_file(run, task, target)
    return outputs if is_several(data) else outputs[0]


def _check_arguments(
    data: Any, model: Any, *, output: AnyPath | None, key: str | None, device: Any, resume: bool, overwrite: bool
) -> None:
    if key is not None and (not key or "/" in key):
        raise ValueError(f"key must be a name without '/', but is {key!r}.")
    if isinstance(model, PreTrainedModel) and device is not None:
        raise ValueError("A loaded model stays where it is: move it with model.to(device), and leave device out.")
    if output is None and not isinstance(data, anndata.AnnData):
        raise ValueError("Files need an output: name the file (for several inputs, the folder) to write.")
    if output is None and resume:
        raise ValueError("An AnnData object without an output is embedded in one go: there is nothing to resume.")


def _log_end(task: EmbeddingTask, place: str, *, embedded: int, seconds: float) -> None:
    logger.info(
        f"Wrote {place}: {task.num_cells:,} cells x {task.record['dimensions']:,} "
        f"in {seconds:.1f} s ({embedded / seconds:,.0f} cells/s)"
    )


def _embed_object(run: _Run, task: EmbeddingTask, adata: anndata.AnnData) -> anndata.AnnData:
    """Add the embedding to an AnnData object."""
    if run.processes.count > 1:
        raise ValueError("Several processes cannot add to one AnnData object: pass an output.")
    began = time.perf_counter()
    with progress_bar(task, run.processes, done=0, total=task.num_cells) as bar:
        embedding = embed_in_memory(task, run.encoder, bar.update)
    adata.obsm[run.key] = embedding
    adata.uns[run.key] = task.record
    _log_end(task, f"obsm[{run.key!r}]", embedded=task.num_cells, seconds=time.perf_counter() - began)
    return adata


def _check_key(run: _Run, task: EmbeddingTask, output: AnyPath | None) -> None:
    """Refuse a key that the data already have, where the embedding would join them."""
    joins = output is None or Path(output).suffix not in (".npy", ".parquet")
    if joins and run.key in task.slot_names and not run.overwrite:
        raise ValueError(
            Advised(
                f"{task.name} already has {run.key!r}", "choose another key (key=...)", "replace it (overwrite=True)"
            )
        )


def _embed_file(run: _Run, task: EmbeddingTask, output: ResumableOutput) -> None:
    """Embed one data set into its output, together with the other processes."""
    if run.processes.is_main and not output.is_complete:
        _check_space(task, output.path)
        output.start(task.settings, num_rows=task.num_cells, block_rows=task.block_cells)
    run.processes.wait()
    if output.is_complete:
        if run.processes.is_main:
            logger.info(f"{output.path} is already complete")
        return
    began = time.perf_counter()
    with output.disk_full_explained():
        embedded = embed_missing_blocks(task, run.encoder, output.partial, run.processes)
        if run.processes.is_main:
            with open_cells(task.source) as cells:
                write_embedding(
                    output.path,
                    PartialResults.open(output.partial).blocks(),
                    shape=(task.num_cells, task.record["dimensions"]),
                    key=run.key,
                    record=task.record,
                    cells=cells,
                )
            output.delete_partial()
            _log_end(task, str(output.path), embedded=embedded, seconds=time.perf_counter() - began)
    run.processes.wait()


def _check_space(task: EmbeddingTask, output: Path) -> None:
    """Refuse before hours are spent if the blocks and the output made of them have no room."""
    needed = 2 * 4 * task.num_cells * task.record["dimensions"]
    if isinstance(task.source, Path) and task.source.is_file() and output_format(output) in ("h5ad", "zarr"):
        needed += task.source.stat().st_size
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        message = f"The output needs about {needed / 1e9:,.2f} GB, but {free / 1e9:,.2f} GB are free"
        raise OSError(errno.ENOSPC, message, str(output))
