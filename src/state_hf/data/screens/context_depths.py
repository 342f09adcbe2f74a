"""How deeply the contexts of a screen were sequenced: a difference in depth looks like an effect, or like a context.

Normalised values of shallow cells are not those of deep cells: more of their genes are zeros, and log1p of what is left
is larger. Nothing that a model learns takes that back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from state_hf.data.screens.perturbation_screens import PerturbationScreens
from state_hf.data.screens.split_definition import PARTS, Context
from state_hf.data.screens.splits import PerturbationSplit
from state_hf.tokenization.input_scale import look_at_values

FAR, CLEAR = 1.5, 1.25
"""Factors of median counts from which a context is far from those that train, and treated cells clearly apart from
the control cells beside them. Runs of one protocol differ by some tenths; the cells of one context are mostly of one
run."""

_GENES_PER_COUNTS = 0.55
"""Genes detected grow as this power of the counts: 1.5 to it is 1.25. Thinned to two thirds, ten public data sets (300
to 20,000 genes, 60 to 30,000 counts a cell) lost a factor of 1.2 to 1.36 of their detected genes."""

FAR_IN_GENES = FAR**_GENES_PER_COUNTS
"""The factor of detected genes that `FAR` is of counts."""

_STANDARD_ERRORS = 3.0
_MOST_CELLS, _FEWEST_CELLS, _ALL_CELLS = 512, 10, 50_000
_SCALE_CELLS = 64
_COUNTS_SLOT = "layers/counts"

Measure = Literal["counts", "genes detected"]


@dataclass(frozen=True)
class Depth:
    """The depth of some cells.

    Attributes:
        median: Median over the cells, in counts or in genes detected.
        error: Standard error of its logarithm.
    """

    median: float
    error: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Depth | None":
        """The depth of cells (cells,); None for too few of them, or where most have nothing."""
        if len(values) < _FEWEST_CELLS or np.median(values) <= 0:
            return None
        quarter, three_quarters = np.percentile(np.log(np.maximum(values, 1.0)), [25, 75])
        # Of a normal distribution: the deviation from the quartiles, and the median's error from the deviation.
        error = 1.2533 * (three_quarters - quarter) / 1.349 / np.sqrt(len(values))
        return cls(float(np.median(values)), float(error))

    def differs(self, other: "Depth", factor: float) -> bool:
        """Whether the medians differ by more than a factor, and by more than three standard errors."""
        distance = abs(np.log(self.median / other.median))
        return bool(distance > np.log(factor) and distance > _STANDARD_ERRORS * np.hypot(self.error, other.error))


def depth_notes(split: PerturbationSplit, slot: str) -> list[str]:
    """A sentence for each context whose depth is far from training's, or differs between its control and treated cells.

    Depth is the median of counts (those of `slot`, or of `layers/counts` where every file has it), else of the genes
    that a cell of `slot` has values of, over some hundred cells spread over each context.

    Args:
        split: The cells and their parts.
        slot: Where their expression is, as counts or log1p values.
    """
    slot, measure = _measured(split.screens, slot)
    power = 1.0 if measure == "counts" else _GENES_PER_COUNTS
    depths = _depths(split, slot, measure)
    training = _training_contexts(split)
    bounds = [depth for context in training if (depth := depths[context][0]) is not None]
    notes = []
    for context, (control, treated) in depths.items():
        if control is None:
            continue
        found = []
        if context not in training and bounds:
            nearest = min(bounds, key=lambda depth: abs(np.log(depth.median / control.median)))
            if not _is_within(control, bounds) and control.differs(nearest, FAR**power):
                found.append(
                    f"its control cells have {control.median:,.0f} {measure} each, and those of the nearest context "
                    f"that trains {nearest.median:,.0f} (x {control.median / nearest.median:.2f})"
                )
        if treated is not None and treated.differs(control, CLEAR**power):
            found.append(
                f"its treated cells have {treated.median:,.0f} {measure} each, and its control cells "
                f"{control.median:,.0f} (x {treated.median / control.median:.2f})"
            )
        if found:
            name = context[1] if len(split.screens.datasets) == 1 else ".".join(context)
            notes.append(
                f"depth of {name!r}: {'; '.join(found)} (medians). What looks like an effect may be depth: thin the "
                "counts of the deeper cells before they are normalised (`state-hf preprocess --reference-depth N`), or "
                "read scores of this context with that in mind"
            )
    return notes


def detected_genes(split: PerturbationSplit, slot: str) -> tuple[float, float] | None:
    """Least and greatest median number of genes that the control cells of a context that trains have values of.

    Args:
        split: The cells and their parts.
        slot: Where their expression is.

    Returns:
        None where no such context has control cells enough to tell.
    """
    depths = _depths(split, slot, "genes detected")
    medians = [depth.median for context in _training_contexts(split) if (depth := depths[context][0]) is not None]
    return (min(medians), max(medians)) if medians else None


def _training_contexts(split: PerturbationSplit) -> set[Context]:
    audit = split.audit()
    trains = audit[(audit["part"] == "train") & (audit["perturbed_cells"] > 0)]
    return set(zip(trains["dataset"], trains["cell_type"], strict=True))


def _is_within(depth: Depth, bounds: list[Depth]) -> bool:
    medians = [other.median for other in bounds]
    return min(medians) <= depth.median <= max(medians)


def _measured(screens: PerturbationScreens, slot: str) -> tuple[str, Measure]:
    """Where depth is read, and in what."""
    for choice in (_COUNTS_SLOT, slot):
        if all(choice in screen.cells.slots() for screen in screens.screens):
            samples = [screen.cells.matrix(choice).sample(_SCALE_CELLS) for screen in screens.screens]
            if look_at_values(samples).scale == "counts":
                return choice, "counts"
    return slot, "genes detected"


def _depths(
    split: PerturbationSplit, slot: str, measure: Measure
) -> Mapping[Context, tuple[Depth | None, Depth | None]]:
    """Depth of the control and of the treated cells of every context that the split uses."""
    values: dict[Context, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    number = sum(len(np.unique(screen.cell_types)) for screen in split.screens.screens)
    most = max(_FEWEST_CELLS, min(_MOST_CELLS, _ALL_CELLS // number))
    for place, screen in enumerate(split.screens.screens):
        masks = [masks[place] for part in PARTS for masks in (split.target_masks(part), split.control_masks(part))]
        used = np.any(masks, axis=0)
        matrix = screen.cells.matrix(slot)
        for cell_type in np.unique(screen.cell_types[used]).tolist():
            context = (screen.dataset, split.screens.cell_types[cell_type])
            lists = values.setdefault(context, ([], []))
            inside = used & (screen.cell_types == cell_type)
            for found, rows in zip(lists, (inside & screen.is_control, inside & ~screen.is_control), strict=True):
                if rows.any():
                    cells = matrix.sample_of(most, np.flatnonzero(rows))
                    depth = cells.sum(axis=1).A1 if measure == "counts" else np.diff(cells.indptr)
                    found.append(np.asarray(depth, dtype=np.float64))
    return {
        context: (Depth.of(np.concatenate([[], *controls])), Depth.of(np.concatenate([[], *treated])))
        for context, (controls, treated) in values.items()
    }


__all__ = ["CLEAR", "FAR", "FAR_IN_GENES", "Depth", "depth_notes", "detected_genes"]
