"""How well models predict held-out sets of cells: a few numbers for each, from the same sets for all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from transformers.utils import logging

from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.modeling.losses import EnergyDistanceLoss
from state_hf.modeling.state_transition import StateTransitionPreTrainedModel
from state_hf.training.screen_means import ContextId, ScreenMeans

logger = logging.get_logger(__name__)

# (cell type id, perturbation id)
_Group = tuple[int, int]
_FORWARD = ("control", "perturbation_ids", "batch_ids", "cell_mask")
# Of a column's standard error, which stands beside it.
_ERROR = "_se"


class _Sums:
    """Sums of the predicted cells of every group, and the energy distances of their sets."""

    def __init__(self) -> None:
        self.total: dict[_Group, np.ndarray] = {}
        self.cells: dict[_Group, int] = {}
        self.distances: list[tuple[int, float]] = []

    def add(self, group: _Group, cells: np.ndarray) -> None:
        self.total[group] = self.total.get(group, 0) + cells.sum(axis=0, dtype=np.float64)
        self.cells[group] = self.cells.get(group, 0) + len(cells)

    def means(self) -> dict[_Group, np.ndarray]:
        return {group: total / self.cells[group] for group, total in self.total.items()}


@torch.no_grad()
def score_models(
    models: Mapping[str, StateTransitionPreTrainedModel],
    dataset: PerturbationDataset,
    means: ScreenMeans,
    *,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Score predictions of perturbed sets, all models on the same ones.

    Args:
        models: The models by name.
        dataset: The held-out sets. With `target_expression`, that is what predictions are compared with.
        means: Means of the held-out part, of the same features as the targets.
        batch_size: Sets that go through a model together.

    Returns:
        One row a model; means over (cell type, perturbation) groups, but the first over sets. Columns, each with its
        standard error beside it (`mae_se`), perturbations being drawn at random, with all their groups and sets:

        - `energy_distance`: between the predicted and the real cells of a set.
        - `mae`: mean absolute difference of the mean predicted and the mean real cell.
        - `pearson_delta`: correlation of their differences from the mean control cell, over genes. NaN where the
          predicted difference is the same for all genes.
        - `discrimination`: 1 for a prediction that is closer (L1) to the mean of its own perturbation than to that of
          any other of the cell type, 0 for one that is the farthest.
    """
    sums = {name: _Sums() for name in models}
    decoded = dataset.expression_names is not None
    control_means = {cell_type: mean for (_, cell_type), mean in means.controls.items()}
    control_cells = {cell_type: number for (_, cell_type), number in means.control_cells.items()}
    distance = EnergyDistanceLoss()
    loader = DataLoader(dataset, batch_size=batch_size)
    for sets in logging.tqdm(loader, desc="score"):
        perturbed = sets["perturbation_ids"] != dataset.screens.control_id
        sets = {name: value[perturbed] for name, value in sets.items()}
        if not perturbed.any():
            continue
        target = sets["target_expression" if decoded else "target"]
        groups = list(zip(sets["cell_type_ids"].tolist(), sets["perturbation_ids"].tolist(), strict=True))
        for name, model in models.items():
            predicted = _predict(model, sets, control_means, control_cells).cpu()
            energies = distance(predicted, target, sets["cell_mask"], sets["target_mask"])
            sums[name].distances += zip((perturbation for _, perturbation in groups), energies.tolist(), strict=True)
            for group, cells, mask in zip(groups, predicted, sets["cell_mask"], strict=True):
                sums[name].add(group, cells[mask].numpy())
    real = {(cell_type, perturbation): mean for ((_, cell_type), perturbation), mean in means.perturbed.items()}
    rows = {
        name: {
            **_summary("energy_distance", collected.distances),
            **_scores(collected.means(), real, control_means),
        }
        for name, collected in sums.items()
    }
    return pd.DataFrame(rows).T.rename_axis("model")


def scores_text(scores: pd.DataFrame) -> str:
    """A table of scores to read, every number with its standard error."""
    shown = {}
    for name in scores:
        if not str(name).endswith(_ERROR):
            errors = scores.get(f"{name}{_ERROR}", pd.Series(np.nan, scores.index))
            shown[name] = [
                f"{value:.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}")
                for value, error in zip(scores[name], errors, strict=True)
            ]
    return pd.DataFrame(shown, index=scores.index).to_string()


def score_profiles(name: str, profiles: Mapping[tuple[ContextId, int], np.ndarray], means: ScreenMeans) -> pd.DataFrame:
    """Score mean cells as `score_models` scores those of models; there are no cells to give an energy distance.

    Args:
        name: Name of the row.
        profiles: Predicted mean cells, (features,), by context and perturbation id.
        means: Means of the held-out part.
    """
    predicted = {(context[1], perturbation): profile for (context, perturbation), profile in profiles.items()}
    real = {(context[1], perturbation): mean for (context, perturbation), mean in means.perturbed.items()}
    scores = _scores(predicted, real, {context[1]: mean for context, mean in means.controls.items()})
    return pd.DataFrame({name: {**_summary("energy_distance", []), **scores}}).T.rename_axis("model")


def _predict(
    model: StateTransitionPreTrainedModel,
    sets: dict[str, torch.Tensor],
    control_means: Mapping[int, np.ndarray],
    control_cells: Mapping[int, int],
) -> torch.Tensor:
    inputs: dict[str, Any] = {name: sets[name] for name in _FORWARD}
    cell_types = sets["cell_type_ids"].tolist()
    if model.reads_cell_types:
        inputs["cell_type_ids"] = sets["cell_type_ids"]
    if model.reads_control_means:
        means = np.stack([control_means[cell_type] for cell_type in cell_types])
        inputs["control_mean"] = torch.from_numpy(means.astype(np.float32))
        inputs["control_cells"] = torch.tensor([control_cells[cell_type] for cell_type in cell_types])
    output = model.eval()(**{name: value.to(model.device) for name, value in inputs.items()})
    return output.predicted_cells if output.predicted_expression is None else output.predicted_expression


def _scores(
    predictions: Mapping[_Group, np.ndarray],
    real: Mapping[_Group, np.ndarray],
    control_means: Mapping[int, np.ndarray],
) -> dict[str, float]:
    errors, correlations, ranks = [], [], []
    for group, predicted in predictions.items():
        cell_type, perturbation = group
        truth, control = real[group], control_means[cell_type]
        errors.append((perturbation, np.abs(predicted - truth).mean()))
        correlations.append((perturbation, _correlation(predicted - control, truth - control)))
        others = [real[other] for other in predictions if other[0] == cell_type and other != group]
        if others:
            own = np.abs(predicted - truth).sum()
            ranks.append((perturbation, np.mean([own < np.abs(predicted - other).sum() for other in others])))
    return {
        **_summary("mae", errors),
        **_summary("pearson_delta", correlations),
        **_summary("discrimination", ranks),
    }


def _summary(name: str, values: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Mean of values by perturbation id, and its standard error where there are several perturbations.

    Values of one perturbation are no independent draws: it is the error of a ratio of two means over perturbations, of
    the sum of values and of their number (W. G. Cochran, Sampling Techniques, 1977, section 6.3).
    """
    mean = float(np.mean([value for _, value in values])) if values else float("nan")
    apart: dict[int, float] = {}
    for perturbation, value in values:
        apart[perturbation] = apart.get(perturbation, 0.0) + value - mean
    number = len(apart)
    error = float("nan")
    if number > 1:
        error = float(np.sqrt(number / (number - 1) * np.square(list(apart.values())).sum()) / len(values))
    return {name: mean, f"{name}{_ERROR}": error}


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / norm) if norm > 0 else float("nan")


__all__ = ["score_models", "score_profiles", "scores_text"]
