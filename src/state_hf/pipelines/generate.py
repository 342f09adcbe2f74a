"""Cells of given types, written by a language model that reads cells as text, as an .h5ad file."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from anndata.io import read_elem
from scipy import sparse
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf._version import __version__
from state_hf.configuration.advice import Advised
from state_hf.data.cells.anndata_files import open_store
from state_hf.data.cells.cell_writer import CellWriter, cell_writer
from state_hf.data.cells.locations import as_location
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.partial_results import PartialResults
from state_hf.inference.cell_encoder import BatchLimit, BatchSize
from state_hf.inference.loading import evaluation_mode, model_digest
from state_hf.inference.processes import Processes, join_processes
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.inference.text_generation import Sampling, decoded, load_writer, write_text
from state_hf.tokenization.input_scale import check_input_type
from state_hf.tokenization.rank_expression import RankExpressionModel

logger = logging.get_logger(__name__)

RECORD_KEY = "generation"
# What a killed run loses.
_BLOCK_CELLS = 64
# Names that a text may hold beyond those that are asked for, as a share: models count badly.
_SPARE = 1.25
# Enough names to know how many tokens one has.
_NAMES = 1000


@dataclass(frozen=True)
class _Wanted:
    """What is written.

    Args:
        prompts: One a cell.
        cell_types: One a cell.
        max_new_tokens: Most tokens of a cell.
        sampling: How they are drawn.
        seed: Of the draws.
    """

    prompts: list[str]
    cell_types: list[str]
    max_new_tokens: int
    sampling: Sampling
    seed: int


def generate(
    model: str | Path,
    output: str | Path,
    *,
    cell_type: str | Sequence[str],
    cells: int | Sequence[int] = 100,
    num_genes: int | None = None,
    reference: str | Path | None = None,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 0.95,
    max_new_tokens: int | None = None,
    seed: int = 0,
    batch_size: BatchSize = "auto",
    dtype: str | None = None,
    device: str | torch.device | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Let a language model write cells, and turn the names of their genes into expression.

    A cell's draws are a function of the seed and its number: the batch size and the number of processes change a cell
    only where the rounding of a logit decides. `X` is log1p of normalised counts, by the line of expression over ranks;
    genes that a cell does not name are 0. Names that are no gene, and repeated ones, are counted and left out.

    Args:
        model: Folder or hub id.
        output: An .h5ad file.
        cell_type: One or several types, in the words that the model learnt.
        cells: Cells of each type, from 1 on: one number, or one for each type.
        num_genes: Genes that a cell is asked to name. Default: the processor's.
        reference: Cells with raw counts that the line is fitted to. Default: the model's line.
        temperature: What logits are divided by, from 0 (always the most likely token) on.
        top_k: Only so many of the most likely tokens are drawn from; 0 for all.
        top_p: Only the most likely tokens that have this probability together are, in (0, 1].
        max_new_tokens: Most tokens of a cell. Default: by the length of names, as far as the model reads.
        seed: Of the draws.
        batch_size: Cells that are written at once; "auto" chooses by the device's memory.
        dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32.
        device: Where to compute. Default: CUDA, then MPS, then the CPU.
        resume: Go on with what an earlier, interrupted call with the same settings left.
        overwrite: Replace an output that exists, and throw away an unfinished run.

    Returns:
        The output.

    Raises:
        FileExistsError: The output exists, or an unfinished run.
        ValueError: The model writes no text, has no line, or an option is out of range.
    """
    target = ResumableOutput(Path(output), resume=resume, overwrite=overwrite)
    if target.path.suffix != ".h5ad":
        raise ValueError(f"the output must end in .h5ad, and is {output}")
    sampling = Sampling(temperature, top_k, top_p)
    numbers = _numbers(cell_type, cells)
    processes = join_processes(device)
    if processes.is_main:
        target.refuse_existing()
    writer, processor = load_writer(model, dtype=dtype, device=processes.device)
    line = _line(reference, processor, model, seed=seed)
    asked = processor.num_genes if num_genes is None else num_genes
    if asked < 1:
        raise ValueError(f"num_genes is {asked}; a cell has one gene at least")
    wanted = _wanted(writer, processor, numbers, asked, max_new_tokens, sampling, seed)
    settings = {
        "model_sha256": model_digest(writer),
        "state_hf_version": __version__,
        "cells": json.dumps(numbers),
        "prompts_sha256": hashlib.sha256("\n".join(wanted.prompts).encode()).hexdigest(),
        "num_genes": asked,
        "max_new_tokens": wanted.max_new_tokens,
        **asdict(sampling),
        "seed": seed,
        "dtype": str(writer.dtype).removeprefix("torch."),
        "line": line.text,
    }
    if processes.is_main:
        target.take_up({"": settings})
        target.check_complete(settings, _read_record(target.path))
        if not target.is_complete:
            target.start(settings, num_rows=len(wanted.prompts), block_rows=_BLOCK_CELLS)
    processes.wait()
    if target.is_complete:
        logger.info(f"{target.path} is already complete")
        return target.path
    with evaluation_mode(writer), target.disk_full_explained():
        limit = BatchLimit.of(batch_size, writer)
        _write_blocks(target.partial, wanted, writer, processor, processes, limit)
        if processes.is_main:
            record = {**settings, "model": str(model), "prompt": wanted.prompts[0], "scale": "log1p"}
            with cell_writer(target.path, processor.genes, uns={RECORD_KEY: record}) as file:
                said = _add_cells(file, PartialResults.open(target.partial), wanted, processor, line, asked)
            target.delete_partial()
            logger.info(f"Wrote {target.path}: {said}")
    processes.wait()
    return target.path


def _numbers(cell_type: str | Sequence[str], cells: int | Sequence[int]) -> dict[str, int]:
    types = [cell_type] if isinstance(cell_type, str) else list(cell_type)
    counts = [cells] * len(types) if isinstance(cells, int) else list(cells)
    if len(counts) == 1:
        counts = counts * len(types)
    if not types or len(set(types)) < len(types):
        raise ValueError(f"cell_type names types, each once, and is {cell_type!r}")
    if len(counts) != len(types) or min(counts) < 1:
        raise ValueError(f"cells is one number from 1 on, or one for each of {len(types)} types, and is {cells!r}")
    return dict(zip(types, counts, strict=True))


def _line(reference: str | Path | None, processor: Any, model: str | Path, *, seed: int) -> RankExpressionModel:
    if reference is None:
        if processor.expression is None:
            raise ValueError(
                Advised(
                    f"{model} has no line that turns ranks into expression",
                    "fit one to cells with raw counts (reference=...)",
                )
            )
        return processor.expression
    with open_cells(as_location(reference)).expression(None) as found:
        number = min(found.num_cells, 1024)
        drawn = found.sample(number)
    check_input_type(drawn, "counts")
    return RankExpressionModel.fit(drawn, seed=seed)


def _wanted(
    model: Any,
    processor: Any,
    numbers: dict[str, int],
    asked: int,
    max_new_tokens: int | None,
    sampling: Sampling,
    seed: int,
) -> _Wanted:
    cell_types = [name for name, number in numbers.items() for _ in range(number)]
    prompts = processor.prompts(processor.generation_task, num_genes=asked, cell_type=cell_types)
    longest = max(len(processor.tokenizer(prompt)["input_ids"]) for prompt in set(prompts))
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = math.inf if length is None else length - longest
    if max_new_tokens is None:
        names = processor.tokenizer([f" {name}" for name in processor.genes[:_NAMES]], add_special_tokens=False)
        mean = sum(map(len, names["input_ids"])) / len(names["input_ids"])
        max_new_tokens = int(min(_SPARE * asked * mean + 2, room))
    if not 1 <= max_new_tokens <= room:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}; the model reads {length} tokens, of which the prompt has {longest}"
        )
    return _Wanted(prompts, cell_types, max_new_tokens, sampling, seed)


def _write_blocks(
    folder: Path, wanted: _Wanted, model: PreTrainedModel, processor: Any, processes: Processes, limit: BatchLimit
) -> None:
    partial = PartialResults.open(folder)
    missing = partial.missing()
    processes.wait()
    mine = processes.share(missing)
    total = sum(stop - start for start, stop in map(partial.bounds, mine))
    with logging.tqdm(total=total, unit=" cells", desc="generate", disable=not processes.is_main) as bar:
        for block in mine:
            start, stop = partial.bounds(block)
            rows = []
            while start < stop:
                cells = range(start, min(start + _batch(limit, wanted), stop))
                try:
                    rows.append(_batch_of(wanted, model, processor, cells))
                except RuntimeError as error:
                    if len(cells) == 1 or not should_reduce_batch_size(error):
                        raise
                    limit.cells = len(cells) // 2
                    logger.warning(
                        f"{len(cells)} cells do not fit into the memory of {model.device}: {limit.cells} at once"
                    )
                    continue
                start = cells.stop
                bar.update(len(cells))
            partial.write(block, np.concatenate(rows))
    processes.wait()


def _batch(limit: BatchLimit, wanted: _Wanted) -> int:
    return max(1, int(min(limit.cells, limit.tokens // wanted.max_new_tokens)))


def _batch_of(wanted: _Wanted, model: Any, processor: Any, cells: range) -> np.ndarray:
    inputs = processor.encode_prompts(wanted.prompts[cells.start : cells.stop])
    tokens, likely = write_text(
        model,
        processor.tokenizer,
        inputs,
        max_new_tokens=wanted.max_new_tokens,
        sampling=wanted.sampling,
        seed=wanted.seed,
        cells=cells,
    )
    return np.concatenate([tokens, likely[:, None]], axis=1).astype(np.float32)


def _add_cells(
    file: CellWriter, partial: PartialResults, wanted: _Wanted, processor: Any, line: RankExpressionModel, asked: int
) -> str:
    """Add the cells of all blocks. Returns what they are, in words."""
    found_genes: list[int] = []
    unknown = repeated = empty = 0
    for start, rows in partial.blocks():
        texts = decoded(processor, rows[:, :-1])
        found = [processor.parse_genes(text) for text in texts]
        genes = [cell.rows[:asked] for cell in found]
        counts = {
            "genes": [len(rows) for rows in genes],
            "unknown_words": [len(cell.unknown) for cell in found],
            "repeated_genes": [cell.repeated for cell in found],
        }
        levels = line.expression(genes, len(processor.genes))
        # The line is of logarithms to the base of ten, and files hold natural ones.
        file.add(
            sparse.csr_matrix(levels * np.float32(math.log(10))),
            {"cell_type": wanted.cell_types[start : start + len(rows)], "cell_sentence": texts},
            numbers=counts | {"log_probability": rows[:, -1].tolist()},
        )
        found_genes += counts["genes"]
        unknown, repeated = unknown + sum(counts["unknown_words"]), repeated + sum(counts["repeated_genes"])
        empty += counts["genes"].count(0)
    if empty:
        logger.warning(f"{empty:,} of {len(found_genes):,} cells name no gene, so their expression is 0")
    words = sum(found_genes) + unknown + repeated
    return (
        f"{len(found_genes):,} cells of {_listed(wanted.cell_types)}; {np.mean(found_genes):.1f} genes a cell; of "
        f"{words:,} words {_share(unknown, words)} are no gene and {_share(repeated, words)} repeat one"
    )


def _listed(cell_types: Iterable[str]) -> str:
    names = list(dict.fromkeys(cell_types))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more types" if len(names) > 4 else "")


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}"


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with open_store(path, "r") as store:
        place = f"uns/{RECORD_KEY}"
        return read_elem(store[place]) if place in store else {}


__all__ = ["generate"]
