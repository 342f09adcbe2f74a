"""Sets of control and perturbed cells as tensors, read from .h5ad files while they are needed."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy import sparse
from torch.utils.data import Dataset, Sampler

from state_hf.data.cells.row_block import RowBlock
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.screens.perturbation_screens import PerturbationScreens
from state_hf.data.screens.perturbation_sets import CellSet, ControlMatching, PerturbationSets
from state_hf.data.screens.split_definition import SplitPart
from state_hf.data.screens.splits import PerturbationSplit

if TYPE_CHECKING:
    import datasets

# Separate the random streams of thinning and of the order of the sets from those of the sets themselves.
_THINNING_STREAM, _ORDER_STREAM = 2, 3


def _shuffled(num_sets: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, _ORDER_STREAM]).permutation(num_sets)


def _open_slot(screens: PerturbationScreens, slot: str) -> list[CellMatrix]:
    """The slot of every screen, which must have the same features in the same order."""
    opened = [screen.cells.matrix(slot) for screen in screens.screens]
    first = opened[0]
    for rows, screen in zip(opened, screens.screens, strict=True):
        if rows.shape[0] != screen.num_cells:
            raise ValueError(f"{rows.place} has {rows.shape[0]:,} rows for {screen.num_cells:,} cells")
        if rows.shape[1] != first.shape[1]:
            raise ValueError(
                f"{rows.place} has {rows.shape[1]:,} features and {first.place} {first.shape[1]:,}; "
                "screens that are read together need the same features in the same order"
            )
        if rows.feature_names and first.feature_names and rows.feature_names != first.feature_names:
            pairs = zip(first.feature_names, rows.feature_names, strict=True)
            place, (one, other) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ValueError(
                f"feature {place} is {one!r} in {first.place} and {other!r} in {rows.place}; "
                "screens that are read together need the same features in the same order"
            )
    return opened


class PerturbationDataset(Dataset[dict[str, torch.Tensor]]):
    """Sets of cells of one perturbation, each with control cells that it is to be predicted from.

    Item `index` of an epoch depends on (seed, epoch, index) alone: not on the batch, the worker or the process that
    reads it. With S the set size, D and D' the numbers of features, an item holds

    - `control`: (S, D) float32, control cells; rows after the last cell are zero.
    - `cell_mask`: (S,) bool, which rows of `control` are cells.
    - `target`: (S, D') float32, perturbed cells; rows after the last cell are zero.
    - `target_mask`: (S,) bool, which rows of `target` are cells.
    - `perturbation_ids`: () int64, index into `screens.perturbations`.
    - `cell_type_ids`: () int64, index into `screens.cell_types`.
    - `batch_ids`: (S,) int64, index into `screens.batches`: the batch that a row of `control` is to be predicted in,
      which is that of the target in the same row; where there are fewer targets, theirs again and again.
    - `target_expression`: (S, G) float32, expression of the target cells, where asked for.

    The names are those of the arguments of `StateTransitionForPerturbation`. Control and target rows are not paired:
    the two are sets.

    Args:
        screens: The labels, from `open_screens`.
        split: Which cell is of which part; `None` takes all cells.
        part: The part to read, with a split.
        features: Slot of the control cells' features: "X", "raw/X", "layers/NAME" or "obsm/NAME".
        targets: Slot of the target cells' features; `None` for the same.
        target_expression: Slot of the target cells' expression, for models that decode it; `None` leaves it out.
        set_size: Most cells of a set (S).
        control_matching: "random" draws controls from the same file and cell type; "batch" groups cells by batch too,
            and draws controls from the same batch, or from the cell type where the batch has none.
        control_sets: Number of items that every set of targets gives, each with its own draw of controls.
        map_controls: Whether control cells are predicted too, from other control cells.
        short_sets: "keep" deals all cells into sets of nearly equal size; "drop" deals full sets only.
        downsample_cells: Cells of a group that are dealt in an epoch, drawn anew each time; `None` for all.
        downsample_counts: Binomial thinning of every slot but those in obsm, which must hold counts: up to 1, the share
            of counts that is kept; above 1, the total that a cell is thinned to (a cell with less stays as it is).
        without_controls: "error", or "drop" to leave out cells whose cell type has no controls.
        seed: Seed of all draws.

    Attributes:
        screens: The labels.
        sets: Which cells make up each set.
        slots: Where "control", "target" and, if asked for, "target_expression" are read.
        input_size: Number of features of the control cells (D).
        output_size: Number of features of the target cells (D').
        feature_names: Names of the control cells' features in order, or `None` where the files do not say.
        target_names: Names of the target cells' features in order, or `None`.
        expression_names: Genes of `target_expression` in order, or `None`.

    Raises:
        ValueError: A slot is missing or differs between files, a cell type has no controls, a value read is not finite,
            or a slot to be thinned does not hold counts.
    """

    def __init__(
        self,
        screens: PerturbationScreens,
        *,
        split: PerturbationSplit | None = None,
        part: SplitPart = "train",
        features: str = "X",
        targets: str | None = None,
        target_expression: str | None = None,
        set_size: int = 64,
        control_matching: ControlMatching = "random",
        control_sets: int = 1,
        map_controls: bool = True,
        short_sets: Literal["keep", "drop"] = "keep",
        downsample_cells: int | None = None,
        downsample_counts: float | None = None,
        without_controls: Literal["error", "drop"] = "error",
        seed: int = 0,
    ) -> None:
        if downsample_counts is not None and downsample_counts <= 0:
            raise ValueError(f"downsample_counts must be above 0, and is {downsample_counts}")
        self.screens, self.set_size, self.seed, self.downsample_counts = screens, set_size, seed, downsample_counts
        everything = [np.ones(screen.num_cells, dtype=bool) for screen in screens.screens]
        self.sets = PerturbationSets(
            screens,
            targets=everything if split is None else split.target_masks(part),
            controls=everything if split is None else split.control_masks(part),
            set_size=set_size,
            control_matching=control_matching,
            control_sets=control_sets,
            map_controls=map_controls,
            short_sets=short_sets,
            max_cells_per_group=downsample_cells,
            without_controls=without_controls,
            seed=seed,
        )
        self.slots = {"control": features, "target": targets or features}
        if target_expression is not None:
            self.slots["target_expression"] = target_expression
        self._rows = {slot: _open_slot(screens, slot) for slot in dict.fromkeys(self.slots.values())}
        # Shared memory, so that workers that live on see the epoch change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.sets)

    def _names(self, role: str) -> list[str] | None:
        return self._rows[self.slots[role]][0].feature_names

    @property
    def input_size(self) -> int:
        """Number of features of the control cells."""
        return self._rows[self.slots["control"]][0].shape[1]

    @property
    def output_size(self) -> int:
        """Number of features of the target cells."""
        return self._rows[self.slots["target"]][0].shape[1]

    @property
    def feature_names(self) -> list[str] | None:
        """Names of the control cells' features in order."""
        return self._names("control")

    @property
    def target_names(self) -> list[str] | None:
        """Names of the target cells' features in order."""
        return self._names("target")

    @property
    def expression_names(self) -> list[str] | None:
        """Genes of `target_expression` in order."""
        return self._names("target_expression") if "target_expression" in self.slots else None

    @property
    def epoch(self) -> int:
        """The epoch whose sets are read."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Read the sets of another epoch from now on, in workers too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return next(self.read([index]))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """A batch, read in one pass over the files; called by PyTorch's DataLoader."""
        return list(self.read(indices))

    def read(self, indices: Iterable[int]) -> Iterator[dict[str, torch.Tensor]]:
        """Yield sets of the current epoch in the given order, after reading all their cells in the files' order.

        Args:
            indices: Set numbers. The cells of all of them are held in memory together, sparse where the file is.
        """
        epoch = self.epoch
        drawn = [(int(index), self.sets.draw(int(index), epoch)) for index in indices]
        blocks = self._read_blocks([cells for _, cells in drawn])
        for index, cells in drawn:
            yield self._item(index, epoch, cells, blocks)

    def _read_blocks(self, drawn: Sequence[CellSet]) -> dict[tuple[str, int], RowBlock]:
        wanted: dict[tuple[str, int], list[np.ndarray]] = {}
        for cells in drawn:
            for role, slot in self.slots.items():
                rows = cells.controls if role == "control" else cells.targets
                wanted.setdefault((slot, cells.screen), []).append(rows)
        return {
            (slot, screen): self._rows[slot][screen].rows(np.unique(np.concatenate(rows)))
            for (slot, screen), rows in wanted.items()
        }

    def _item(
        self, index: int, epoch: int, cells: CellSet, blocks: dict[tuple[str, int], RowBlock]
    ) -> dict[str, torch.Tensor]:
        item: dict[str, torch.Tensor] = {}
        for number, (role, slot) in enumerate(self.slots.items()):
            rows = cells.controls if role == "control" else cells.targets
            block = blocks[slot, cells.screen]
            values = block.dense(rows, self.set_size)
            if self.downsample_counts is not None and not slot.startswith("obsm/"):
                rng = np.random.default_rng([self.seed, epoch, _THINNING_STREAM, index, number])
                _thin(values, self.downsample_counts, rng, block.place)
            item[role] = torch.from_numpy(values)
        places = torch.arange(self.set_size)
        item["cell_mask"] = places < len(cells.controls)
        item["target_mask"] = places < len(cells.targets)
        item["perturbation_ids"] = torch.tensor(cells.perturbation)
        item["cell_type_ids"] = torch.tensor(cells.cell_type)
        item["batch_ids"] = torch.from_numpy(np.resize(cells.batches, self.set_size).astype(np.int64))
        return item

    def control_cells(
        self, cell_type: int, most: int, *, role: Literal["target", "target_expression"], rng: np.random.Generator
    ) -> sparse.csr_matrix:
        """Draw real control cells of a cell type, without replacement, of those that its sets draw from.

        Args:
            cell_type: Id of the cell type.
            most: Most cells; all where there are fewer.
            role: Whose slot is read: that of the targets' features, or of their expression.
            rng: Random numbers.

        Returns:
            (cells, features) float32.
        """
        pools: dict[int, list[np.ndarray]] = {}
        for group in self.sets.groups():
            if group.cell_type == cell_type:
                pools.setdefault(group.screen, []).append(group.controls)
        places = [
            np.stack([np.full(len(rows), screen), rows], axis=1)
            for screen, found in pools.items()
            for rows in [np.unique(np.concatenate(found))]
        ]
        pool = np.concatenate(places)
        drawn = pool[np.sort(rng.choice(len(pool), min(most, len(pool)), replace=False))]
        blocks = []
        for screen in np.unique(drawn[:, 0]).tolist():
            rows = drawn[drawn[:, 0] == screen, 1]
            block = self._rows[self.slots[role]][screen].rows(rows)
            # A few cells at a time, as only the result is sparse.
            blocks += [
                sparse.csr_matrix(block.dense(part, len(part))) for part in np.array_split(rows, -(-len(rows) // 512))
            ]
        return sparse.vstack(blocks, format="csr")

    def to_iterable_dataset(self, *, buffer_sets: int = 64) -> "datasets.IterableDataset":
        """A view for the `datasets` library, in the random order of `SetSampler`.

        Its shards are runs of `buffer_sets` sets, whose cells are read in one pass over the files, so that a compressed
        chunk is decoded once a run: the larger, the faster, and the more memory. `datasets` deals shards out to the
        workers of a DataLoader, and `datasets.distributed.split_dataset_by_node` to processes: no set is split or read
        twice. The epoch is that of this dataset (`set_epoch`).

        Args:
            buffer_sets: Sets that are read together.
        """
        import datasets  # loading it costs a second, and only this view needs it

        windows = list(range(-(-len(self) // buffer_sets)))
        kwargs = {"dataset": self, "buffer_sets": buffer_sets, "windows": windows}
        return datasets.IterableDataset.from_generator(_windows, gen_kwargs=kwargs)


def _windows(
    dataset: PerturbationDataset, buffer_sets: int, windows: Sequence[int]
) -> Iterator[dict[str, torch.Tensor]]:
    order = _shuffled(len(dataset), dataset.seed, dataset.epoch)
    for window in windows:
        yield from dataset.read(order[window * buffer_sets : (window + 1) * buffer_sets])


class SetSampler(Sampler[int]):
    """The sets of a dataset in an order that depends on (seed, epoch) alone; also tells the dataset the epoch.

    Args:
        dataset: The dataset; its seed is used.
    """

    def __init__(self, dataset: PerturbationDataset) -> None:
        self.dataset = dataset

    def set_epoch(self, epoch: int) -> None:
        """Give the order, and let the dataset read the sets, of another epoch."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(_shuffled(len(self.dataset), self.dataset.seed, self.dataset.epoch).tolist())


def _thin(values: np.ndarray, amount: float, rng: np.random.Generator, place: str) -> None:
    """Binomial thinning of counts (cells, genes), in place."""
    rows, columns = np.nonzero(values)
    counts = values[rows, columns]
    if (counts < 0).any() or (counts != np.rint(counts)).any():
        raise ValueError(
            f"{place} does not hold counts (whole numbers from 0 on), so downsample_counts cannot thin them"
        )
    totals = values.sum(axis=1, dtype=np.float64)
    share = np.full(len(values), amount) if amount <= 1 else np.minimum(1.0, amount / np.maximum(totals, 1.0))
    values[rows, columns] = rng.binomial(counts.astype(np.int64), share[rows])
