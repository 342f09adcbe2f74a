"""The file that `preprocess` writes: log1p of the counts of the cells that are kept, and what goes with them."""

import errno
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from scipy import sparse

from state_hf.data.cells.anndata_elements import write_element
from state_hf.data.whole_counts import WholeCounts

HVG_SLOT = "X_hvg"
_COPY_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class KeptCells:
    """The cells that are kept, in blocks of counts, and how they are normalised."""

    counts: WholeCounts
    kept: np.ndarray
    totals: np.ndarray
    lengths: np.ndarray
    target_sum: float

    def blocks(self, title: str) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Row numbers in the input, and counts (cells, genes)."""
        for start, stop in self.counts.block_starts(title):
            rows = np.flatnonzero(self.kept[start:stop])
            yield rows + start, self.counts.read(start, stop)[rows]

    @property
    def num_genes(self) -> int:
        """Number of genes."""
        return self.counts.cells.num_features

    def normalise(self, rows: np.ndarray, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """log1p of the counts scaled to the target sum, float32."""
        scale = np.repeat(self.totals[rows] / self.target_sum, np.diff(counts.indptr))
        values = np.log1p((counts.data / scale).astype(np.float32))
        return sparse.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def check_space(output: Path, kept: KeptCells, num_variable_genes: int, *, counts: bool) -> None:
    """Refuse to begin what the disk cannot hold; HDF5 itself may not survive a full disk.

    Args:
        output: The file.
        kept: What is to be written.
        num_variable_genes: Genes of the slot of variable genes.
        counts: Whether the counts are written, too.

    Raises:
        OSError: There is no room.
    """
    values = int(kept.lengths[kept.kept].sum()) * (1 + counts)
    output.parent.mkdir(parents=True, exist_ok=True)
    needed, free = 8 * values + 4 * int(kept.kept.sum()) * num_variable_genes, shutil.disk_usage(output.parent).free
    if needed > free:
        message = f"The disk is full: {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free"
        raise OSError(errno.ENOSPC, message, str(output))


class _CsrWriter:
    """A CSR matrix in a file, written block by block; its size is known, so its arrays lie in one piece each."""

    def __init__(self, parent: h5py.Group, name: str, lengths: np.ndarray, num_columns: int) -> None:
        group = parent.create_group(name)
        shape = np.array([len(lengths), num_columns])
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        group["indptr"] = np.concatenate([[0], np.cumsum(lengths)])
        self.data = group.create_dataset("data", (int(lengths.sum()),), dtype=np.float32)
        self.indices = group.create_dataset("indices", (int(lengths.sum()),), dtype=np.int32)
        self.done = 0

    def add(self, block: sparse.csr_matrix) -> None:
        stop = self.done + block.nnz
        self.data[self.done : stop], self.indices[self.done : stop] = block.data, block.indices
        self.done = stop


def _copy_rows(source: Any, target: h5py.Group, name: str, rows: np.ndarray) -> None:
    """Copy some rows of an entry of obsm; an array piece by piece, whatever else as a whole."""
    if not isinstance(source, h5py.Dataset | zarr.Array | np.ndarray):
        entry = read_elem(source) if isinstance(source, h5py.Group | zarr.Group) else source
        write_element(target, name, entry.iloc[rows] if isinstance(entry, pd.DataFrame) else entry[rows])
        return
    copy = target.create_dataset(name, (len(rows), *source.shape[1:]), dtype=source.dtype)
    copy.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    step = max(1, _COPY_BYTES // max(1, source.dtype.itemsize * int(np.prod(source.shape[1:]))))
    for start in range(0, source.shape[0], step):
        first, last = np.searchsorted(rows, [start, start + step])
        copy[first:last] = np.asarray(source[start : start + step])[rows[first:last] - start]


def write_preprocessed(
    path: Path,
    kept: KeptCells,
    var: pd.DataFrame,
    columns: np.ndarray,
    uns: dict[str, Any],
    *,
    keep_counts: bool,
) -> list[str]:
    """Write the output.

    Args:
        path: The file, which is made.
        kept: The cells that are kept.
        var: The genes, one row each.
        columns: Which of them are the variable genes, in order.
        uns: Entries that are added to those of the input.
        keep_counts: Whether the counts are written, too.

    Returns:
        The slots of the input that it lacks.
    """
    rows, old = np.flatnonzero(kept.kept), kept.counts.cells.cells
    with h5py.File(path, "w") as new:
        new.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_element(new, "obs", old.obs.iloc[rows])
        write_element(new, "var", var)
        entries, dangling = _without_references(dict(old.uns), len(kept.kept))
        write_element(new, "uns", {**entries, **uns})
        for slot in ("obsm", "layers"):
            write_element(new, slot, {})
        for name in old.names_in("obsm"):
            if name != HVG_SLOT:
                _copy_rows(old.element("obsm", name), new["obsm"], name, rows)
        variable = new["obsm"].create_dataset(HVG_SLOT, (len(rows), len(columns)), dtype=np.float32)
        variable.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        matrix = _CsrWriter(new, "X", kept.lengths[rows], kept.num_genes)
        raw = _CsrWriter(new["layers"], "counts", kept.lengths[rows], kept.num_genes) if keep_counts else None
        done = 0
        for block_rows, block in kept.blocks("writing"):
            normalised = kept.normalise(block_rows, block)
            matrix.add(normalised)
            if raw is not None:
                raw.add(block)
            variable[done : done + len(block_rows)] = normalised[:, columns].toarray()
            done += len(block_rows)
        slots = [f"{slot}/{name}" for slot in ("layers", "obsp", "varm", "varp") for name in old.names_in(slot)]
        slots += [slot.removesuffix("/X") for slot in ("X", "raw/X", f"obsm/{HVG_SLOT}") if slot in old.slots()]
    return [*_lacking(slots, kept.counts.cells.slot, keep_counts=keep_counts), *dangling]


def _lacking(slots: list[str], read: str, *, keep_counts: bool) -> list[str]:
    """Which slots of the input the output lacks, when its counts were read from one of them."""
    lacking = []
    for slot in sorted(slots):
        if slot == read.removesuffix("/X") and (keep_counts or slot == "X"):
            continue
        made_anew = slot in ("X", f"obsm/{HVG_SLOT}") or (slot == "layers/counts" and keep_counts)
        lacking.append(f"{slot} (as it was)" if made_anew else slot)
    return lacking


def _without_references(uns: dict[str, Any], num_cells: int) -> tuple[dict[str, Any], list[str]]:
    """`uns` without entries on pairs of cells, and those entries' names.

    They name matrices of obsp, as scanpy's `neighbors` does, or hold them, as it did before 2020.
    """
    dangling = [
        name
        for name, entry in uns.items()
        if isinstance(entry, Mapping)
        and (
            {"connectivities_key", "distances_key"} & entry.keys()
            or any(getattr(value, "shape", None) == (num_cells, num_cells) for value in entry.values())
        )
    ]
    return {name: entry for name, entry in uns.items() if name not in dangling}, [f"uns/{name}" for name in dangling]


__all__ = ["HVG_SLOT", "KeptCells", "check_space", "write_preprocessed"]
