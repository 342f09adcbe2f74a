"""Scores a model in training by a profile of the challenge metrics, on a sample of the validation cells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch.utils.data import default_collate

from state_hf.configuration.advice import Advised
from state_hf.data.screens.perturbation_dataset import PerturbationDataset
from state_hf.metrics.baseline_screens import constant_screen, mean_profile
from state_hf.metrics.evaluation import evaluate_summaries
from state_hf.metrics.profiles import load_profile
from state_hf.metrics.scoring import score_table
from state_hf.metrics.screen import ScreenBuilder
from state_hf.metrics.summary import ScreenSummary, summarise
from state_hf.metrics.target_genes import target_genes_of

# Predicted cells (sets, cells, genes) of a batch of sets.
Predict = Callable[[dict[str, torch.Tensor]], np.ndarray]
_CONTROL_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class _Context:
    """The sample of one cell type.

    Attributes:
        sets: Which set, and how many of its cells are compared.
        controls: (cells, genes) real control cells, which both sides hold.
        reference: Summary of the real cells.
        baseline: Metric -> value of the mean baseline.
    """

    sets: list[tuple[int, int]]
    controls: sparse.csr_matrix
    reference: ScreenSummary
    baseline: Mapping[str, float]


class ProfileEvaluation:
    """Evaluations of one sample of a dataset's cells, the same every time.

    Args:
        dataset: The validation sets.
        profile: Name of an evaluation profile that reads log-normalised expression, such as "vcc2025".
        cells: Most real cells that are compared: a quarter controls, dealt evenly to the cell types, the rest
            perturbed ones, dealt evenly to the (cell type, perturbation) groups.
        seed: Seed of the sample.

    Raises:
        ValueError: The profile needs counts, or the cells are too few for the groups.
    """

    def __init__(self, dataset: PerturbationDataset, profile: str, *, cells: int, seed: int) -> None:
        self.dataset, self.profile = dataset, load_profile(profile)
        if self.profile.settings["expression"]["space"] != "lognorm":
            raise ValueError(
                Advised(
                    f"the evaluation profile {profile!r} scores counts, and a model predicts log-normalised expression "
                    "while it trains",
                    "take another (evaluation_profile='vcc2025'), and score predictions by this one "
                    "(`state-hf predict --emit counts`)",
                )
            )
        self._role: Literal["target", "target_expression"] = (
            "target_expression" if dataset.expression_names is not None else "target"
        )
        names = dataset.expression_names or dataset.target_names
        self._genes = names or [f"feature_{number}" for number in range(dataset.output_size)]
        groups: dict[int, dict[int, list[int]]] = {}
        for group in dataset.sets.groups():
            if group.perturbation != dataset.screens.control_id:
                groups.setdefault(group.cell_type, {}).setdefault(group.perturbation, []).extend(group.sets)
        number = sum(len(sets) for sets in groups.values())
        per_group, per_context = int(cells * (1 - _CONTROL_SHARE)) // number, int(cells * _CONTROL_SHARE) // len(groups)
        if per_group < 2:
            raise ValueError(
                f"evaluation_cells={cells:,} are too few for {number:,} groups of validation cells: at least "
                f"{int(np.ceil(2 * number / (1 - _CONTROL_SHARE))):,} are needed"
            )
        rng = np.random.default_rng(seed)
        self._contexts = {
            cell_type: self._context(cell_type, sets, per_group, per_context, rng)
            for cell_type, sets in sorted(groups.items())
        }

    def _context(
        self, cell_type: int, sets: dict[int, list[int]], per_group: int, num_controls: int, rng: np.random.Generator
    ) -> _Context:
        chosen: list[tuple[int, int]] = []
        real = ScreenBuilder(self._genes, self.dataset.screens.control, compact=True)
        for perturbation, indices in sorted(sets.items()):
            left = per_group
            for index in rng.permutation(indices).tolist():
                item = self.dataset[index]
                values = item[self._role][item["target_mask"]][:left].numpy()
                real.add(sparse.csr_matrix(values), self._labels(perturbation, len(values)))
                chosen.append((index, left))
                left -= len(values)
                if left == 0:
                    break
        controls = self.dataset.control_cells(cell_type, num_controls, role=self._role, rng=rng)
        real.add(controls, self._labels(self.dataset.screens.control_id, controls.shape[0]))
        screen = real.build()
        summary, settings = summarise(screen, self.profile), self.profile.settings
        mean = mean_profile(summary, include_control=settings["score"]["baseline_includes_control"])
        baseline = summarise(constant_screen(screen, mean, settings["expression"]), self.profile)
        return _Context(chosen, controls, summary, self._values(baseline, summary))

    def _labels(self, perturbation: int, cells: int) -> list[str]:
        return [self.dataset.screens.perturbations[perturbation]] * cells

    def _values(self, prediction: ScreenSummary, reference: ScreenSummary) -> dict[str, float]:
        control = self.dataset.screens.control
        targets = target_genes_of(reference.perturbations, self._genes, control=control)
        result = evaluate_summaries(
            prediction, reference, self.profile, control=control, target_genes=targets, on_error="nan"
        )
        return {str(name): float(value) for name, value in result.aggregate["mean"].items()}

    def __call__(self, predict: Predict, *, batch_size: int = 8) -> dict[str, float]:
        """Score a model.

        Args:
            predict: Predicts the cells of sets.
            batch_size: Sets that are predicted together.

        Returns:
            `<profile>_<metric>`, and `<profile>_overall_score`, which is 0 for the mean baseline and 1 at best; means
            over cell types. A metric without a value is NaN.
        """
        rows = [self._evaluate(context, predict, batch_size) for context in self._contexts.values()]
        means = pd.DataFrame(rows).mean()
        return {f"{self.profile.name}_{name}": float(value) for name, value in means.items()}

    def _evaluate(self, context: _Context, predict: Predict, batch_size: int) -> dict[str, float]:
        predicted = ScreenBuilder(self._genes, self.dataset.screens.control, compact=True)
        predicted.add(context.controls, self._labels(self.dataset.screens.control_id, context.controls.shape[0]))
        for start in range(0, len(context.sets), batch_size):
            chunk = context.sets[start : start + batch_size]
            sets = default_collate(self.dataset.__getitems__([index for index, _ in chunk]))
            for (_, kept), cells, mask, perturbation in zip(
                chunk, predict(sets), sets["cell_mask"].numpy(), sets["perturbation_ids"].tolist(), strict=True
            ):
                values = cells[mask][:kept]
                predicted.add(sparse.csr_matrix(values), self._labels(perturbation, len(values)))
        values = self._values(summarise(predicted.build(), self.profile), context.reference)
        scores = score_table(values, self.profile, baseline=context.baseline)
        return {**values, "overall_score": scores["score"].to_dict()["overall"]}


__all__ = ["Predict", "ProfileEvaluation"]
