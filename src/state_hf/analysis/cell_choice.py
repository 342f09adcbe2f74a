"""Which cells of a file are looked at, in which groups, and which are of which state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers.utils import logging

from state_hf.configuration.wording import counted, listed
from state_hf.data.cells.anndata_files import read_labels

logger = logging.get_logger(__name__)

ALL_CELLS = "all"
"""The group of cells that are in no groups."""


@dataclass(frozen=True)
class CellChoice:
    """Cells of a file.

    Attributes:
        positions: (cells,) of the chosen cells in the file, ascending.
        groups: (cells,) the group of each.
        states: The positions of the cells of each state, among them those that are not chosen.
    """

    positions: np.ndarray
    groups: np.ndarray
    states: dict[str, np.ndarray] = field(default_factory=dict)


def choose_cells(
    data: str | Path,
    num_cells: int,
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    max_cells: int | None = None,
    group_key: str | None = None,
    state_key: str | None = None,
    start: str | None = None,
    others: Sequence[str] = (),
    seed: int = 0,
) -> CellChoice:
    """Choose cells by their columns of obs.

    Args:
        data: The file.
        num_cells: How many cells it has.
        where: Column -> the values that a chosen cell may have.
        max_cells: So many at most, drawn.
        group_key: Column with the groups; cells without one are left out, with a warning.
        state_key: Column with the states.
        start: The state of the chosen cells.
        others: Further states.
        seed: Of the draw.

    Raises:
        ValueError: There is no such column or value, or no cell that has all of them.
    """
    chosen = np.ones(num_cells, bool)
    for key, values in (where or {}).items():
        labels = read_labels(data, key)
        wanted = [values] if isinstance(values, str) else list(values)
        for value in wanted:
            _check_label(value, labels, key, data)
        chosen &= np.isin(labels.astype(str), wanted)
    states = {}
    if state_key is not None:
        labels = read_labels(data, state_key)
        for state in (str(start), *others):
            _check_label(state, labels, state_key, data)
            states[state] = np.flatnonzero(chosen & (labels == state))
            if not len(states[state]):
                raise ValueError(f"None of the chosen cells of {data} has obs[{state_key!r}] {state!r}.")
        chosen &= labels == start
    groups = np.full(num_cells, ALL_CELLS, dtype=object)
    if group_key is not None:
        groups = read_labels(data, group_key)
        without = chosen & (groups == "")
        if without.any():
            logger.warning(f"{counted(int(without.sum()), 'cell')} without obs[{group_key!r}] are left out")
        chosen &= ~without
    positions = np.flatnonzero(chosen)
    if not len(positions):
        raise ValueError(f"No cell of {data} is chosen by where, start and group_key together.")
    if max_cells is not None:
        if max_cells < 1:
            raise ValueError(f"max_cells must be a whole number from 1 on, but is {max_cells}")
        positions = np.sort(np.random.default_rng(seed).permutation(positions)[:max_cells])
    return CellChoice(positions, groups[positions], states)


def _check_label(value: str, labels: np.ndarray, key: str, data: str | Path) -> None:
    if value not in labels:
        known = sorted({str(label) for label in labels.tolist() if label})
        raise ValueError(f"No cell of {data} has obs[{key!r}] {value!r}: there are {listed(known)}.")


__all__ = ["ALL_CELLS", "CellChoice", "choose_cells"]
