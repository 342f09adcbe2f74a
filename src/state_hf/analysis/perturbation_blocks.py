"""The blocks of perturbed cells of a run: computed by all processes together, and put together again."""

import hashlib
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from state_hf.analysis.cell_choice import CellChoice
from state_hf.analysis.gene_perturbations import ExpressionCensus, GenePerturbation
from state_hf.analysis.in_silico_perturbation import (
    InSilicoPerturber,
    PerturbationEffects,
    StateCentroid,
    effect_names,
    mean_gene_states,
    unperturbed_states,
)
from state_hf.analysis.perturbation_list import PerturbationList
from state_hf.configuration.advice import Advised
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.partial_results import PartialResults
from state_hf.inference.cell_encoder import CellEncoder, trimmed
from state_hf.inference.chosen_cells import encode_chosen
from state_hf.inference.embedding_task import EmbeddingTask
from state_hf.inference.processes import Processes
from state_hf.inference.resumable_output import ResumableOutput
from state_hf.tokenization.gene_changes import GeneChange

# Cells that are read and counted together.
_COUNTED_CELLS = 512
# What a killed run loses, in perturbed cells, and into how many blocks at least each process' share is cut.
_BLOCK_COPIES = 4096
_BLOCKS_PER_PROCESS = 8
# What a plan measures for, at most with so many cells and perturbations at once.
_MEASURED_SECONDS = 3.0
_MEASURED_CELLS, _MEASURED_PERTURBATIONS = 8, 64
# What the tables take beside the values of all cells, of which they are made one effect at a time.
_TABLE_COPIES = 8


@dataclass(frozen=True)
class PerturbationPlan:
    """What a run would take.

    Attributes:
        cells: Cells that are perturbed.
        perturbations: How many are asked for.
        random_perturbations: How many more, of random genes, they are held against.
        copies: Perturbed cells that go through the model, at most.
        tokens: Mean tokens of a cell.
        copies_per_second: Measured, of one process.
        seconds: Of all processes together.
        memory_bytes: Peak memory of this process so far; of an accelerator, what the computation took there.
        table_bytes: Memory that the tables take in the end, about.
        disk_bytes: Of the finished blocks.
    """

    cells: int
    perturbations: int
    random_perturbations: int
    copies: int
    tokens: float
    copies_per_second: float
    seconds: float
    memory_bytes: int
    table_bytes: int
    disk_bytes: int


def take_census(encoder: CellEncoder, task: EmbeddingTask, positions: np.ndarray) -> ExpressionCensus:
    """The expression of the genes, as the model sees it, in some cells of a data set."""
    tokenizer = encoder.tokenizer
    census = ExpressionCensus(len(tokenizer.gene_index.genes))
    with open_cells(task.source).expression(task.layer) as cells:
        for part in in_parts(positions, _COUNTED_CELLS):
            encoding = encode_chosen(encoder, cells, task.genes, part, input_type=task.input_type)
            census.add(tokenizer.gene_rows(encoding).numpy(), tokenizer.gene_levels(encoding).numpy())
    return census


class PerturbationRun:
    """Perturbs the chosen cells of a data set with all perturbations of a list.

    Args:
        encoder: The model and its tokenizer, in evaluation mode.
        task: The data set.
        choice: Its cells.
        work: What is perturbed.
        change: What is done to genes.
        level: Of the change "level".
        affected: Vocabulary rows of the genes whose own effects are summed, or None.
        processes: Those that share the cells.
    """

    def __init__(
        self,
        encoder: CellEncoder,
        task: EmbeddingTask,
        choice: CellChoice,
        work: PerturbationList,
        change: GeneChange,
        *,
        level: float | None,
        affected: np.ndarray | None,
        processes: Processes,
    ) -> None:
        self.encoder, self.task, self.choice, self.work, self.processes = encoder, task, choice, work, processes
        self.change, self.level, self.affected = change, level, affected
        self.centroids: dict[str, StateCentroid] = {}

    @property
    def effect_names(self) -> list[str]:
        """The effects on cells."""
        return effect_names(self.choice.states)

    @property
    def copies(self) -> int:
        """Perturbed cells, at most: genes that are perturbed together may be expressed by the same cells."""
        cells, expressing = len(self.choice.positions), self.work.census.expressing
        if not self._perturber(self.work.perturbations).needs_expression:
            return cells * len(self.work.perturbations)
        return sum(min(int(expressing[list(one.rows)].sum()), cells) for one in self.work.perturbations)

    @property
    def settings(self) -> dict[str, Any]:
        """All that the numbers depend on."""
        return {
            **self.task.settings,
            "change": self.change,
            "level": self.level,
            "perturbations": self.work.asked,
            "perturbations_sha256": self.work.digest,
            "add_genes": self.work.add_genes,
            "cells": len(self.choice.positions),
            "cells_sha256": _digest(self.choice.positions),
            "states": {name: _digest(positions) for name, positions in self.choice.states.items()},
            "gene_effects": self.affected is not None,
        }

    def _perturber(self, perturbations: list[GenePerturbation]) -> InSilicoPerturber:
        return InSilicoPerturber(
            self.encoder,
            perturbations,
            self.change,
            level=self.level,
            centroids=self.centroids,
            add_genes=self.work.add_genes,
            affected=self.affected,
        )

    def _encode(self, cells: CellMatrix, positions: np.ndarray) -> dict[str, torch.Tensor]:
        return encode_chosen(self.encoder, cells, self.task.genes, positions, input_type=self.task.input_type)

    def measure(self) -> PerturbationPlan:
        """Perturb a few cells for some seconds, and say what the run would take."""
        cells = np.linspace(0, len(self.choice.positions) - 1, _MEASURED_CELLS).astype(np.int64)
        positions = self.choice.positions[np.unique(cells)]
        with open_cells(self.task.source).expression(self.task.layer) as opened:
            encoding = self._encode(opened, positions)
        perturbations, rng = self.work.perturbations, np.random.default_rng(0)
        # Ever larger, so that it takes seconds on any machine; the first rounds only warm up.
        cells_at_once, at_once, rate, began = 1, 1, 0.0, time.perf_counter()
        while time.perf_counter() - began < _MEASURED_SECONDS:
            chosen = rng.permutation(len(perturbations))[:at_once]
            perturber = self._perturber([perturbations[at] for at in chosen])
            part = trimmed(encoding, np.arange(min(cells_at_once, len(positions))), keep_mask=True)
            start = time.perf_counter()
            perturber.effects(part, positions[: len(part["input_ids"])])
            # Cells go through the model once as they are, too.
            done = int(perturber.perturbable(part).sum()) + len(part["input_ids"])
            rate = done / (time.perf_counter() - start)
            cells_at_once = min(2 * cells_at_once, _MEASURED_CELLS)
            at_once = min(2 * at_once, _MEASURED_PERTURBATIONS)
        number, copies = len(self.choice.positions), self.copies
        values = 4 * number * len(perturbations) * len(self.effect_names)
        return PerturbationPlan(
            cells=number,
            perturbations=self.work.asked,
            random_perturbations=len(perturbations) - self.work.asked,
            copies=copies,
            tokens=float(encoding["attention_mask"].sum(dim=1).double().mean()),
            copies_per_second=rate,
            seconds=copies / rate / self.processes.count,
            memory_bytes=_peak_memory(self.encoder.model.device),
            table_bytes=values + _TABLE_COPIES * values // len(self.effect_names),
            disk_bytes=values,
        )

    def start(self, target: ResumableOutput) -> None:
        """Make the folders of blocks, unless there are some to go on with. For one process."""
        number, perturbations = len(self.choice.positions), len(self.work.perturbations)
        of_process = math.ceil(number / (_BLOCKS_PER_PROCESS * self.processes.count))
        rows = max(1, min(of_process, int(_BLOCK_COPIES / max(self.copies / number, 1))))
        sums = -(-number // rows) * perturbations
        target.start(self.settings, num_rows=number, block_rows=rows, part="cells")
        target.start(self.settings, num_rows=sums, block_rows=perturbations, part="sums")
        if self.choice.states:
            cells = len(self._state_cells)
            target.start(self.settings, num_rows=cells, block_rows=min(cells, _COUNTED_CELLS), part="centroids")

    @property
    def parts(self) -> list[str]:
        """The folders of blocks."""
        return ["cells", "sums", *(["centroids"] if self.choice.states else [])]

    @property
    def _state_cells(self) -> np.ndarray:
        return np.unique(np.concatenate(list(self.choice.states.values())))

    def find_centroids(self, folder: Path) -> None:
        """Where the states lie: all of their cells go through the model as they are."""
        if not self.choice.states:
            return
        partial, positions = PartialResults.open(folder / "centroids"), self._state_cells
        missing = partial.missing()
        self.processes.wait()
        with open_cells(self.task.source).expression(self.task.layer) as cells:
            for block in self.processes.share(missing):
                encoding = self._encode(cells, positions[slice(*partial.bounds(block))])
                partial.write(block, _genes_and_cell(self.encoder, encoding))
        self.processes.wait()
        rows = np.concatenate([rows for _, rows in partial.blocks()])
        width = self.encoder.model.config.hidden_size
        for name, members in self.choice.states.items():
            mean = torch.from_numpy(rows[np.isin(positions, members)].mean(axis=0, dtype=np.float64)).float()
            self.centroids[name] = StateCentroid(mean[:width], mean[width:])

    def perturb_missing(self, folder: Path) -> int:
        """Compute and store the missing blocks. Returns how many perturbed cells this process had."""
        partial, sums = PartialResults.open(folder / "cells"), PartialResults.open(folder / "sums")
        missing = partial.missing()
        # Nobody may finish a block before all have seen which ones are missing.
        self.processes.wait()
        own = self.processes.share(missing)
        share = sum(stop - start for start, stop in map(partial.bounds, own)) / len(self.choice.positions)
        perturber, done = self._perturber(self.work.perturbations), 0
        bar = logging.tqdm(
            total=round(self.copies * share),
            unit=" perturbed cells",
            desc=Path(self.task.name).name,
            disable=not self.processes.is_main,
        )

        def progress(copies: int) -> None:
            nonlocal done
            done += copies
            bar.update(copies)

        with open_cells(self.task.source).expression(self.task.layer) as cells:
            with bar:
                for block in own:
                    positions = self.choice.positions[slice(*partial.bounds(block))]
                    effects = perturber.effects(self._encode(cells, positions), positions, progress)
                    sums.write(block, _sum_rows(effects))
                    partial.write(block, effects.values.reshape(len(positions), -1))
            self.processes.wait()
            if cells.cells.fingerprint() != self.task.settings["input"]:
                raise ValueError(Advised(f"{self.task.name} changed while it was read", "start over (overwrite=True)"))
        return done

    def effects(self, folder: Path) -> PerturbationEffects:
        """The effects on all cells, of all blocks."""
        shape = (-1, len(self.work.perturbations), len(self.effect_names))
        values = np.concatenate([rows for _, rows in PartialResults.open(folder / "cells").blocks()]).reshape(shape)
        sums: Any = 0.0
        for _, rows in PartialResults.open(folder / "sums").blocks():
            sums = sums + rows.astype(np.float64)
        genes = 0 if self.affected is None else len(self.affected)
        width = (sums.shape[1] - 2 - 2 * genes) // 2
        first, second, displaced, missing, cells = np.split(
            sums, np.cumsum([width, width, 2, genes]), axis=1
        )  # fmt: skip
        of_genes = (None, None) if self.affected is None else (cells - missing, cells)
        return PerturbationEffects(values, np.stack([first, second]), displaced.T, *of_genes)


def in_parts(positions: np.ndarray, size: int) -> list[np.ndarray]:
    """Positions of cells, so many at a time."""
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _sum_rows(effects: PerturbationEffects) -> np.ndarray:
    """(perturbations, columns) float32: the sums of a block."""
    columns = [*effects.displacement, effects.displaced.T]
    if effects.gene_cosines is not None and effects.gene_cells is not None:
        # What is missing to 1 keeps its digits in single precision.
        columns += [effects.gene_cells - effects.gene_cosines, effects.gene_cells]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _genes_and_cell(encoder: CellEncoder, encoding: dict[str, torch.Tensor]) -> np.ndarray:
    """(cells, width + cell width) float32: the mean state of a cell's genes, and its embedding."""
    parts = []
    for cells in in_parts(np.arange(len(encoding["input_ids"])), 64):
        some = {name: tensor[torch.from_numpy(cells)] for name, tensor in encoding.items()}
        states = unperturbed_states(encoder, some)
        parts.append(torch.cat([mean_gene_states(encoder, some, states), states.cell.float()], dim=1).cpu())
    return torch.cat(parts).numpy()


def _digest(positions: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(positions, np.int64).tobytes()).hexdigest()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    # Kilobytes, but for macOS, which counts bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


__all__ = ["PerturbationPlan", "PerturbationRun", "in_parts", "take_census"]
