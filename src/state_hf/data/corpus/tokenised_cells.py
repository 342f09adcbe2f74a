"""The Parquet files of a tokenised corpus: one row a cell, with the genes that it expresses and their values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from state_hf.data.cells.cells import Cells
from state_hf.data.cells.item_ranges import join_ranges
from state_hf.data.cells.layouts import Layout
from state_hf.data.cells.row_block import RowBlock

# As many as a corpus reads together: a group is decoded as a whole.
GROUP_CELLS = 64
_GENES = b"genes"
_FIELDS = {
    "gene_ids": pa.list_(pa.int32()),
    "values": pa.list_(pa.float32()),
    "dataset": pa.string(),
    "scale": pa.string(),
    "file": pa.string(),
    "cell": pa.int64(),
}


def tokenised_schema(genes: Sequence[str]) -> pa.Schema:
    """The columns of a file, with the vocabulary that its gene ids are rows of."""
    return pa.schema(_FIELDS, metadata={_GENES: "\n".join(genes).encode()})


class _TokenisedLayout(Layout):
    def __init__(self, path: Path, place: str) -> None:
        self._path, self.place, self.dtype = path, place, np.dtype(np.float32)
        self.file = pq.ParquetFile(path, memory_map=True)
        metadata = self.file.schema_arrow.metadata or {}
        if _GENES not in metadata:
            raise ValueError(
                f"{path} names no genes: it is not a file of `state-hf tokenize`; write it again with that"
            )
        self.genes = metadata[_GENES].decode().split("\n")
        self.shape = (self.file.metadata.num_rows, len(self.genes))
        groups = [self.file.metadata.row_group(number) for number in range(self.file.num_row_groups)]
        self._ends = np.cumsum([group.num_rows for group in groups])
        self.bytes_per_cell = sum(group.total_byte_size for group in groups) / max(self.shape[0], 1)

    def block(self, start: int, stop: int) -> sparse.csr_matrix:
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        table = self.file.read_row_groups(list(range(first, last + 1)), columns=["gene_ids", "values"])
        before = int(self._ends[first - 1]) if first else 0
        table = table.slice(start - before, stop - start).combine_chunks()
        genes, values = (table[name].combine_chunks() for name in ("gene_ids", "values"))
        starts = np.concatenate([[0], np.cumsum(np.diff(genes.offsets.to_numpy()))])
        # Arrow's memory is not to be written to, which sorting does.
        arrays = (values.flatten().to_numpy().copy(), genes.flatten().to_numpy().copy(), starts)
        matrix = sparse.csr_matrix(arrays, shape=(stop - start, self.shape[1]))
        matrix.sort_indices()
        return matrix

    def rows(self, rows: np.ndarray) -> RowBlock:
        runs = join_ranges(rows, rows + 1, GROUP_CELLS)
        blocks = [self.block(start, stop) for start, stop in zip(runs[0].tolist(), runs[1].tolist(), strict=True)]
        matrix = sparse.vstack(blocks, format="csr")
        starts, stops = matrix.indptr[runs[2]], matrix.indptr[runs[2] + 1]
        return RowBlock(self.place, rows, matrix.data, matrix.indices, starts, stops, self.shape[1])


class TokenisedCells(Cells):
    """The cells of a file that `state_hf.pipelines.tokenize` wrote; their names are their numbers.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a Parquet file of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        self.name, self.path = str(path), Path(path)
        layout = self.open_layout("X")
        self.num_cells, self._genes = layout.shape[0], layout.genes
        layout.file.close()

    def open_layout(self, slot: str) -> _TokenisedLayout:
        if not Path(self.name).exists():
            raise FileNotFoundError(f"there is no file {self.name}")
        try:
            return _TokenisedLayout(Path(self.name), f"{slot} of {self.name}")
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.name} is damaged or no Parquet file: {error}") from error

    def slots(self) -> list[str]:
        return ["X"]

    def frame(self, name: str) -> pd.DataFrame:
        return pd.DataFrame(index=self.cell_names() if name == "obs" else self._genes)

    def column_names(self) -> list[str]:
        return []

    def column(self, name: str) -> pd.Series:
        raise ValueError(f"{self.name} has no column {name!r}: it is a tokenised corpus")

    def cell_names(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return np.arange(self.num_cells)[start:stop].astype(str)

    @property
    def uns(self) -> Mapping[str, Any]:
        return {}

    def names_in(self, slot: str) -> list[str]:
        return []

    def element(self, slot: str, name: str) -> Any:
        raise ValueError(f"{self.name} has no {slot}[{name!r}]")

    def close(self) -> None:
        pass  # what is open is the matrix' own


__all__ = ["GROUP_CELLS", "TokenisedCells", "tokenised_schema"]
