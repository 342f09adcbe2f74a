"""Predicted cells and controls on their way to a file, on the scale that was asked for."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np
from transformers.utils import logging

from state_hf._version import __version__
from state_hf.configuration.advice import Advised
from state_hf.configuration.perturbation_labels import Perturbation
from state_hf.data.cells.cell_writer import CellWriter, MatrixWriter, cell_writer, matrix_writer
from state_hf.data.file_stamps import FileStamps
from state_hf.data.screens.prediction_record import RECORD_KEY, PredictionRecord, split_of_model
from state_hf.data.screens.split_parts import GroupParts
from state_hf.inference.cell_predictor import CellPredictor, PredictedSet
from state_hf.inference.control_cells import ControlCells, seeded_stream
from state_hf.inference.loading import model_digest
from state_hf.inference.predicted_counts import draw_counts, round_counts
from state_hf.inference.prediction_plan import PredictedGroup
from state_hf.inference.tilted_cells import TiltedCells

Labels = dict[str, str | Sequence[str]]
# (cells, genes), their labels, and their (cells, width) embedding if the model decodes one.
Block = tuple[np.ndarray, Labels, np.ndarray | None]
Emission = Literal["model", "tilted", "counts"]
_BLOCK_CELLS = 1024


class EmittedCells:
    """Blocks of cells with their labels.

    Args:
        predictor: What predicts.
        keys: Columns of obs for the perturbation, the cell type ("cell_type" if None, where all are taken for one) and,
            if not None, the batch.
        emit: "model" for the model's cells, "tilted" for control cells with the model's mean, or "counts" for counts
            of the latter where the model has a mixed model, and drawn from the former where not.
        depth: Total counts of a cell; None for that of its control cell.

    Raises:
        ValueError: Counts are asked for of a model that predicts no expression.
    """

    def __init__(
        self, predictor: CellPredictor, keys: tuple[str, str | None, str | None], *, emit: Emission, depth: int | None
    ) -> None:
        if emit not in ("model", "tilted", "counts"):
            raise ValueError(f"emit is one of model, tilted, counts, not {emit!r}")
        if emit == "counts" and predictor.scale == "embedding":
            raise ValueError("the model predicts an embedding, of which no counts can be drawn")
        if depth is not None and depth < 1:
            raise ValueError(f"depth must be at least 1, and is {depth}")
        self.predictor, self.keys, self.emit, self.depth = predictor, keys, emit, depth
        self.counts = emit == "counts"
        self._tilted = emit == "tilted" or (self.counts and predictor.model.mixed_effects is not None)
        self._source = TiltedCells(predictor) if self._tilted else predictor

    @property
    def scale(self) -> str:
        """Scale of what is written."""
        return "counts" if self.counts else self.predictor.scale

    @property
    def embedding(self) -> tuple[str, int] | None:
        """Key in obsm and width of the embedding that is decoded to expression; None for other models."""
        config = self.predictor.model.config
        if not self.predictor.decodes or config.output_dim != config.input_dim or self._tilted:
            return None
        return str(config.feature_key).removeprefix("obsm/"), int(config.output_dim)

    @property
    def _counts_drawn(self) -> str:
        if not self.counts:
            return "none"
        if self._tilted:
            return "shares of each tilted cell's depth, rounded at random"
        return "multinomial draw of each cell's depth from its predicted shares"

    def record(self, groups: Sequence[PredictedGroup], controls: str) -> PredictionRecord:
        """How the cells are made."""
        config, predictor = self.predictor.model.config, self.predictor
        total = None if self.counts else predictor.target_sum
        perturbation_key, cell_type_key, batch_key = self.keys
        split = split_of_model(str(config.name_or_path))
        parts = None
        if split is not None:
            known = predictor.model.vocabulary.control_perturbation
            parts = GroupParts(split, control=predictor.screens.control, split_control=known)
        pairs = dict.fromkeys((group.cell_type, group.perturbation) for group in groups)
        return PredictionRecord(
            perturbation_key=perturbation_key,
            control=predictor.screens.control,
            controls=controls,
            cell_type_key=cell_type_key or "",
            batch_key=batch_key or "",
            scale=self.scale,
            target_sum=-1.0 if total is None else float(total),
            feature_key=str(config.feature_key or ""),
            num_genes=len(predictor.genes),
            emit=self.emit,
            counts_drawn=self._counts_drawn,
            depth="control cell" if self.depth is None else str(self.depth),
            model=str(config.name_or_path),
            model_type=config.model_type,
            model_digest=model_digest(predictor.model),
            cell_set_length=int(config.cell_set_length),
            seed=predictor.seed,
            split="" if split is None else str(split),
            groups={pair: (parts.part(*pair) or "") if parts is not None else "" for pair in pairs},
            state_hf_version=__version__,
        )

    def _labels(self, perturbation: str, cell_type: str, cells: np.ndarray) -> Labels:
        perturbation_key, cell_type_key, batch_key = self.keys
        labels: Labels = {perturbation_key: perturbation, cell_type_key or "cell_type": cell_type}
        if batch_key is not None:
            labels[batch_key] = [self.predictor.batch_of(cell) for cell in cells]
        return labels

    def predicted(self, groups: Sequence[PredictedGroup]) -> Iterator[Block]:
        """Predicted cells."""
        done: dict[tuple[str, str], int] = {}
        for cells in self._source.run(groups):
            group = cells.group
            key = (group.cell_type, group.perturbation)
            values = self._count(cells, done.get(key, 0)) if self.counts else cells.values
            done[key] = done.get(key, 0) + 1
            yield values, self._labels(group.perturbation, group.cell_type, cells.controls), cells.embedding

    def _count(self, cells: PredictedSet, number: int) -> np.ndarray:
        """Counts of the set that is the `number`th of its group."""
        raw = self.predictor.counts
        if self.depth is not None:
            depths = np.full(len(cells.values), self.depth)
        elif raw is not None:
            depths = _whole(raw.read(cells.controls), raw).sum(axis=1).astype(np.int64)
        else:
            raise ValueError(
                Advised("depths are taken from raw counts", "name their slot (counts_slot='layers/counts')")
            )
        group = cells.group
        rng = seeded_stream(self.predictor.seed, "counts", group.cell_type, group.draw_name, str(number))
        whole = round_counts if self._tilted else draw_counts
        return whole(cells.values, depths, is_log1p=self.predictor.scale == "log1p", rng=rng)

    def real_controls(self, cell_types: Sequence[str]) -> Iterator[Block]:
        """All control cells of cell types."""
        source = self.predictor.counts if self.counts else self.predictor.expression
        if source is None:
            raise ValueError(
                Advised("control cells as counts come from raw counts", "name their slot (counts_slot='layers/counts')")
            )
        for cell_type in cell_types:
            cells = source.of(cell_type)
            for start in range(0, len(cells), _BLOCK_CELLS):
                block = cells[start : start + _BLOCK_CELLS]
                values = source.read(block)
                yield (
                    _whole(values, source) if self.counts else values,
                    self._labels(self.predictor.screens.control, cell_type, block),
                    self.predictor.features.read(block) if self.embedding is not None else None,
                )

    def control_groups(self, cell_types: Sequence[str]) -> list[PredictedGroup]:
        """The control perturbation of cell types, as many cells as there are controls."""
        vocabulary, screens = self.predictor.model.vocabulary, self.predictor.screens
        if vocabulary.control_perturbation is None:
            raise ValueError("the model does not say which perturbation is its control, so it simulates none")
        ids = (vocabulary.perturbation_id(vocabulary.control_perturbation),)
        return [
            PredictedGroup(cell_type, screens.control, ids, len(self.predictor.features.of(cell_type)))
            for cell_type in cell_types
        ]


def write_predictions(
    emitted: EmittedCells,
    groups: Sequence[PredictedGroup],
    output: Path,
    *,
    controls: Literal["real", "simulated", "none"],
    stamps: FileStamps,
) -> None:
    """Write predicted cells, and control cells of the same cell types, as they are made.

    Args:
        emitted: What is written.
        groups: What is predicted.
        output: A .h5ad or .npy file; it is there when all is written.
        controls: Which control cells are written first.
        stamps: Of the files that are read.

    Raises:
        ValueError: `controls` is none of these or does not fit the groups, the output is of another kind, or a file
            changes while it is read.
    """
    if controls not in ("real", "simulated", "none"):
        raise ValueError(f"controls is one of real, simulated, none, not {controls!r}")
    control = emitted.predictor.screens.control
    named = [group for group in groups if Perturbation.of(group.perturbation, control=control).is_control]
    if named and controls != "none":
        raise ValueError(
            Advised(
                f"the control {named[0].perturbation!r} is among what to predict",
                "write no others (controls='none')",
                "leave it out and have it simulated (controls='simulated')",
            )
        )
    cell_types = list(dict.fromkeys(group.cell_type for group in groups))
    simulated = emitted.control_groups(cell_types) if controls == "simulated" else []
    total = sum(group.cells for group in [*simulated, *groups])
    with (
        _writer(emitted, groups, output, controls) as writer,
        logging.tqdm(total=total, unit="cell", desc="predict") as bar,
    ):
        if controls == "real":
            for values, labels, embedding in emitted.real_controls(cell_types):
                writer.add(values, labels, embedding)
        for values, labels, embedding in emitted.predicted([*simulated, *groups]):
            writer.add(values, labels, embedding)
            bar.update(len(values))
        stamps.check()


def _writer(
    emitted: EmittedCells, groups: Sequence[PredictedGroup], output: Path, controls: str
) -> AbstractContextManager[CellWriter | MatrixWriter]:
    genes = emitted.predictor.genes
    if output.suffix == ".npy":
        return matrix_writer(output, len(genes))
    if output.suffix != ".h5ad":
        raise ValueError(f"the output must end in .h5ad or .npy, and is {output}")
    uns = {RECORD_KEY: emitted.record(groups, controls).to_uns()}
    return cell_writer(output, genes, uns=uns, dense=emitted.scale == "embedding", embedding=emitted.embedding)


def _whole(values: np.ndarray, source: ControlCells) -> np.ndarray:
    if (values < 0).any() or (values != np.rint(values)).any():
        raise ValueError(f"{source.place} does not hold counts: it has values that are negative or no whole numbers")
    return values


__all__ = ["EmittedCells", "write_predictions"]
