"""Writes an embedding as .h5ad, .zarr, .npy or .parquet, block by block, and reads back how it was made."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from anndata.io import read_elem

from state_hf.data.cells.anndata_files import add_embedding, open_store
from state_hf.data.cells.cell_copies import copy_store
from state_hf.data.cells.cells import Cells
from state_hf.data.whole_files import store_written_whole, written_whole

FORMATS = ("h5ad", "zarr", "npy", "parquet")
_PARQUET_METADATA = b"state_hf"
_PARQUET_GROUP_BYTES = 2**26

Blocks = Iterable[tuple[int, np.ndarray]]


def output_format(path: Path) -> str:
    """The format that a file name's suffix stands for.

    Raises:
        ValueError: The suffix is none of `FORMATS`.
    """
    name = path.suffix.removeprefix(".")
    if name not in FORMATS:
        raise ValueError(f"cannot tell the format of {path}: its name must end in .{', .'.join(FORMATS)}")
    return name


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_npy(path: Path, shape: tuple[int, int], blocks: Blocks) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for _, rows in blocks:
            file.write(np.ascontiguousarray(rows, dtype=np.float32).data)


def _write_parquet(
    path: Path, shape: tuple[int, int], blocks: Blocks, record: dict[str, Any], cells: Cells, key: str
) -> None:
    columns = [f"{key}_{dimension}" for dimension in range(shape[1])]

    def frame(start: int, rows: np.ndarray) -> pd.DataFrame:
        names = pd.Index(cells.cell_names(start, start + len(rows)), name="cell", dtype=object)
        return pd.DataFrame(rows, index=names, columns=columns)

    schema = pa.Schema.from_pandas(frame(0, np.zeros((1, shape[1]), dtype=np.float32)))
    schema = schema.with_metadata({**schema.metadata, _PARQUET_METADATA: json.dumps(record).encode()})
    group_rows = max(_PARQUET_GROUP_BYTES // (4 * shape[1]), 1)
    with pq.ParquetWriter(path, schema, write_statistics=False) as writer:
        waiting: list[pa.Table] = []
        for start, rows in blocks:
            waiting.append(pa.Table.from_pandas(frame(start, rows), schema=schema))
            if sum(table.num_rows for table in waiting) >= group_rows:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def write_embedding(
    path: Path,
    blocks: Blocks,
    *,
    shape: tuple[int, int],
    key: str,
    record: dict[str, Any],
    cells: Cells,
) -> None:
    """Write an embedding to a file that appears under its name only when it is complete.

    Args:
        path: The output; its suffix is the format. `.h5ad` and `.zarr` are copies of the source with `obsm[key]` and
            `uns[key]` added; `.npy` is the array alone with the record in a `.json` file beside it; `.parquet` has one
            column a dimension, the cell names as its index, and the record in the schema's metadata.
        blocks: First cell and rows (cells, dimensions) of every block, in order.
        shape: (cells, dimensions).
        key: Name of the slot, and stem of the column names.
        record: How the embedding was made: nested dictionaries of strings and numbers.
        cells: The data set that was embedded: its copy, or its cell names.
    """
    kind = output_format(path)
    with store_written_whole(path) as temporary:
        if kind in ("h5ad", "zarr"):
            copy_store(cells, temporary)
            add_embedding(temporary, key, shape, blocks, record)
        elif kind == "parquet":
            _write_parquet(temporary, shape, blocks, record, cells, key)
        else:
            _write_npy(temporary, shape, blocks)
            with written_whole(_sidecar(path)) as sidecar:
                sidecar.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_embedding_record(path: Path, key: str) -> dict[str, Any]:
    """How the embedding in an output was made; empty if it does not say.

    Args:
        path: A file or store that `write_embedding` wrote.
        key: Name of the embedding's slot.
    """
    kind = output_format(path)
    if kind == "npy":
        return json.loads(_sidecar(path).read_text()) if _sidecar(path).exists() else {}
    if kind == "parquet":
        return json.loads((pq.read_schema(path).metadata or {}).get(_PARQUET_METADATA, b"{}"))
    with open_store(path, "r") as store:
        return read_elem(store[f"uns/{key}"]) if f"uns/{key}" in store else {}
