"""Runs a perturbation model over sets of control cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING, MODEL_MAPPING

from state_hf.configuration.model_folders import loading_from, refuse_missing_weights
from state_hf.data.screens.perturbation_screens import PerturbationScreens
from state_hf.inference.control_cells import ControlCells, draw_windows, seeded_stream
from state_hf.inference.model_scale import expression_scale, predicted_total
from state_hf.inference.prediction_plan import PredictedGroup
from state_hf.modeling.perturbation_model import PerturbationModelMixin

# Predicted log1p expression is kept within these, as the original does: no gene of any cell has e^14 counts.
_LOG1P_RANGE = (0.0, 14.0)


def feature_slot(feature_key: str) -> str:
    """The slot of a `feature_key`: "X" and "layers/NAME" are slots already, and other names are keys of obsm."""
    return feature_key if feature_key == "X" or "/" in feature_key else f"obsm/{feature_key}"


def load_perturbation_model(model: str | Path | PreTrainedModel, *, device: str | torch.device | None = None) -> Any:
    """Load a model that predicts perturbed cells: of any family with the interface of `PerturbationModelMixin`.

    Args:
        model: A folder, a hub id, or a loaded model, which stays where it is unless a device is named.
        device: Where it computes. By default a GPU if there is one.

    Raises:
        ValueError: It is another kind of model, or has no vocabulary.
    """
    loaded: Any = model
    if not isinstance(model, PreTrainedModel):
        with loading_from(model):
            config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        # The class that trains has the parts that decode what the bare model predicts.
        found: Any = MODEL_FOR_PRETRAINING_MAPPING.get(type(config), None) or MODEL_MAPPING.get(type(config), None)
        if found is None or not issubclass(found, PerturbationModelMixin):
            raise ValueError(f"{model} is a {config.model_type!r} model, which does not predict perturbed cells")
        loaded, info = found.from_pretrained(model, output_loading_info=True)
        refuse_missing_weights(model, info["missing_keys"])
        if device is None and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
    if not issubclass(type(loaded), PerturbationModelMixin):
        raise ValueError(f"a {type(loaded).__name__} does not predict perturbed cells")
    _ = loaded.vocabulary  # raises where there is none
    return loaded if device is None else loaded.to(torch.device(device))


@dataclass(frozen=True)
class Slots:
    """Where the values of control cells are: the model's features, expression to be written, and raw counts."""

    features: str
    expression: str
    counts: str | None


@dataclass(frozen=True, eq=False)
class PredictedSet:
    """Predicted cells of one group.

    Attributes:
        group: What they are.
        controls: (cells, 2) screen and row of the control cell in the place of each.
        values: (cells, genes) float32.
        embedding: (cells, width) float32, where it is what the model predicts, and `values` what it decodes.
    """

    group: PredictedGroup
    controls: np.ndarray
    values: np.ndarray
    embedding: np.ndarray | None = None


class CellPredictor:
    """Predicts groups of cells from the control cells of screens.

    Args:
        model: The model.
        screens: The labels of the control cells.
        slots: Where their values are.
        batch_size: Sets that go through the model together.
        seed: Seed of the draws.

    Attributes:
        target_sum: Counts per cell that predicted log1p expression is normalised to; None where that is not known.

    Raises:
        ValueError: The data do not fit the model, or are on another scale than its training data.
    """

    def __init__(
        self,
        model: Any,
        screens: PerturbationScreens,
        slots: Slots,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        config: Any = model.config
        genes = model.vocabulary.genes
        self.model, self.screens, self.batch_size, self.seed = model, screens, batch_size, seed
        self.target_sum = predicted_total(
            config, screens, features=slots.features, expression=slots.expression, counts=slots.counts
        )
        self.decodes = config.gene_decoder is not None
        self.features = ControlCells(
            screens, slots.features, () if config.feature_scale == "embedding" else genes, num_features=config.input_dim
        )
        self.expression = self.features
        if self.decodes:
            self.expression = ControlCells(screens, slots.expression, genes, num_features=config.num_genes)
        self.counts = None
        if slots.counts is not None:
            self.counts = ControlCells(screens, slots.counts, genes, num_features=config.num_genes)
        self.num_columns = int(config.num_genes or getattr(config, "output_dim", config.input_dim))
        self.genes = list(genes) or [f"feature_{number}" for number in range(self.num_columns)]

    @property
    def scale(self) -> str:
        """Scale of what is predicted: "log1p", "counts" or "embedding"."""
        return str(expression_scale(self.model.config))

    @property
    def set_size(self) -> int:
        """Most control cells of a set."""
        return int(self.model.config.cell_set_length)

    @property
    def value_range(self) -> tuple[float, float]:
        """Least and greatest value of a prediction."""
        return _LOG1P_RANGE if self.scale == "log1p" else (-np.inf, np.inf)

    def run(self, groups: Sequence[PredictedGroup]) -> Iterator[PredictedSet]:
        """Predict groups in their order, a few sets at a time."""
        windows = (
            (group, controls, kept)
            for group in groups
            for controls, kept in draw_windows(
                self.features.of(group.cell_type),
                group.cells,
                set_size=self.set_size,
                rng=seeded_stream(self.seed, "controls", group.cell_type, group.draw_name),
            )
        )
        while batch := list(islice(windows, self.batch_size)):
            predicted, embedded = self._forward([(group, controls) for group, controls, _ in batch])
            for number, (group, controls, kept) in enumerate(batch):
                embedding = None if embedded is None else embedded[number, :kept]
                yield PredictedSet(group, controls[:kept], predicted[number, :kept], embedding)

    def forward(self, sets: Sequence[tuple[PredictedGroup, np.ndarray]]) -> Iterator[np.ndarray]:
        """(cells, genes) float32 of every set: a group, and its (cells, 2) control cells."""
        for start in range(0, len(sets), self.batch_size):
            batch = sets[start : start + self.batch_size]
            predicted, _ = self._forward(batch)
            for (_, controls), values in zip(batch, predicted, strict=True):
                yield values[: len(controls)]

    def _forward(self, sets: Sequence[tuple[PredictedGroup, np.ndarray]]) -> tuple[np.ndarray, np.ndarray | None]:
        """(sets, cells, genes) float32 and, where they are decoded, the (sets, cells, width) embedding."""
        length = max(len(controls) for _, controls in sets)
        values = self.features.read(np.concatenate([controls for _, controls in sets]))
        mask = np.zeros((len(sets), length), dtype=bool)
        for row, (_, controls) in enumerate(sets):
            mask[row, : len(controls)] = True
        cells = np.zeros((len(sets), length, values.shape[1]), dtype=np.float32)
        cells[mask] = values
        combined = max(len(group.ids) for group, _ in sets)
        ids = np.array([[*group.ids, *[-1] * (combined - len(group.ids))] for group, _ in sets])
        inputs = {"control": torch.from_numpy(cells), "perturbation_ids": torch.from_numpy(ids)}
        if not mask.all():
            inputs["cell_mask"] = torch.from_numpy(mask)
        inputs.update(self._contexts(sets, mask))
        output = self.model(**{name: tensor.to(self.model.device) for name, tensor in inputs.items()})
        predicted, embedded = output.predicted_cells, None
        if self.decodes:
            embedded = predicted.float().cpu().numpy()
            predicted = output.predicted_expression
        if self.scale == "log1p":
            predicted = predicted.clamp(*_LOG1P_RANGE)
        return predicted.float().cpu().numpy(), embedded

    def _contexts(self, sets: Sequence[tuple[PredictedGroup, np.ndarray]], mask: np.ndarray) -> dict[str, torch.Tensor]:
        """What a model reads of a set beside its cells and its perturbation."""
        config, vocabulary = self.model.config, self.model.vocabulary
        names, found = [group.cell_type for group, _ in sets], {}
        if self.model.reads_cell_types:
            found["cell_type_ids"] = torch.tensor([self.model.cell_type_id(name) for name in names])
        if self.model.reads_control_means:
            found["control_mean"] = torch.from_numpy(np.stack([self.features.mean(name) for name in names]))
            found["control_cells"] = torch.tensor([len(self.features.of(name)) for name in names])
        if config.use_batch_encoder:
            ids = np.zeros(mask.shape, dtype=np.int64)
            labels = [self.batch_of(cell) for _, controls in sets for cell in controls]
            ids[mask] = vocabulary.batch_ids(labels)
            found["batch_ids"] = torch.from_numpy(ids)
        return found

    def batch_of(self, cell: np.ndarray) -> str:
        """Batch of a control cell, given by its screen and row."""
        screen, row = cell.tolist()
        return self.screens.batches[self.screens.screens[screen].batches[row]]


__all__ = ["CellPredictor", "PredictedSet", "Slots", "feature_slot", "load_perturbation_model"]
