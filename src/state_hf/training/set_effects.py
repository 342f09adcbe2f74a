"""What a model predicts of the sets of a screen beside what they show, summed over the cells of a perturbation."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.state_transition import StateTransitionForPerturbation

Context: TypeAlias = tuple[int, int]
"""Position of the screen, cell type id."""


@dataclass(eq=False)
class EffectSums:
    """Sums over the cells of a perturbation in a context, (features,) each.

    Attributes:
        total: Of the perturbed cells.
        squares: Of their squares.
        effect: Of the effects that the model predicts of them.
        cells: Number of perturbed cells.
    """

    total: np.ndarray
    squares: np.ndarray
    effect: np.ndarray
    cells: int = 0

    def add(self, targets: np.ndarray, effect: np.ndarray) -> None:
        """Add a set: its perturbed cells, and the predicted change of its mean."""
        self.total += targets.sum(axis=0, dtype=np.float64)
        self.squares += np.square(targets, dtype=np.float64).sum(axis=0)
        self.effect += len(targets) * effect
        self.cells += len(targets)

    def residual(self) -> np.ndarray:
        """What the mean cell has beyond the predicted effect; the context's level is still in it."""
        return (self.total - self.effect) / self.cells

    def deviations(self) -> np.ndarray:
        """Sum of squared deviations from the mean."""
        return self.squares - np.square(self.total) / self.cells


@torch.no_grad()
def sum_effects(
    model: StateTransitionForPerturbation, dataset: PerturbationDataset, batch_size: int
) -> dict[tuple[Context, int], EffectSums]:
    """Sums by context and perturbation, those of the control left out.

    A predicted effect is the mean over a set of the model's cells, minus that of its cells of the control perturbation.

    Args:
        model: A trained model; its mode and weights stay as they are.
        dataset: The sets.
        batch_size: Sets that go through the model together.
    """
    control = dataset.screens.control_id
    training = model.training
    model.eval()
    groups: dict[tuple[Context, int], EffectSums] = {}
    wanted = [(index, cells) for index in range(len(dataset))
              if (cells := dataset.sets.draw(index, dataset.epoch)).perturbation != control]  # fmt: skip
    for start in range(0, len(wanted), batch_size):
        batch = wanted[start : start + batch_size]
        items = list(dataset.read([index for index, _ in batch]))
        inputs = {
            name: torch.stack([item[name] for item in items]).to(model.device)
            for name in ("control", "batch_ids", "cell_mask", "perturbation_ids")
        }
        without = {**inputs, "perturbation_ids": torch.full_like(inputs["perturbation_ids"], control)}
        change = model(**inputs).predicted_cells - model(**without).predicted_cells
        cells_of_sets = inputs["cell_mask"].sum(dim=1, keepdim=True)
        effects = (change.sum(dim=1) / cells_of_sets).cpu().double().numpy()
        for (_, cells), item, effect in zip(batch, items, effects, strict=True):
            targets = item["target"][item["target_mask"]].numpy()
            key = ((cells.screen, cells.cell_type), cells.perturbation)
            if key not in groups:
                groups[key] = EffectSums(*np.zeros((3, targets.shape[1])))
            groups[key].add(targets, effect)
    model.train(training)
    return groups


__all__ = ["EffectSums", "sum_effects"]
