"""Embeds the cells of AnnData objects and files with a model of any family."""

import errno
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.data.cell_blocks import CellBlocks, open_cells
from state_hf.data.embedding_files import output_format, read_record, write_embedding
from state_hf.data.partial_results import PartialResults, different_settings
from state_hf.inference.cell_encoder import BatchSize, CellEncoder
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
from state_hf.tokenization.cell_tokenizer import CellTokenizer

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class _Run:
    """What all data sets of one call share."""

    encoder: CellEncoder
    processes: Processes
    key: str
    resume: bool
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
    if processes.is_main and not resume and not overwrite:
        _refuse_existing(outputs)
    encoder = CellEncoder.from_pretrained(
        model,
        tokenizer=tokenizer,
        dtype=dtype,
        device=processes.device,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        **encoding,
    )
    key = encoder.tokenizer.embedding_key if key is None else key
    run = _Run(encoder, processes, key=key, resume=resume, overwrite=overwrite)
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
    with encoder.evaluating():
        if isinstance(data, anndata.AnnData) and output is None:
            return _embed_object(run, tasks[0], data)
        if processes.is_main:
            for task, path in zip(tasks, outputs, strict=True):
                _take_up(run, task, path)
        for task, path in zip(tasks, outputs, strict=True):
            _embed_file(run, task, path)
    return outputs if is_several(data) else outputs[0]


def _check_arguments(
    data: Any, model: Any, *, output: AnyPath | None, key: str | None, device: Any, resume: bool, overwrite: bool
) -> None:
    if key is not None and (not key or "/" in key):
        raise ValueError(f"key must be a name without '/', but is {key!r}.")
    if isinstance(model, PreTrainedModel) and device is not None:
        raise ValueError("A loaded model stays where it is: move it with model.to(device), and leave device out.")
    if resume and overwrite:
        raise ValueError("resume goes on with what is there, and overwrite throws it away: choose one of them.")
    if output is None and not isinstance(data, anndata.AnnData):
        raise ValueError("Files need an output: name the file (for several inputs, the folder) to write.")
    if output is None and resume:
        raise ValueError("An AnnData object without an output is embedded in one go: there is nothing to resume.")


def _progress(run: _Run, task: EmbeddingTask, *, done: int, total: int) -> Any:
    share = f" (process 1 of {run.processes.count})" if run.processes.count > 1 else ""
    name = f"{Path(task.name).name}{share}"
    return logging.tqdm(total=total, initial=done, unit=" cells", desc=name, disable=not run.processes.is_main)


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
    with _progress(run, task, done=0, total=task.num_cells) as bar:
        embedding = embed_in_memory(task, run.encoder, bar.update)
    adata.obsm[run.key] = embedding
    adata.uns[run.key] = task.record
    _log_end(task, f"obsm[{run.key!r}]", embedded=task.num_cells, seconds=time.perf_counter() - began)
    return adata


def _partial_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _refuse_existing(outputs: Sequence[Path]) -> None:
    for output in outputs:
        if output.exists():
            raise FileExistsError(f"{output} already exists: choose another name, or overwrite it (--overwrite).")
        if _partial_folder(output).exists():
            raise FileExistsError(
                f"An unfinished run lies in {_partial_folder(output)}: go on with it (--resume), "
                "or start over (--overwrite)."
            )


def _check_key(run: _Run, task: EmbeddingTask, output: AnyPath | None) -> None:
    """Refuse a key that the data already have, where the embedding would join them."""
    joins = output is None or Path(output).suffix not in (".npy", ".parquet")
    if joins and run.key in task.slot_names and not run.overwrite:
        raise ValueError(f"{task.name} already has {run.key!r}: choose another key, or replace it (--overwrite).")


def _take_up(run: _Run, task: EmbeddingTask, output: Path) -> None:
    """Find out whether an earlier run can be continued, or throw it away."""
    folder = _partial_folder(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Killed at its very end, a run leaves both its output and its blocks.
    if folder.exists() and (run.overwrite or output.exists()):
        shutil.rmtree(folder)
    if run.resume and output.exists():
        changed = different_settings(read_record(output, run.key), task.settings)
        if changed:
            raise ValueError(
                f"{output} is complete, but was made with other settings: {changed}. "
                "Choose another name, or overwrite it (--overwrite)."
            )
    elif run.resume and folder.exists():
        PartialResults.resume(folder, task.settings)


def _embed_file(run: _Run, task: EmbeddingTask, output: Path) -> None:
    """Embed one data set into its output, together with the other processes."""
    folder = _partial_folder(output)
    is_complete = run.resume and output.exists()
    if run.processes.is_main and not is_complete and not folder.exists():
        _check_space(task, output)
        PartialResults.start(folder, task.settings, num_rows=task.num_cells, block_rows=task.block_cells)
    run.processes.wait()
    if is_complete:
        if run.processes.is_main:
            logger.info(f"{output} is already complete")
        return
    began = time.perf_counter()
    partial = PartialResults.open(folder)
    missing = partial.missing()
    # Nobody may finish a block before all have seen which ones are missing.
    run.processes.wait()
    with _disk_full_explained(output), open_cells(task.source, layer=task.layer) as cells:
        _embed_share(run, task, cells, partial, missing)
        run.processes.wait()
        if cells.fingerprint() != task.settings["input"]:
            raise ValueError(f"{task.name} changed while it was read: start over (--overwrite)")
        if run.processes.is_main:
            write_embedding(
                output,
                partial.blocks(),
                shape=(task.num_cells, task.record["dimensions"]),
                key=run.key,
                record=task.record,
                cells=cells,
                source=task.source,
            )
            partial.delete()
            embedded = sum(stop - start for start, stop in map(partial.bounds, missing))
            _log_end(task, str(output), embedded=embedded, seconds=time.perf_counter() - began)
    run.processes.wait()


def _embed_share(
    run: _Run, task: EmbeddingTask, cells: CellBlocks, partial: PartialResults, missing: Sequence[int]
) -> None:
    """Compute and store this process' share of the missing blocks."""
    ranges = [partial.bounds(block) for block in run.processes.share(missing)]
    left = sum(stop - start for start, stop in ranges)
    done = (task.num_cells - left) if run.processes.count == 1 else 0
    with _progress(run, task, done=done, total=done + left) as bar:
        blocks = run.encoder.embed(cells, task.genes, input_type=task.input_type, ranges=ranges, progress=bar.update)
        for start, rows in blocks:
            partial.write(start // partial.block_rows, rows)


def _check_space(task: EmbeddingTask, output: Path) -> None:
    """Refuse before hours are spent if the blocks and the output made of them have no room."""
    needed = 2 * 4 * task.num_cells * task.record["dimensions"]
    if isinstance(task.source, Path) and task.source.is_file() and output_format(output) in ("h5ad", "zarr"):
        needed += task.source.stat().st_size
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        message = f"The output needs about {needed / 1e9:,.2f} GB, but {free / 1e9:,.2f} GB are free"
        raise OSError(errno.ENOSPC, message, str(output))


@contextmanager
def _disk_full_explained(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"The disk is full; finished blocks are kept in {_partial_folder(output)}: make room, then --resume"
        raise OSError(error.errno, message, str(output)) from error
