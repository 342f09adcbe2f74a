"""What is asked of cells that are scored: an AnnData has it, and so has what reads one from a file."""

from collections.abc import Mapping
from typing import Any, Protocol

import pandas as pd


class LabelledCells(Protocol):
    """Cells with labels, and their expression.

    Attributes:
        obs: Labels and more, one row a cell.
        obs_names: Names of the cells.
        uns: What else is said of them.
        var_names: Names of the genes.
        n_obs: Number of cells.
        X: (cells, genes) expression: with `shape` and `dtype`, and sliced by cells. `None` where there is none.
    """

    @property
    def obs(self) -> pd.DataFrame: ...

    @property
    def obs_names(self) -> pd.Index: ...

    @property
    def uns(self) -> Mapping[str, Any]: ...

    @property
    def var_names(self) -> pd.Index: ...

    @property
    def n_obs(self) -> int: ...

    @property
    def X(self) -> Any: ...


__all__ = ["LabelledCells"]
