"""The check of a slot when it is opened: whether its values are on the scale that a model reads, and on one scale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import anndata
import numpy as np

from state_hf.data.cell_rows import CellRows
from state_hf.data.normalisation import Normalisation, agreed_total, check_counted_genes, normalisation_of
from state_hf.data.perturbation_screens import PerturbationScreens
from state_hf.tokenization.input_scale import SCALE_SAMPLE, check_scale, look_at_values

Scale = Literal["counts", "log1p", "embedding"]


def check_slot(
    screens: PerturbationScreens, slot: str, scale: Scale, *, advice: str, only_controls: bool = False
) -> float | None:
    """Look at a sample of the cells of every screen, spread over it, before any of them is used.

    Args:
        screens: The screens.
        slot: "X", "raw/X", "layers/NAME" or "obsm/NAME".
        scale: What is read from it. An embedding has no scale; its values have to be finite.
        advice: What the user can do about values of another scale.
        only_controls: Whether no other cells are read.

    Returns:
        Counts that the cells of all screens were normalised to; None where that is not known, or not done.

    Raises:
        ValueError: Values are not finite or of another scale, or two screens are normalised to different totals; the
            message names file and slot, what was seen, and what to do.
    """
    found = []
    for screen in screens.screens:
        rows = CellRows(screen.source, slot)
        # Reads of values that are not finite are refused.
        cells = rows.sample(SCALE_SAMPLE, among=np.flatnonzero(screen.is_control) if only_controls else None)
        if scale == "embedding":
            continue
        seen = look_at_values(cells)
        check_scale(seen, scale, rows.place, advice)
        if scale == "log1p":
            found.append((screen.source, normalisation_of(rows, seen)))
    total = agreed_total([entry for _, entry in found])
    _check_genes(found)
    return total


def _check_genes(found: Sequence[tuple[Path | anndata.AnnData, Normalisation]]) -> None:
    """Where files record the genes that were counted to one total, these have to be nearly the same."""
    first_of: dict[str, Path | anndata.AnnData] = {}
    for source, entry in found:
        if entry.genes:
            first_of.setdefault(entry.genes, source)
    sources = list(first_of.values())
    for other in sources[1:]:
        check_counted_genes(CellRows(sources[0], "X"), CellRows(other, "X"))


__all__ = ["Scale", "check_slot"]
