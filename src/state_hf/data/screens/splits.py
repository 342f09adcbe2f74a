"""Which cells train, validate and test a model: a definition applied to screens, checked for leaks, and audited."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from state_hf.configuration.advice import Advised
from state_hf.configuration.near_names import nearest
from state_hf.configuration.wording import listed
from state_hf.data.screens.perturbation_screens import PerturbationScreens, ScreenLabels
from state_hf.data.screens.split_definition import (
    PARTS,
    Context,
    SplitDefinition,
    SplitPart,
    contexts_of,
    dataset_places,
)
from state_hf.data.screens.split_parts import AUDIT_FILE, SPLIT_FILE
from state_hf.data.whole_files import written_whole

SplitControls = Literal["shared", "train-only", "held-out"]

# Two files that name so many cells alike, with the same labels, hold the same cells.
_COPIED_SHARE = 0.5
_COUNTS = ("perturbations", "perturbed_cells", "control_cells", "control_pool")


def _check_names(definition: SplitDefinition, screens: PerturbationScreens) -> None:
    contexts = contexts_of(screens)
    for dataset in definition.used_datasets:
        if dataset not in screens.datasets:
            raise ValueError(f"the split names the dataset {dataset!r}; {nearest(dataset, screens.datasets)}")
    for dataset, cell_type in [*definition.zeroshot, *definition.fewshot, *definition.exclude]:
        if (dataset, cell_type) not in contexts:
            known = [name for other, name in contexts if other == dataset]
            raise ValueError(
                f"the split names the cell type {cell_type!r}, which the dataset {dataset!r} lacks; "
                f"{nearest(cell_type, known)}"
            )
    named = [
        (context, name) for context, lists in definition.fewshot.items() for part in lists.values() for name in part
    ]
    named += [(context, name) for context, names in definition.exclude.items() for name in names]
    for context, name in named:
        ids = screens.ids_of(name)
        if screens.control_id in ids:
            raise ValueError(f"the split lists the control {name!r} as a perturbation of {'.'.join(context)}")
        if not contexts[context].intersection(screens.perturbations[number] for number in ids):
            raise ValueError(
                f"the split names the perturbation {name!r}, of which {'.'.join(context)} has no cells; "
                f"{nearest(name, sorted(contexts[context]))}"
            )
    for context in definition.zeroshot:
        if context in definition.fewshot:
            raise ValueError(f"{'.'.join(context)} is both in zeroshot and in fewshot; it can be one of them")


class PerturbationSplit:
    """A definition applied to screens: masks of cells for training, validation and test.

    What becomes of the control cells is chosen, and shows in the audit:

    - "shared": every control cell belongs to every part that its context has cells in, and controls of held-out
      contexts train too (as control cells predicted from other control cells). The field's habit, and cell-load's.
    - "train-only": control cells belong to training alone; validation and test draw from them, but predict none.
    - "held-out": every control cell belongs to one part. Those of a zero-shot context go with its perturbed cells;
      those of a few-shot context are dealt out, with the seed, in proportion to the perturbed cells of its parts.

    A perturbation goes to a part however the definition spells it: "B+A" holds "A+B" out, and "A" holds "A+ctrl" out.

    Args:
        screens: The labels.
        definition: What goes where, from `read_split_toml`, `zeroshot_split` or `random_split`, or made by hand.
        controls: "shared", "train-only" or "held-out".
        seed: Seed of dealing out controls.

    Raises:
        ValueError: The definition names what the screens lack (with near matches), or it leaks: copies of the same
            cells in training and in a held-out part.
    """

    def __init__(
        self,
        screens: PerturbationScreens,
        definition: SplitDefinition,
        *,
        controls: SplitControls = "shared",
        seed: int = 0,
    ) -> None:
        if controls not in get_args(SplitControls):
            raise ValueError(f"controls is one of {', '.join(get_args(SplitControls))}, not {controls!r}")
        _check_names(definition, screens)
        self.screens, self.definition, self.controls, self.seed = screens, definition, controls, seed
        # For every screen (parts, cells): the cells that a part predicts, and the controls that it may draw.
        self._targets = [np.zeros((len(PARTS), screen.num_cells), dtype=bool) for screen in screens.screens]
        self._controls = [np.zeros((len(PARTS), screen.num_cells), dtype=bool) for screen in screens.screens]
        for number, screen in enumerate(screens.screens):
            for cell_type in np.unique(screen.cell_types).tolist():
                self._assign(number, screen, cell_type)
        self._refuse_copied_cells()

    def _perturbed(self, screen: ScreenLabels, cell_type: int) -> np.ndarray:
        """(parts, cells): the perturbed cells of one context by part."""
        context = (screen.dataset, self.screens.cell_types[cell_type])
        cells = (screen.cell_types == cell_type) & ~screen.is_control

        def of(names: Sequence[str]) -> np.ndarray:
            return np.isin(screen.perturbations, [number for name in names for number in self.screens.ids_of(name)])

        cells &= ~of(self.definition.exclude.get(context, ()))
        parts = np.zeros((len(PARTS), len(cells)), dtype=bool)
        if context in self.definition.zeroshot:
            parts[PARTS.index(self.definition.zeroshot[context])] = cells
        elif context in self.definition.fewshot:
            lists = self.definition.fewshot[context]
            for part in ("val", "test"):
                parts[PARTS.index(part)] = cells & of(lists.get(part, ()))
            parts[0] = cells & ~parts.any(axis=0)
        elif screen.dataset in self.definition.training:
            parts[0] = cells
        return parts

    def _assign(self, number: int, screen: ScreenLabels, cell_type: int) -> None:
        parts = self._perturbed(screen, cell_type)
        context = (screen.dataset, self.screens.cell_types[cell_type])
        used = screen.dataset in self.definition.training
        if not (used or context in self.definition.zeroshot or context in self.definition.fewshot):
            return
        present = parts.any(axis=1)
        drawn = np.zeros_like(parts)
        control = (screen.cell_types == cell_type) & screen.is_control
        if self.controls == "held-out":
            for part, rows in self._dealt_controls(np.flatnonzero(control), parts.sum(axis=1), number, cell_type):
                drawn[part, rows] = True
            predicted = drawn
        else:
            drawn[present] = control
            drawn[0] = control
            predicted = drawn.copy()
            if self.controls == "train-only":
                predicted[1:] = False
        self._targets[number] |= parts | predicted
        self._controls[number] |= drawn

    def _dealt_controls(
        self, rows: np.ndarray, cells: np.ndarray, number: int, cell_type: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Deals control cells to parts in proportion to `cells`, at least one to a part that has cells."""
        present = np.flatnonzero(cells)
        if len(present) == 0:  # a context of controls only: there is nothing to hold out
            yield 0, rows
            return
        if len(rows) < len(present):
            raise ValueError(
                Advised(
                    f"{self.screens.screens[number].name} has {len(rows)} control cells of the cell type "
                    f"{self.screens.cell_types[cell_type]!r} for {len(present)} parts",
                    "let the parts share them (controls='shared')",
                    "train with shared ones (split_controls='shared')",
                )
            )
        order = np.random.default_rng([self.seed, number, cell_type]).permutation(rows)
        ends = np.round(np.cumsum(cells[present]) / cells.sum() * len(rows)).astype(int)
        for place in range(len(present)):  # at least one each, from both ends
            ends[place] = min(max(ends[place], place + 1), len(rows) - (len(present) - 1 - place))
        for part, dealt in zip(present.tolist(), np.split(order, ends[:-1]), strict=True):
            yield part, np.sort(dealt)

    def target_masks(self, part: SplitPart) -> list[np.ndarray]:
        """For every screen (cells,) bool: the cells that a part predicts, perturbed and control."""
        return [masks[PARTS.index(part)] for masks in self._targets]

    def control_masks(self, part: SplitPart) -> list[np.ndarray]:
        """For every screen (cells,) bool: the control cells that a part draws from."""
        return [masks[PARTS.index(part)] for masks in self._controls]

    def _refuse_copied_cells(self) -> None:
        """One file may hold a copy of another's cells, as where a subset was written out beside the whole."""
        if len(self.screens.screens) < 2:
            return
        trained: dict[Any, int] = {}
        keys = [_cell_keys(self.screens, screen) for screen in self.screens.screens]
        for number, masks in enumerate(self._targets):
            chosen = masks[0] & ~self.screens.screens[number].is_control
            trained.update(dict.fromkeys(keys[number][chosen].tolist(), number))
        for number, masks in enumerate(self._targets):
            screen = self.screens.screens[number]
            held = keys[number][masks[1:].any(axis=0) & ~screen.is_control].tolist()
            copies = [trained[key] for key in held if trained.get(key, number) != number]
            if len(copies) > _COPIED_SHARE * len(held):
                other = self.screens.screens[copies[0]].name
                raise ValueError(
                    f"leak: {len(copies):,} of the {len(held):,} held-out cells of {screen.name} have the name, cell "
                    f"type and perturbation of a training cell of {other}: the files seem to "
                    "hold the same cells. Drop one of them, or give the cells names of their own"
                )

    def audit(self) -> pd.DataFrame:
        """Cells and perturbations by context and part: one row each for what is not empty.

        Columns: `dataset`, `cell_type`, `part` ("train", "val", "test", or "unused"), `perturbations` (number),
        `perturbed_cells`, `control_cells` (that the part predicts, from other controls), `control_pool` (that it draws
        from).
        """
        return self._audit.copy()

    @cached_property
    def _audit(self) -> pd.DataFrame:
        rows: dict[tuple[str, str, str], list[Any]] = {}
        for screen, targets, controls in zip(self.screens.screens, self._targets, self._controls, strict=True):
            unused = ~(targets.any(axis=0) | controls.any(axis=0))
            masks = [*zip(PARTS, targets, controls, strict=True), ("unused", unused, np.zeros_like(unused))]
            for part, target, pool in masks:
                for cell_type in np.unique(screen.cell_types[target | pool]).tolist():
                    inside = screen.cell_types == cell_type
                    perturbed = target & inside & ~screen.is_control
                    key = (screen.dataset, self.screens.cell_types[cell_type], part)
                    row = rows.setdefault(key, [set(), 0, 0, 0])
                    row[0] |= set(screen.perturbations[perturbed].tolist())
                    row[1] += int(perturbed.sum())
                    row[2] += int((target & inside & screen.is_control).sum())
                    row[3] += int((pool & inside).sum())
        order = {part: place for place, part in enumerate((*PARTS, "unused"))}
        keys = sorted(rows, key=lambda key: (self.screens.datasets.index(key[0]), key[1], order[key[2]]))
        table = [(*key, len(rows[key][0]), *rows[key][1:]) for key in keys]
        columns = ["dataset", "cell_type", "part", "perturbations", "perturbed_cells", "control_cells", "control_pool"]
        return pd.DataFrame(table, columns=columns)

    def notes(self) -> list[str]:
        """What the table does not show: labels taken as one, contexts held out here that train elsewhere, overlaps."""
        notes = list(self.screens.notes)
        training = {
            self.screens.cell_types[cell_type]: screen.dataset
            for screen, masks in zip(self.screens.screens, self._targets, strict=True)
            for cell_type in np.unique(screen.cell_types[masks[0] & ~screen.is_control]).tolist()
        }
        for dataset, cell_type in self.definition.zeroshot:
            if cell_type in training:
                notes.append(f"{dataset}.{cell_type} is held out, but {training[cell_type]}.{cell_type} trains")
        both = sum(int((masks[1] & masks[2] & ~screen.is_control).sum())
                   for screen, masks in zip(self.screens.screens, self._targets, strict=True))  # fmt: skip
        if both:
            notes.append(f"{both:,} perturbed cells are in both val and test")
        zeroshot = {context for context, part in self.definition.zeroshot.items() if part != "train"}
        if zeroshot and self.controls != "held-out":
            notes.append(f"control cells of {len(zeroshot)} zero-shot contexts train (controls='{self.controls}')")
        return notes

    def why_nothing_trains(self) -> Advised:
        """Where the perturbed cells are, for a split that leaves none to train on, and how to train on some.

        Control cells alone would train a model of no perturbation at all.
        """
        table = self._audit[self._audit["perturbed_cells"] > 0]
        words = {"val": "to validate on", "test": "to test on", "unused": "in no part"}
        found, whole = [], {}
        for part, rows in table.groupby("part", sort=False):
            contexts = list(zip(rows["dataset"], rows["cell_type"], strict=True))
            names = list(dict.fromkeys(cell_type for _, cell_type in contexts))
            number = rows["perturbed_cells"].sum()
            found.append(f"those of {listed(names, limit=5)} ({number:,}) are {words[str(part)]}")
            if all(context in self.definition.zeroshot for context in contexts):
                whole[part] = listed(names, limit=5)
        if not found:
            return Advised("no perturbed cells are left to train on: the screens have control cells alone")
        way = "hold out fewer perturbations"
        if "val" in whole:
            way = (
                f"validate on some perturbations of {whole['val']} only, so that the others train (val_share=0.2, or "
                "[fewshot] in the split's TOML)"
            )
        elif "test" in whole:
            way = (
                f"test on some perturbations of {whole['test']} only, so that the others train (test_share=0.2, or "
                "[fewshot] in the split's TOML)"
            )
        elif set(table["part"]) == {"unused"}:
            way = "name their datasets in [training] of the split's TOML"
        return Advised(f"no perturbed cells are left to train on: {', and '.join(found)}", way)

    def __str__(self) -> str:
        table = self.audit().to_string(index=False, formatters=dict.fromkeys(_COUNTS, "{:,}".format))
        return "\n".join([f"split with controls='{self.controls}'", table, *(f"note: {note}" for note in self.notes())])

    def save(self, folder: str | Path) -> None:
        """Write `split.json`, which `load` reads, and the audit as `split.csv`, into a folder that exists."""
        definition = self.definition
        content = {
            "controls": self.controls,
            "seed": self.seed,
            "training": list(definition.training),
            "zeroshot": _by_dataset(definition.zeroshot),
            "fewshot": _by_dataset(definition.fewshot),
            "exclude": _by_dataset(definition.exclude),
        }
        with written_whole(Path(folder) / AUDIT_FILE) as temporary:
            self.audit().to_csv(temporary, index=False)
        with written_whole(Path(folder) / SPLIT_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, screens: PerturbationScreens) -> "PerturbationSplit":
        """Apply a saved split to the screens that it was made for.

        Args:
            folder: Where `save` wrote, as a model's folder.
            screens: The labels; datasets must have the names that they had.

        Raises:
            FileNotFoundError: There is no split in the folder.
            ValueError: The screens have other cells than those that the split was made for.
        """
        path = Path(folder) / SPLIT_FILE
        if not path.exists():
            raise FileNotFoundError(f"there is no split in {folder} (no {SPLIT_FILE})")
        content = json.loads(path.read_text(encoding="utf-8"))
        definition = SplitDefinition(
            dataset_places(screens),
            tuple(content["training"]),
            zeroshot=_by_context(content["zeroshot"]),
            fewshot=_by_context(content["fewshot"]),
            exclude=_by_context(content["exclude"]),
        )
        split = cls(screens, definition, controls=content["controls"], seed=content["seed"])
        saved = pd.read_csv(Path(folder) / AUDIT_FILE, dtype={"dataset": str, "cell_type": str}, keep_default_na=False)
        if not saved.equals(split.audit()):
            raise ValueError(
                f"the screens are not those that the split in {folder} was made for: their cells by part are\n"
                f"{split.audit().to_string(index=False)}\nand were\n{saved.to_string(index=False)}"
            )
        return split


def _by_dataset(contexts: Mapping[Context, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for (dataset, cell_type), value in contexts.items():
        nested.setdefault(dataset, {})[cell_type] = value
    return nested


def _by_context(nested: Mapping[str, Mapping[str, Any]]) -> dict[Context, Any]:
    return {(dataset, cell_type): value for dataset, inner in nested.items() for cell_type, value in inner.items()}


def _cell_keys(screens: PerturbationScreens, screen: ScreenLabels) -> np.ndarray:
    """For every cell its name and labels in one text."""
    names = pd.Series(screen.cells.cell_names(), dtype=str)
    cell_types = pd.Series(screens.cell_types, dtype=str)[screen.cell_types].reset_index(drop=True)
    perturbations = pd.Series(screens.perturbations, dtype=str)[screen.perturbations].reset_index(drop=True)
    return (names + "\t" + cell_types + "\t" + perturbations).to_numpy(dtype=object)
