"""Which cells make up each set: groups of perturbed cells, and the control cells they are predicted from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.data.screens.perturbation_screens import PerturbationScreens, ScreenLabels

logger = logging.get_logger(__name__)

ControlMatching = Literal["random", "batch"]
# Separates the random streams that one seed feeds.
_TARGET_STREAM, _CONTROL_STREAM = 0, 1


@dataclass(frozen=True, eq=False)
class CellSet:
    """The cells of one set, as row numbers of one screen.

    Attributes:
        screen: Position of the screen among the screens.
        targets: (targets,) row numbers of the cells of the group.
        controls: (controls,) row numbers of control cells, none twice.
        perturbation: Id of the group's perturbation.
        cell_type: Id of its cell type.
        batches: (targets,) ids of the targets' batches.
    """

    screen: int
    targets: np.ndarray
    controls: np.ndarray
    perturbation: int
    cell_type: int
    batches: np.ndarray


@dataclass(frozen=True, eq=False)
class SetGroup:
    """Sets of the cells of one group.

    Attributes:
        screen: Position of the screen among the screens.
        perturbation: Id of the group's perturbation.
        cell_type: Id of its cell type.
        sets: Numbers of its sets.
        controls: (controls,) row numbers of the control cells that its sets draw from.
    """

    screen: int
    perturbation: int
    cell_type: int
    sets: range
    controls: np.ndarray


def _groups(keys: Sequence[np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
    """Rows of equal keys, in the order of the keys."""
    if len(rows) == 0:
        return []
    order = np.lexsort([key[rows] for key in reversed(keys)])
    ordered = rows[order]
    changes = np.any([np.diff(key[ordered]) != 0 for key in keys], axis=0)
    return np.split(ordered, np.flatnonzero(changes) + 1)


class _ControlPools:
    """The control cells of one screen by cell type and, where matched so, batch."""

    def __init__(self, screen: ScreenLabels, rows: np.ndarray, matching: ControlMatching) -> None:
        self.screen = screen
        self.by_cell_type = {int(screen.cell_types[pool[0]]): pool for pool in _groups([screen.cell_types], rows)}
        self.by_batch: dict[tuple[int, int], np.ndarray] = {}
        if matching == "batch":
            for pool in _groups([screen.cell_types, screen.batches], rows):
                self.by_batch[int(screen.cell_types[pool[0]]), int(screen.batches[pool[0]])] = pool

    def pool(self, group: np.ndarray) -> tuple[np.ndarray | None, bool]:
        """The pool for a group's cells, and whether its batch had too few, so that all of its cell type serve.

        Control cells are predicted from other control cells, so a pool of one is too few for them.
        """
        cell_type, batch = int(self.screen.cell_types[group[0]]), int(self.screen.batches[group[0]])
        needed = 2 if self.screen.is_control[group[0]] else 1
        matched = self.by_batch.get((cell_type, batch))
        if matched is not None and len(matched) >= needed:
            return matched, False
        whole = self.by_cell_type.get(cell_type)
        return (whole if whole is not None and len(whole) >= needed else None), bool(self.by_batch)


class PerturbationSets:
    """Cells of screens dealt into sets: what set `index` holds in an epoch is a function of (seed, epoch, index) alone.

    A group is all target cells of one file, cell type and perturbation and, with `control_matching="batch"`, batch. In
    every epoch each group is dealt anew into sets of nearly equal size, so that every cell comes once.

    Args:
        screens: The labels.
        targets: For every screen a mask (cells,) of the cells to be predicted.
        controls: For every screen a mask (cells,) of the cells that sets may draw their controls from; those among them
            that are no control cells are ignored.
        set_size: Most cells of a set, targets and controls each.
        control_matching: "random" draws controls from the same file and cell type; "batch" from the same file, cell
            type and batch, or from the cell type where the batch has no controls.
        control_sets: Number of sets that every set of targets gives, each with its own draw of controls.
        map_controls: Whether control cells among the targets are predicted too, from other control cells.
        short_sets: "keep" deals all cells; "drop" deals full sets only, and leaves other cells out in every epoch.
        max_cells_per_group: Cells of a group that are dealt in an epoch, drawn anew each time; `None` for all.
        without_controls: "error", or "drop" to leave out groups whose cell type has no controls, which is logged.
        seed: Seed of all draws.

    Raises:
        ValueError: A cell type has no control cells, or no set is left.
    """

    def __init__(
        self,
        screens: PerturbationScreens,
        *,
        targets: Sequence[np.ndarray],
        controls: Sequence[np.ndarray],
        set_size: int,
        control_matching: ControlMatching = "random",
        control_sets: int = 1,
        map_controls: bool = True,
        short_sets: Literal["keep", "drop"] = "keep",
        max_cells_per_group: int | None = None,
        without_controls: Literal["error", "drop"] = "error",
        seed: int = 0,
    ) -> None:
        _check_choices(set_size, control_matching, control_sets, short_sets, max_cells_per_group, without_controls)
        self.screens, self.set_size, self.control_sets, self.seed = screens, set_size, control_sets, seed
        self._groups: list[tuple[int, np.ndarray, np.ndarray]] = []
        counts, dealt = [], []
        too_few = fallen_back = 0
        for number, screen in enumerate(screens.screens):
            pools = _ControlPools(screen, np.flatnonzero(controls[number] & screen.is_control), control_matching)
            wanted = targets[number] if map_controls else targets[number] & ~screen.is_control
            keys = [screen.cell_types, screen.perturbations, *([screen.batches] if control_matching == "batch" else [])]
            for group in _groups(keys, np.flatnonzero(wanted)):
                is_control = bool(screen.is_control[group[0]])
                pool, fell_back = pools.pool(group)
                if pool is None:
                    if without_controls == "error" and not is_control:
                        raise ValueError(_no_controls(screens, screen, group))
                    too_few += 1
                    continue
                # Half of a small pool of controls at most, so that the other half is there to predict them from.
                cap = min(set_size, len(pool) // 2) if is_control else set_size
                cells = min(len(group), max_cells_per_group or len(group))
                sets = -(-cells // cap) if short_sets == "keep" else cells // set_size * (cap == set_size)
                if sets:
                    fallen_back += fell_back
                    self._groups.append((number, group, pool))
                    counts.append(sets)
                    dealt.append(cells if short_sets == "keep" else sets * set_size)
        if not counts:
            raise ValueError("no set can be made of these cells: too few cells or controls, or nothing selected")
        if too_few:
            logger.warning(f"{too_few} groups of cells are left out, as there are no (other) control cells for them")
        if fallen_back:
            logger.info(f"{fallen_back} groups of cells draw controls of their cell type, as their batch has none")
        self._counts, self._dealt = np.array(counts), np.array(dealt)
        self._ends = np.cumsum(self._counts) * control_sets

    def __len__(self) -> int:
        return int(self._ends[-1])

    def groups(self) -> list[SetGroup]:
        """All groups, in the order of their sets."""
        starts = [0, *self._ends.tolist()]
        found = []
        for (number, rows, pool), start, stop in zip(self._groups, starts, starts[1:], strict=False):
            screen = self.screens.screens[number]
            perturbation, cell_type = int(screen.perturbations[rows[0]]), int(screen.cell_types[rows[0]])
            found.append(SetGroup(number, perturbation, cell_type, range(start, stop), pool))
        return found

    def _stream(self, kind: int, epoch: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, kind, number])

    def draw(self, index: int, epoch: int) -> CellSet:
        """The cells of set `index`, 0 to `len(self) - 1`, in an epoch."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no set {index}: there are {len(self)}")
        group_number = int(np.searchsorted(self._ends, index, side="right"))
        number, group, pool = self._groups[group_number]
        sets, dealt = int(self._counts[group_number]), int(self._dealt[group_number])
        inside = (index - int(self._ends[group_number]) + sets * self.control_sets) // self.control_sets
        order = self._stream(_TARGET_STREAM, epoch, group_number).permutation(len(group))
        targets = group[order[inside * dealt // sets : (inside + 1) * dealt // sets]]
        screen = self.screens.screens[number]
        if screen.is_control[group[0]]:
            pool = pool[~np.isin(pool, targets)]
        rng = self._stream(_CONTROL_STREAM, epoch, index)
        controls = rng.choice(pool, min(self.set_size, len(pool)), replace=False)
        first = targets[0]
        return CellSet(
            screen=number,
            targets=targets,
            controls=controls,
            perturbation=int(screen.perturbations[first]),
            cell_type=int(screen.cell_types[first]),
            batches=screen.batches[targets],
        )


def _no_controls(screens: PerturbationScreens, screen: ScreenLabels, group: np.ndarray) -> str:
    cell_type = screens.cell_types[screen.cell_types[group[0]]]
    cells = int(((screen.cell_types == screen.cell_types[group[0]]) & ~screen.is_control).sum())
    return Advised(
        f"{screen.name} has no control cells ({screens.control!r}) of the cell type {cell_type!r} to predict its "
        f"{cells:,} perturbed cells from",
        "add controls",
        "take these perturbed cells out of the file",
        "leave such cells out (without_controls='drop')",
    )


def _check_choices(
    set_size: int, control_matching: str, control_sets: int, short_sets: str, max_cells: int | None, without: str
) -> None:
    for name, value in (("set_size", set_size), ("control_sets", control_sets), ("max_cells_per_group", max_cells)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, and is {value}")
    choices = {
        "control_matching": (control_matching, ("random", "batch")),
        "short_sets": (short_sets, ("keep", "drop")),
        "without_controls": (without, ("error", "drop")),
    }
    for name, (choice, allowed) in choices.items():
        if choice not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, not {choice!r}")
