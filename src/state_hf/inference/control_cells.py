"""The control cells that predictions start from: drawn with a seed, read when they are needed."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from state_hf.configuration.advice import Advised
from state_hf.data.screens.named_genes import check_named_genes
from state_hf.data.screens.perturbation_screens import PerturbationScreens

_BLOCK_VALUES = 2**24


def seeded_stream(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on a seed and some names, and not on what else is computed."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype=np.uint32).tolist()])


def columns_of(names: Sequence[str] | None, genes: Sequence[str], place: str) -> np.ndarray | None:
    """(genes,) which columns of a slot are a model's genes in its order; None if they are so as they lie.

    Raises:
        ValueError: A gene is missing, or is there twice.
    """
    if not genes or names is None or list(names) == list(genes):
        return None
    at = {name: number for number, name in enumerate(names)}
    missing = [gene for gene in genes if gene not in at]
    if missing:
        shown = ", ".join(map(repr, missing[:5]))
        raise ValueError(
            f"{place} has {len(names):,} genes and lacks {len(missing):,} of the model's {len(genes):,}: {shown}"
            f"{', ...' if len(missing) > 5 else ''}; prepare the file with them (`state-hf preprocess --genes FILE`)"
        )
    if len(at) != len(names):
        raise ValueError(f"{place} has gene names that occur twice, so the model's genes cannot be found by name.")
    return np.array([at[gene] for gene in genes])


class ControlCells:
    """Control cells of screens, of one slot, in a model's order of features.

    Args:
        screens: The labels.
        slot: "X", "raw/X", "layers/NAME" or "obsm/NAME".
        genes: The model's features by name; empty to take them as they are.
        num_features: Features that the model reads.

    Raises:
        ValueError: The slot is missing, does not fit the model, or does not name the genes that the model names.
    """

    def __init__(self, screens: PerturbationScreens, slot: str, genes: Sequence[str], *, num_features: int) -> None:
        self.screens = screens
        self._moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._rows = [screen.cells.matrix(slot) for screen in screens.screens]
        for rows, screen in zip(self._rows, screens.screens, strict=True):
            if rows.shape[0] != screen.num_cells:
                raise ValueError(f"{rows.place} has {rows.shape[0]:,} rows for {screen.num_cells:,} cells")
        if genes:
            way = "read the genes by name from a slot that has them (feature_key='X')"
            for rows in self._rows:
                check_named_genes(rows, way)
        self._columns = [columns_of(rows.feature_names, genes, rows.place) for rows in self._rows]
        for rows, columns in zip(self._rows, self._columns, strict=True):
            width = rows.shape[1] if columns is None else len(columns)
            if width != num_features:
                raise ValueError(
                    Advised(
                        f"{rows.place} has {width:,} features, but the model reads {num_features:,}",
                        "name the slot that it was trained on (feature_key=...)",
                        "prepare the file as its training data were",
                    )
                )
        self.place = self._rows[0].place

    def of(self, cell_type: str) -> np.ndarray:
        """(controls, 2) screen and row of every control cell of a cell type.

        Raises:
            ValueError: There are none.
        """
        number = self.screens.cell_types.index(cell_type)
        found = [
            np.stack([np.full(len(rows), place), rows], axis=1)
            for place, screen in enumerate(self.screens.screens)
            if len(rows := np.flatnonzero(screen.is_control & (screen.cell_types == number)))
        ]
        if not found:
            names = ", ".join(screen.name for screen in self.screens.screens)
            having = {int(kind) for screen in self.screens.screens for kind in screen.cell_types[screen.is_control]}
            others = [repr(self.screens.cell_types[kind]) for kind in sorted(having)]
            listed = ", ".join(others[:8]) + (", ..." if len(others) > 8 else "")
            raise ValueError(
                Advised(
                    f"{names} has no control cells ({self.screens.control!r}) of the cell type {cell_type!r} to "
                    f"predict from; there are some of {listed or 'no cell type'}",
                    "add some",
                    "predict those alone (cell_types=...)",
                )
            )
        return np.concatenate(found)

    def read(self, cells: np.ndarray) -> np.ndarray:
        """(cells, features) float32 of (cells, 2) screens and rows, in the given order."""
        values: np.ndarray | None = None
        for place in np.unique(cells[:, 0]).tolist():
            here = np.flatnonzero(cells[:, 0] == place)
            rows, columns = cells[here, 1], self._columns[place]
            dense = self._rows[place].rows(np.unique(rows)).dense(rows, len(rows))
            dense = dense if columns is None else dense[:, columns]
            if values is None:
                values = np.empty((len(cells), dense.shape[1]), dtype=np.float32)
            values[here] = dense
        if values is None:
            raise ValueError("no cells to read")
        return values

    def blocks(self, cells: np.ndarray) -> Iterator[np.ndarray]:
        """The cells in order, in blocks that fit in memory."""
        step = max(1, _BLOCK_VALUES // max(1, self._rows[0].shape[1]))
        for start in range(0, len(cells), step):
            yield self.read(cells[start : start + step])

    def mean(self, cell_type: str) -> np.ndarray:
        """(features,) float32 mean of all control cells of a cell type."""
        return self.mean_and_variance(cell_type)[0].astype(np.float32)

    def mean_and_variance(self, cell_type: str) -> tuple[np.ndarray, np.ndarray]:
        """(features,) float64 mean and variance of all control cells of a cell type, read once."""
        if cell_type not in self._moments:
            self._moments[cell_type] = self._read_moments(cell_type)
        return self._moments[cell_type]

    def _read_moments(self, cell_type: str) -> tuple[np.ndarray, np.ndarray]:
        cells = self.of(cell_type)
        total, squares = np.zeros(()), np.zeros(())
        for block in self.blocks(cells):
            total = total + block.sum(axis=0, dtype=np.float64)
            squares = squares + np.square(block, dtype=np.float64).sum(axis=0)
        mean = total / len(cells)
        return mean, np.clip(squares / len(cells) - np.square(mean), 0, None)


def draw_windows(
    pool: np.ndarray, cells: int, *, set_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, int]]:
    """Control cells for `cells` predictions, as sets like those of training.

    Every set holds `set_size` different controls, or all where there are fewer; the predictions are dealt to the sets
    evenly, so a set may yield fewer predictions than it holds controls. Sets are drawn independently of each other: a
    control may come in several.

    Args:
        pool: (controls, ...) the control cells.
        cells: Number of predictions.
        set_size: Most controls of a set.
        rng: Random numbers.

    Yields:
        Controls of a set, and how many of its first predictions are to be kept.
    """
    size = min(set_size, len(pool))
    windows = -(-cells // size)
    for window in range(windows):
        kept = cells * (window + 1) // windows - cells * window // windows
        yield pool[rng.choice(len(pool), size, replace=False)], kept


__all__ = ["ControlCells", "columns_of", "draw_windows", "seeded_stream"]
