"""Some cells of a matrix in memory, from which dense rows are made in any order."""

from dataclasses import dataclass

import numpy as np

from state_hf.compiled import kernel


@kernel()
def _scatter(values, columns, starts, stops, out):
    """Write sparse rows to the rows of `out`, which is zero."""
    for row in range(len(starts)):
        for place in range(starts[row], stops[row]):
            out[row, columns[place]] = values[place]


@kernel()
def _scatter_some(values, columns, starts, stops, places, out):
    """The same for some columns: each goes where `places` says, and is left out where that is -1."""
    for row in range(len(starts)):
        for at in range(starts[row], stops[row]):
            if places[columns[at]] >= 0:
                out[row, places[columns[at]]] = values[at]


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some cells of a matrix in memory, dense or sparse.

    Attributes:
        place: What messages call the matrix.
        rows: (rows,) ascending row numbers of the cells in the matrix.
        values: (rows or more, columns), or (stored values,) of a sparse matrix.
        columns: Column of every stored value; `None` where dense.
        starts: (rows,) index of a cell in `values`, or of its first stored value.
        stops: (rows,) end of its stored values; unused where dense.
        num_features: Number of features.
        feature_places: (columns of the matrix,) which feature a column is, -1 where it is left out; `None` where all
            columns are features.
    """

    place: str
    rows: np.ndarray
    values: np.ndarray
    columns: np.ndarray | None
    starts: np.ndarray
    stops: np.ndarray
    num_features: int
    feature_places: np.ndarray | None = None

    def dense(self, rows: np.ndarray, num_rows: int) -> np.ndarray:
        """Cells of the block in the given order, then rows of zeros: (num_rows, features) float32.

        Raises:
            ValueError: A value is not finite.
        """
        places = np.searchsorted(self.rows, rows)
        out = np.zeros((num_rows, self.num_features), dtype=np.float32)
        starts, stops, features = self.starts[places], self.stops[places], self.feature_places
        if self.columns is None:
            cells = self.values[starts]
            out[: len(rows)] = cells if features is None else cells[:, features >= 0]
        elif features is None:
            _scatter(self.values, self.columns, starts, stops, out)
        else:
            _scatter_some(self.values, self.columns, starts, stops, features, out)
        # A sum costs a tenth of looking at every value, and is finite where all of them are.
        if not np.isfinite(out.sum(dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"{self.place} has values that are not finite (NaN or infinite) in cell number {rows[bad[0]]} "
                    f"and in {len(bad) - 1} more of the {len(rows)} cells read with it; remove the cells or repair them"
                )
        return out


__all__ = ["RowBlock"]
