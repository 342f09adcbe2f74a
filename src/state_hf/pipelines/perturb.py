"""Perturbs genes in silico in the cells of a file, with a model of any family, and says what that does to the cells."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from state_hf.analysis.cell_choice import choose_cells
from state_hf.analysis.in_silico_perturbation import check_change, effect_names
from state_hf.analysis.in_silico_statistics import check_effect_names
from state_hf.analysis.perturbation_blocks import PerturbationPlan, PerturbationRun, take_census
from state_hf.analysis.perturbation_list import asked_perturbations, list_perturbations
from state_hf.analysis.perturbation_tables import InSilicoResult, affected_table, cell_table, effect_checks
from state_hf.configuration.advice import Advised, refuse_existing
from state_hf.configuration.wording import counted
from state_hf.data.cells.locations import as_location
from state_hf.data.whole_files import written_whole
from state_hf.inference.cell_encoder import BatchSize, CellEncoder
from state_hf.inference.embedding_task import DeclaredInputType, inspect_source
from state_hf.inference.loading import model_digest
from state_hf.inference.processes import join_processes
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.tokenization.cell_tokenizer import CellTokenizer
from state_hf.tokenization.gene_changes import GeneChange, needs_expression

logger = logging.get_logger(__name__)

_METADATA = b"state_hf"
# Of the sums of effects on genes.
_MAX_GENE_BYTES = 2**31


def perturb(
    data: str | Path,
    model: str | Path | PreTrainedModel,
    output: str | Path,
    *,
    change: GeneChange = "delete",
    level: float | None = None,
    genes: Sequence[str] | None = None,
    gene_file: str | Path | None = None,
    anchor: str | None = None,
    random_genes: int = 20,
    where: Mapping[str, Sequence[str]] | None = None,
    max_cells: int | None = None,
    group_key: str | None = None,
    state_key: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    alternatives: Sequence[str] = (),
    gene_output: str | Path | None = None,
    plan: bool = False,
    tokenizer: str | Path | CellTokenizer | None = None,
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
) -> InSilicoResult | PerturbationPlan:
    """Perturb genes of cells in silico, and measure how far the cells move in the model's view.

    The page "Perturb genes in silico" of the documentation says what effects and statistics are. A gene has a number in
    the cells that express it; a listed gene that the change adds has one in all. Every perturbation is held against
    the same change of random genes of like expression in the same cells.

    Cells are read in blocks, an interrupted run goes on with `resume`, and under `accelerate launch` the processes
    share the cells. The result does not depend on `batch_size` or the number of processes, but for rounding.

    Args:
        data: An .h5ad file or .zarr store.
        model: Folder or hub id, or a loaded model.
        output: The .parquet file to write.
        change: "delete", "overexpress", "inhibit", "activate" or "level": what the family's tokenizer has.
        level: Of the change "level", in [0, 1]: where a gene stands afterwards among those that a cell expresses.
        genes: What is perturbed, each in turn: names of genes, and "A+B" for genes that are perturbed together.
            Default: every gene that the cells express, each in the cells that express it.
        gene_file: More of these: a .txt file with one a line, or a .gmt file of gene sets.
        anchor: A gene that each of the others is perturbed together with, too.
        random_genes: Random perturbations that each is held against; 0 for none.
        where: Cells to take: column of obs -> its values.
        max_cells: So many of these at most, drawn by `seed`.
        group_key: Column of obs; the table has a row for each of its values. Cells without one are left out.
        state_key: Column of obs with the states of cells.
        start: Its value for the cells that are perturbed.
        goal: Its value for the state that perturbations are to lead to.
        alternatives: Its values for other states.
        gene_output: A .parquet file for the effects on every other gene.
        plan: Whether to say what the run would take, and do nothing.
        tokenizer: A folder, a hub id or a loaded tokenizer. Default: the model's.
        layer: Layer to read, or "raw" for `raw.X`. Default: `X`.
        gene_column: Column of `var` with the gene names, or "index". Default: the one that matches best.
        input_type: "counts", "log1p", or "auto" to decide by a sample and say so.
        seed: Seed of the tokenizer's random choices, of random genes, of `max_cells` and of resamplings.
        batch_size: Perturbed cells that go through the model at once; "auto" chooses by the device's memory.
        dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32. Effects of a single
            gene are small: in half precision they are mostly rounding.
        device: Where to compute. Default: CUDA, then MPS, then the CPU; not for a loaded model.
        workers: Threads that tokenize ahead of the model; cells are few here, so that there is nothing to gain.
        hidden_layer: Which of the model's hidden states are compared: -1 the last, -2 the one before (the published
            choice). Not for a model that says itself what a cell is.
        resume: Go on with what an earlier, interrupted call with the same settings left.
        overwrite: Replace an output that exists, and throw away an unfinished run.
        **encoding: The tokenizer's own options. Default: as the model was trained.

    Returns:
        The tables and checks, or with `plan` what the run would take.

    Raises:
        FileExistsError: The output exists, or an unfinished run.
        ValueError: The options do not fit each other, the data or the model (the message says why).
    """
    target = ResumableOutput(Path(output), resume=resume, overwrite=overwrite)
    _check_arguments(target.path, gene_output, model, device, start, goal, alternatives, state_key, random_genes)
    processes = join_processes(device)
    if processes.is_main and not plan:
        target.refuse_existing()
        if gene_output is not None and not (resume or overwrite):
            refuse_existing(gene_output, overwrite=False)
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
    check_change(encoder, change, level)
    identity = {"name": encoder.model.config.name_or_path, "sha256": model_digest(encoder.model)}
    task = inspect_source(
        as_location(data),
        encoder,
        layer=layer,
        gene_column=gene_column,
        input_type=input_type,
        model=identity,
        for_file=True,
        processes=processes.count,
    )
    choice = choose_cells(
        data,
        task.num_cells,
        where=where,
        max_cells=max_cells,
        group_key=group_key,
        state_key=state_key,
        start=start,
        others=[state for state in (goal, *alternatives) if state is not None],
        seed=seed,
    )
    asked_for = asked_perturbations(genes, gene_file)
    if processes.is_main:
        logger.info(f"{task.name}: {counted(len(choice.positions), 'cell')} of {task.num_cells:,}; {task.genes}")
    with encoder.evaluating():
        work = list_perturbations(
            asked_for,
            task.genes,
            encoder.tokenizer.gene_index,
            take_census(encoder, task, choice.positions),
            anchor=anchor,
            number=random_genes,
            only_expressed=needs_expression(change),
            seed=seed,
        )
        affected = None if gene_output is None else task.genes.genes
        _check_gene_effects(len(work.perturbations), 0 if affected is None else len(affected))
        run = PerturbationRun(encoder, task, choice, work, change, level=level, affected=affected, processes=processes)
        if plan:
            return run.measure()
        record = {
            **run.settings,
            "random_genes": random_genes,
            "group_key": group_key,
            "state_key": state_key,
            "start": start,
            "goal": goal,
            "alternatives": list(alternatives),
            "model": identity["name"],
            "source": task.record["source"],
            "genes": task.record["genes"],
        }
        if processes.is_main:
            target.take_up(dict.fromkeys(run.parts, run.settings))
            target.check_complete(record, _read_content(target.path).get("record", {}))
            if not target.is_complete:
                run.start(target)
        processes.wait()
        if target.is_complete:
            if processes.is_main:
                logger.info(f"{target.path} is already complete")
            return _read_result(target.path, gene_output)
        began = time.perf_counter()
        with target.disk_full_explained():
            run.find_centroids(target.partial)
            copies = run.perturb_missing(target.partial)
            seconds = time.perf_counter() - began
            if processes.is_main:
                effects = run.effects(target.partial)
                options: Any = {"change": change, "level": level, "seed": seed}
                table = cell_table(effects, run.effect_names, choice.groups, work, **options)
                gene_table = None if affected is None else affected_table(effects, affected, work)
                checks = effect_checks(table, effects, work, seed=seed)
                _write(InSilicoResult(table, gene_table, checks, record), target.path, gene_output)
                target.delete_partial()
                logger.info(
                    f"Wrote {target.path}: {counted(len(table), 'row')}; {counted(copies, 'perturbed cell')} in "
                    f"{seconds:.1f} s ({copies / max(seconds, 1e-9):,.0f} a second)"
                )
    processes.wait()
    return _read_result(target.path, gene_output)


def _check_arguments(
    path: Path,
    gene_output: str | Path | None,
    model: Any,
    device: Any,
    start: str | None,
    goal: str | None,
    alternatives: Sequence[str],
    state_key: str | None,
    random_genes: int,
) -> None:
    for one in (path, *([] if gene_output is None else [Path(gene_output)])):
        if one.suffix != ".parquet":
            raise ValueError(f"{one} has to end in .parquet")
    if gene_output is not None and Path(gene_output) == path:
        raise ValueError("output and gene_output are one file: they hold different tables.")
    if isinstance(model, PreTrainedModel) and device is not None:
        raise ValueError("A loaded model stays where it is: move it with model.to(device), and leave device out.")
    if random_genes < 0:
        raise ValueError(f"random_genes must be a whole number from 0 on, but is {random_genes}")
    if (start is None) != (state_key is None):
        raise ValueError(
            "state_key and start go together: the column with the states, and that of the cells to perturb."
        )
    if start is None and (goal is not None or alternatives):
        raise ValueError("goal and alternatives are states of state_key, and lead away from start: name both.")
    states = [state for state in (start, goal, *alternatives) if state is not None]
    if len(set(states)) < len(states):
        raise ValueError(f"start, goal and alternatives name a state twice: {', '.join(states)}.")
    check_effect_names(effect_names(states))


def _check_gene_effects(perturbations: int, genes: int) -> None:
    size = 16 * perturbations * genes
    if size > _MAX_GENE_BYTES:
        raise ValueError(
            Advised(
                f"the effects of {perturbations:,} perturbations on {genes:,} genes take {size / 1e9:.1f} GB of memory",
                "name the genes to perturb (genes=...)",
                "leave the effects on genes out",
            )
        )


def _write(result: InSilicoResult, path: Path, gene_output: str | Path | None) -> None:
    content = json.dumps({"record": result.record, "checks": result.checks}).encode()
    for table, file in ((result.gene_table, gene_output), (result.table, path)):
        if table is None or file is None:
            continue
        whole = pa.Table.from_pandas(table, preserve_index=False)
        with written_whole(Path(file)) as temporary:
            pq.write_table(
                whole.replace_schema_metadata({**(whole.schema.metadata or {}), _METADATA: content}), temporary
            )


def _read_content(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    return json.loads((pq.read_schema(path).metadata or {}).get(_METADATA, b"{}"))


def _read_result(path: Path, gene_output: str | Path | None) -> InSilicoResult:
    content = _read_content(path)
    genes = None if gene_output is None else pd.read_parquet(gene_output)
    return InSilicoResult(pd.read_parquet(path), genes, content["checks"], content["record"])


__all__ = ["InSilicoResult", "PerturbationPlan", "perturb"]
