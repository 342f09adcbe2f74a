"""The genes that the perturbations of a screen are named after, as columns of its file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_hf.configuration.perturbation_labels import Perturbation
from state_hf.data.screens.perturbation_screens import open_screens


@dataclass(frozen=True, eq=False)
class KnockdownTargets:
    """Every cell's perturbation, and the columns of the genes that it is named after.

    A combination has a target for each member. A label that is itself a gene is that gene.

    Attributes:
        codes: (cells,) index into `names`.
        names: Names of the perturbations.
        columns: (perturbations, targets) column of every target gene: -1 if it is no gene of the file, -2 where there
            are fewer targets.
        control: Index of the control.
    """

    codes: np.ndarray
    names: list[str]
    columns: np.ndarray
    control: int

    @classmethod
    def read(
        cls, source: str | Path, genes: np.ndarray, key: str, control: str | float, *, distinct_case: bool
    ) -> "KnockdownTargets":
        """Read the perturbations of a file.

        Args:
            source: The file.
            genes: (genes,) names of its genes, in the order of its columns.
            key, control, distinct_case: See `open_screens`.

        Raises:
            ValueError: See `open_screens`.
        """
        screens = open_screens(
            source, perturbation_key=key, control=control, cell_type_key=None, distinct_case=distinct_case
        )
        first = {gene: column for column, gene in reversed(list(enumerate(genes)))}
        targets = [
            # A gene may have a "+" in its name.
            (name,) if name in first else Perturbation.of(name, control=screens.control).members
            for name in screens.perturbations
        ]
        columns = np.full((len(targets), max(1, *map(len, targets))), -2)
        for row, names in zip(columns, targets, strict=True):
            row[: len(names)] = [first.get(name, -1) for name in names]
        columns[screens.control_id] = -2
        return cls(screens.screens[0].perturbations, screens.perturbations, columns, screens.control_id)

    def control_means(self, sums: np.ndarray, num_controls: int) -> np.ndarray:
        """(perturbations, targets) from the (genes,) sums over control cells, as `filter_knockdown` takes them."""
        means = sums[np.maximum(self.columns, 0)] / max(num_controls, 1)
        return np.where(self.columns == -2, np.inf, np.where(self.columns == -1, np.nan, means))


__all__ = ["KnockdownTargets"]
