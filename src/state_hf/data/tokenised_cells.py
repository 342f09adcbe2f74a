"""The Parquet files of a tokenised corpus: one row a cell, with the genes that it expresses and their values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from state_hf.data.cell_blocks import CellBlocks, CellRows

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


class _TokenisedRows(CellRows):
    def __init__(self, path: Path) -> None:
        self.file = pq.ParquetFile(path, memory_map=True)
        metadata = self.file.schema_arrow.metadata or {}
        if _GENES not in metadata:
            raise ValueError(
                f"{path} names no genes: it is not a file of `state-hf tokenize`; write it again with that"
            )
        self.genes = metadata[_GENES].decode().split("\n")
        self.shape = (self.file.metadata.num_rows, len(self.genes))
        groups = [self.file.metadata.row_group(number) for number in range(self.file.num_row_groups)]
        self.ends = np.cumsum([group.num_rows for group in groups])
        self.bytes_per_row = sum(group.total_byte_size for group in groups) / max(self.shape[0], 1)

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right").tolist()
        table = self.file.read_row_groups(list(range(first, last + 1)), columns=["gene_ids", "values"])
        before = int(self.ends[first - 1]) if first else 0
        table = table.slice(start - before, stop - start).combine_chunks()
        genes, values = (table[name].combine_chunks() for name in ("gene_ids", "values"))
        starts = np.concatenate([[0], np.cumsum(np.diff(genes.offsets.to_numpy()))])
        # Arrow's memory is not to be written to, which sorting does.
        arrays = (values.flatten().to_numpy().copy(), genes.flatten().to_numpy().copy(), starts)
        matrix = sparse.csr_matrix(arrays, shape=(stop - start, self.shape[1]))
        matrix.sort_indices()
        return matrix


def open_tokenised(path: str | Path) -> CellBlocks:
    """Open a file that `state_hf.pipelines.tokenize` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a Parquet file of another kind.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        rows = _TokenisedRows(Path(path))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged or no Parquet file: {error}") from error
    return CellBlocks(str(path), "the table", rows, pd.DataFrame(index=rows.genes), rows.file)


__all__ = ["GROUP_CELLS", "open_tokenised", "tokenised_schema"]
