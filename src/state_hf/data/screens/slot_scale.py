"""The check of a slot when it is opened: whether its values are on the scale that a model reads, and on one scale."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from state_hf.configuration.advice import Advised
from state_hf.data.cells.cells import Cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.screens.normalisation import Normalisation, agreed_total, check_counted_genes, normalisation_of
from state_hf.data.screens.perturbation_screens import PerturbationScreens
from state_hf.tokenization.input_scale import SCALE_SAMPLE, check_scale, look_at_values

Scale = Literal["counts", "log1p", "embedding"]


def check_slot(
    screens: PerturbationScreens, slot: str, scale: Scale, *ways: str, only_controls: bool = False
) -> float | None:
    """Look at a sample of the cells of every screen, spread over it, before any of them is used.

    Args:
        screens: The screens.
        slot: "X", "raw/X", "layers/NAME" or "obsm/NAME".
        scale: What is read from it. An embedding has no scale; its values have to be finite.
        ways: What the user can do about values of another scale, see `Advised`.
        only_controls: Whether no other cells are read.

    Returns:
        Counts that the cells of all screens were normalised to; None where that is not known, or not done.

    Raises:
        ValueError: Values are not finite or of another scale, or two screens are normalised to different totals; the
            message names file and slot, what was seen, and what to do.
    """
    found = []
    for screen in screens.screens:
        matrix = screen.cells.matrix(slot)
        chosen = screen.is_control if only_controls else np.ones(screen.num_cells, dtype=bool)
        # Values that are not finite are refused as they are read.
        cells = matrix.sample_of(SCALE_SAMPLE, np.flatnonzero(chosen))
        if scale == "embedding":
            continue
        seen = look_at_values(cells)
        check_scale(seen, scale, matrix.place, *ways)
        if scale == "log1p":
            _check_base(matrix, *ways)
            found.append((screen.cells, normalisation_of(matrix, seen)))
    total = agreed_total([entry for _, entry in found])
    _check_genes(found)
    return total


def _check_base(matrix: CellMatrix, *ways: str) -> None:
    """scanpy records the base of a logarithm that is not the natural one."""
    record = matrix.uns.get("log1p") if matrix.slot == "X" else None
    base = record.get("base") if isinstance(record, Mapping) else None
    if isinstance(base, int | float | np.number) and not np.isclose(float(base), np.e):
        raise ValueError(
            Advised(
                f"{matrix.place} was logged to the base {float(base):g} (uns['log1p']), and natural logs are read",
                *ways,
            )
        )


def _check_genes(found: Sequence[tuple[Cells, Normalisation]]) -> None:
    """Where files record the genes that were counted to one total, these have to be nearly the same."""
    first_of: dict[str, Cells] = {}
    for cells, entry in found:
        if entry.genes:
            first_of.setdefault(entry.genes, cells)
    files = list(first_of.values())
    for other in files[1:]:
        check_counted_genes(files[0].matrix("X"), other.matrix("X"))


__all__ = ["Scale", "check_slot"]
