"""The effects of a screen, pair by pair of context and perturbation: what baselines are fitted to."""

from dataclasses import dataclass

import numpy as np

from state_hf.training.screen_means import ContextId, ScreenMeans


@dataclass(frozen=True, eq=False)
class ScreenEffects:
    """Mean cells of the pairs of a context with controls and a perturbation, in rows.

    Attributes:
        contexts: The contexts, in the order of their numbers.
        controls: (contexts, features) their mean control cells.
        context: (rows,) number of each row's context.
        perturbation: (rows,) id of its perturbation.
        treated: (rows, features) its mean cell.
        sampling: (rows,) variance of `treated`, averaged over features, that its number of cells alone gives.
    """

    contexts: list[ContextId]
    controls: np.ndarray
    context: np.ndarray
    perturbation: np.ndarray
    treated: np.ndarray
    sampling: np.ndarray

    @classmethod
    def of(cls, means: ScreenMeans) -> "ScreenEffects":
        """Arrange the means of a part.

        Raises:
            ValueError: No perturbation has cells and controls.
        """
        contexts = list(means.controls)
        rows = [key for key in means.perturbed if key[0] in means.controls]
        if not rows:
            raise ValueError("The training cells have no perturbation with control cells of the same context.")
        return cls(
            contexts,
            np.stack([means.controls[context] for context in contexts]),
            np.array([contexts.index(context) for context, _ in rows]),
            np.array([perturbation for _, perturbation in rows]),
            np.stack([means.perturbed[key] for key in rows]),
            np.array([means.variances[key[0]].mean() / means.cells[key] for key in rows]),
        )

    @property
    def effects(self) -> np.ndarray:
        """(rows, features) treated mean minus control mean."""
        return self.treated - self.controls[self.context]

    @property
    def trained(self) -> np.ndarray:
        """(trained,) ids of the perturbations that have rows, in order."""
        return np.unique(self.perturbation)

    def over_contexts(self, values: np.ndarray) -> np.ndarray:
        """(trained, features) means of values (rows, features) by perturbation, every context counting the same."""
        return np.stack([values[self.perturbation == number].mean(axis=0) for number in self.trained])

    def by_perturbation(self, values: np.ndarray, num_perturbations: int) -> np.ndarray:
        """(perturbations, features): values (trained, features), and 0 where a perturbation has no rows."""
        table = np.zeros((num_perturbations, values.shape[1]))
        table[self.trained] = values
        return table


__all__ = ["ScreenEffects"]
