"""What a split declares: the contexts and perturbations that train, validate and test a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import anndata
import numpy as np

from state_hf.configuration.labels import as_label
from state_hf.configuration.near_names import nearest
from state_hf.configuration.wording import listed
from state_hf.data.screens.perturbation_screens import PerturbationScreens

SplitPart = Literal["train", "val", "test"]
PARTS: tuple[SplitPart, ...] = get_args(SplitPart)
# (dataset, cell type)
Context = tuple[str, str]


@dataclass(frozen=True)
class SplitDefinition:
    """A split as it is declared: everything that the field's TOML says.

    Attributes:
        datasets: Where the files of each dataset are: folder, file, or pattern with `*`, `?`, `[...]` and `{a,b}`.
        training: Datasets whose cells train where nothing else is said.
        zeroshot: Contexts (dataset, cell type) whose perturbed cells all go to one part.
        fewshot: Contexts of which some perturbations go to "val" and "test", and the others train. A perturbation may
            be in both lists.
        exclude: Perturbations of a context that go to no part.

    Cell types and perturbations may be given as numbers, and are texts here (see `label_text`).
    """

    datasets: dict[str, str] = field(default_factory=dict)
    training: tuple[str, ...] = ()
    zeroshot: dict[Context, SplitPart] = field(default_factory=dict)
    fewshot: dict[Context, dict[str, list[str]]] = field(default_factory=dict)
    exclude: dict[Context, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("zeroshot", "fewshot", "exclude"):
            contexts = {
                (dataset, as_label(cell_type, "a cell type of the split")): _texts(value)
                for (dataset, cell_type), value in getattr(self, name).items()
            }
            object.__setattr__(self, name, contexts)

    def without(self, part: SplitPart) -> "SplitDefinition":
        """The same, but that what goes to a part trains."""
        return replace(
            self,
            zeroshot={
                context: "train" if goes_to == part else goes_to
                for context, goes_to in self.zeroshot.items()
                # What is of a dataset that trains, trains without being named.
                if goes_to != part or context[0] not in self.training
            },
            fewshot={
                context: {held_out: names for held_out, names in lists.items() if held_out != part}
                for context, lists in self.fewshot.items()
            },
        )

    @property
    def used_datasets(self) -> list[str]:
        """Names of the datasets of which any cell is used, in order."""
        contexts = [*self.zeroshot, *self.fewshot, *self.exclude]
        return list(dict.fromkeys([*self.training, *(dataset for dataset, _ in contexts)]))


def _texts(value: Any) -> Any:
    """A part as it is, and perturbations, in a list or by part, as texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {part: _texts(names) for part, names in value.items()}
    return [as_label(name, "a perturbation of the split") for name in value]


def _known_cell_types(screens: PerturbationScreens, names: Sequence[Any]) -> list[str]:
    """The names as texts; refuses those that the screens lack."""
    found = [as_label(name, "a cell type") for name in names]
    for name in found:
        if name not in screens.cell_types:
            raise ValueError(f"there is no cell type {name!r}; {nearest(name, screens.cell_types)}")
    return found


def _check_fractions(val: float, test: float) -> None:
    if not (0 <= val < 1 and 0 <= test < 1 and 0 < val + test < 1):
        raise ValueError(
            f"val and test are shares of the perturbations with a sum between 0 and 1, not {val} and {test}"
        )


def dataset_places(screens: PerturbationScreens) -> dict[str, str]:
    """A pattern for the files of every dataset."""
    places: dict[str, str] = {}
    for dataset in screens.datasets:
        sources = [screen.source for screen in screens.screens if screen.dataset == dataset]
        paths = [str(source) for source in sources if not isinstance(source, anndata.AnnData)]
        if len(paths) == len(sources):
            places[dataset] = paths[0] if len(paths) == 1 else "{" + ",".join(paths) + "}"
    return places


def zeroshot_split(
    screens: PerturbationScreens,
    *,
    test: Sequence[str],
    val: Sequence[str] = (),
    val_share: float = 0.0,
    cell_types: Sequence[str] | None = None,
    seed: int = 0,
) -> SplitDefinition:
    """Hold out whole cell types, in every dataset that has them, and perturbations of the others to validate on.

    Args:
        screens: The labels.
        test: Cell types to test on.
        val: Cell types to validate on.
        val_share: Share of the perturbations of the other cell types to validate on, drawn as `random_split` draws
            them: the same ones in each of `cell_types`, so that by default nothing that trains has seen them.
        cell_types: Cell types in which they are held out; `None` for all that are not held out themselves.
        seed: Seed of the draw.

    Raises:
        ValueError: A cell type is unknown, in both lists, or held out while the share is to be drawn in it; or the
            share is impossible, or of too few perturbations.
    """
    val, test = _known_cell_types(screens, val), _known_cell_types(screens, test)
    both = sorted(set(test) & set(val))
    if both:
        raise ValueError(f"the cell type {both[0]!r} is in both val and test")
    parts: dict[str, SplitPart] = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    zeroshot = {context: parts[context[1]] for context in contexts_of(screens) if context[1] in parts}
    fewshot: dict[Context, dict[str, list[str]]] = {}
    if val_share:
        _check_fractions(val_share, 0.0)
        chosen = None if cell_types is None else _known_cell_types(screens, cell_types)
        held = [name for name in chosen or () if name in parts]
        if held:
            raise ValueError(
                f"the cell type {held[0]!r} is held out whole ({parts[held[0]]}), so no share of its perturbations "
                "can be"
            )
        drawn_in = [name for name in chosen or screens.cell_types if name not in parts]
        fewshot = _drawn_perturbations(screens, {"val": val_share}, drawn_in, seed)
    return SplitDefinition(dataset_places(screens), tuple(screens.datasets), zeroshot=zeroshot, fewshot=fewshot)


def random_split(
    screens: PerturbationScreens,
    *,
    val: float = 0.1,
    test: float = 0.2,
    cell_types: Sequence[str] | None = None,
    seed: int = 0,
) -> SplitDefinition:
    """Hold out perturbations drawn at random: the same ones in every context that the split is for.

    With all cell types (the default), held-out perturbations are seen nowhere in training.

    Args:
        screens: The labels.
        val: Share of the perturbations to validate on.
        test: Share of the perturbations to test on.
        cell_types: Cell types in which they are held out; `None` for all.
        seed: Seed of the draw.

    Raises:
        ValueError: The shares are impossible, or of too few perturbations, or a cell type is unknown.
    """
    _check_fractions(val, test)
    chosen_types = screens.cell_types if cell_types is None else _known_cell_types(screens, cell_types)
    fewshot = _drawn_perturbations(screens, {"test": test, "val": val}, chosen_types, seed)
    return SplitDefinition(dataset_places(screens), tuple(screens.datasets), fewshot=fewshot)


def _drawn_perturbations(
    screens: PerturbationScreens, shares: Mapping[SplitPart, float], cell_types: Sequence[str], seed: int
) -> dict[Context, dict[str, list[str]]]:
    """For every context of the cell types, the perturbations of it that each part draws: the same ones in all."""
    contexts = {context: labels for context, labels in contexts_of(screens).items() if context[1] in cell_types}
    names = sorted(set().union(*contexts.values()))
    order = np.random.default_rng([seed]).permutation(len(names))
    drawn: dict[SplitPart, set[str]] = {}
    start = 0
    for part, share in shares.items():
        number = round(share * len(names))
        if share and not number:
            way = f"; {1 / len(names):.2g} holds one out" if names else ""
            raise ValueError(
                f"a {part} share of {share:g} is none of the {len(names)} perturbations of "
                f"{listed(list(cell_types), limit=5)}{way}"
            )
        drawn[part] = {names[place] for place in order[start : start + number]}
        start += number
    lists = {
        context: {part: sorted(drawn[part] & labels) for part in ("val", "test") if drawn.get(part, set()) & labels}
        for context, labels in contexts.items()
    }
    return {context: held for context, held in lists.items() if held}


def contexts_of(screens: PerturbationScreens) -> dict[Context, set[str]]:
    """Every context that has cells, with the perturbations that it has, the control left out."""
    found: dict[Context, set[str]] = {}
    for screen in screens.screens:
        pairs = np.unique(np.stack([screen.cell_types, screen.perturbations], axis=1), axis=0)
        for cell_type, perturbation in pairs.tolist():
            labels = found.setdefault((screen.dataset, screens.cell_types[cell_type]), set())
            if perturbation != screens.control_id:
                labels.add(screens.perturbations[perturbation])
    return found
