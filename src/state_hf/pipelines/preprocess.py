"""From raw counts to what State Transition trains on: normalised, logged, variable genes named, knock-downs checked."""

import errno
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from scipy import sparse
from transformers.utils import logging

from state_hf._version import __version__
from state_hf.configuration.near_names import nearest
from state_hf.data.anndata_elements import write_element
from state_hf.data.cells.cell_matrix import CellMatrix
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.file_stamps import FileStamps
from state_hf.data.highly_variable import GeneMoments, rank_variable_genes
from state_hf.data.knockdown_filter import KnockdownFilter, filter_knockdown
from state_hf.data.knockdown_targets import KnockdownTargets
from state_hf.data.whole_files import written_whole
from state_hf.tokenization.input_scale import SCALE_SAMPLE, check_scale, look_at_values

HVG_SLOT = "X_hvg"
_BLOCK_BYTES = 2**26
# The knock-down filter compares counts of cells that are scaled to this total.
_PER_CELL = 1e4


@dataclass(frozen=True)
class PreprocessReport:
    """What was done; `print(report)` says it in one line.

    Attributes:
        cells_read: Cells of the input.
        cells_written: Cells of the output.
        dropped: For every reason the number of cells dropped, and the perturbations of which no cell is left.
        target_sum: Counts that every cell was normalised to.
        variable_genes: Names of the highly variable genes, in order.
        left_out: Slots of the input that the output lacks.
        rounding: Share of all counts that rounding to whole numbers added (or, below 0, took away); None if the counts
            were whole.
    """

    cells_read: int
    cells_written: int
    dropped: dict[str, tuple[int, list[str]]]
    target_sum: float
    variable_genes: list[str]
    left_out: list[str]
    rounding: float | None = None

    def __str__(self) -> str:
        parts = [
            f"kept {self.cells_written:,} of {self.cells_read:,} cells",
            f"dropped {_reasons(self.dropped) or 'none'}",
            f"normalised to {self.target_sum:g} counts and log1p",
            f"{len(self.variable_genes):,} variable genes",
        ]
        if self.rounding is not None:
            parts.insert(0, f"rounded to whole counts, which changed their sum by {self.rounding:+.2%}")
        if self.left_out:
            parts.append(f"not carried over: {', '.join(self.left_out)}")
        return " | ".join(parts)


def _reasons(dropped: Mapping[str, tuple[int, list[str]]]) -> str:
    """How many cells were dropped, by reason, with the perturbations of which all were."""
    reasons = []
    for reason, (cells, perturbations) in dropped.items():
        if cells:
            shown = ", ".join(perturbations[:5]) + (", ..." if len(perturbations) > 5 else "")
            which = f" ({len(perturbations)} perturbations: {shown})" if perturbations else ""
            reasons.append(f"{cells:,} cells {reason}{which}")
    return "; ".join(reasons)


def preprocess(
    source: str | Path,
    *,
    output: str | Path,
    layer: str | None = None,
    target_sum: float | Literal["median"] = "median",
    num_variable_genes: int = 2000,
    genes: Sequence[str] | None = None,
    knockdown: KnockdownFilter | None = None,
    perturbation_key: str = "perturbation",
    control: str | float = "non-targeting",
    distinct_case: bool = False,
    gene_column: str | None = None,
    keep_counts: bool = False,
    round_counts: bool = False,
    overwrite: bool = False,
) -> PreprocessReport:
    """Write a file of raw counts again as log1p of normalised counts, with the highly variable genes in `obsm`.

    The output has `X` (log1p, CSR float32), `obs`, `obsm` and `uns` of the cells that are kept, `var` with scanpy's
    columns `highly_variable`, `means`, `dispersions` and `dispersions_norm`, `obsm["X_hvg"]` (cells, variable genes)
    float32 with the names of its columns in `uns["X_hvg"]["var_names"]`, and in `uns["preprocess"]` how it was made.
    Of the input's `layers`, `raw`, `obsp`, `varm` and `varp` nothing is carried over, nor entries of `uns` that speak
    of these (as `neighbors` does of `obsp`); the report lists them. The input is read in blocks, three times, and never
    changed; the output appears when it is complete.

    Args:
        source: An .h5ad file with counts.
        output: The .h5ad file to write.
        layer: Where the counts are: `None` for X, "raw" for `raw.X`, or the name of a layer.
        target_sum: Counts that every cell is scaled to; "median" for the median over the cells that are kept.
        num_variable_genes: Number of highly variable genes (scanpy's flavor "seurat" on the cells that are kept).
        genes: Instead of choosing variable genes, take these, in this order: those that a model was trained on.
        knockdown: Thresholds of the on-target knock-down filter; `None` keeps all cells. It compares normalised counts,
            and keeps only control cells, perturbations that are named after a gene, and combinations of such.
        perturbation_key: Column of obs with the perturbations, for the filter.
        control: Label of control cells in that column, for the filter.
        distinct_case: Whether perturbations that differ in upper and lower case only are different things.
        gene_column: Column of var with the gene names that perturbations and `genes` use; `None` or "index" for its
            index.
        keep_counts: Whether the counts are written too, as `layers["counts"]`.
        round_counts: Whether counts with fractions, as corrections of ambient RNA (SoupX, CellBender) and shared reads
            (alevin, kallisto) leave them, are rounded to the nearest whole number, halves to the even one.
        overwrite: Whether an output that exists is replaced.

    Raises:
        FileNotFoundError: There is no such input.
        FileExistsError: The output exists.
        ValueError: The values are not counts, a gene name occurs twice or is missing, no cell (or, after the filter, no
            perturbed cell) is left, no gene varies, or the input changes while it is read.
    """
    source, output = Path(source), Path(output)
    _check(source, output, target_sum, num_variable_genes, genes, overwrite=overwrite)
    with open_cells(source).expression(layer) as cells:
        _check_scale(cells, rounded=round_counts)
        stamps = FileStamps(source)
        names = _gene_names(cells, gene_column)
        columns = _columns_of(names, genes, str(source)) if genes is not None else None
        counts = _Counts(cells, rounded=round_counts)
        targets = None
        if knockdown is not None:
            targets = KnockdownTargets.read(source, names, perturbation_key, control, distinct_case=distinct_case)
        survey = _survey(counts, targets)
        kept, dropped = _select(survey, knockdown)
        if not kept.any():
            raise ValueError(f"no cell of {source} is left: {_reasons(dropped)}")
        if targets is not None and (targets.codes[kept] == targets.control).all():
            raise ValueError(
                f"the knock-down filter leaves no perturbed cell of {source}: {_reasons(dropped)}. It is for "
                "perturbations that are named after the genes that they lower, by the names in var (or in one of its "
                "columns: gene_column=, --gene-column); leave it out, or choose other thresholds"
            )
        total = float(np.median(survey.totals[kept])) if target_sum == "median" else float(target_sum)
        chosen = _Kept(counts, kept, survey.totals, survey.lengths, total)
        var = cells.var.copy()
        if columns is None:
            ranking = _rank(chosen, num_variable_genes)
            columns = np.flatnonzero(ranking["highly_variable"])
            if not len(columns):
                raise ValueError(
                    f"no gene of {source} varies over the {int(kept.sum()):,} cells that are kept, so that none can be "
                    "chosen as variable: give more cells, or name the genes (genes=, --genes)"
                )
            for column in ranking:
                var[column] = ranking[column].to_numpy()
        record = {
            "scale": "log1p",
            "target_sum": total,
            "layer": layer or "X",
            "variable_genes": "given" if genes is not None else "seurat",
            "rounded": round_counts,
            "num_genes": cells.num_features,
            "genes_sha256": hashlib.sha256("\n".join(map(str, cells.var.index)).encode()).hexdigest(),
            "state_hf_version": __version__,
            **({f"knockdown_{name}": value for name, value in asdict(knockdown).items()} if knockdown else {}),
        }
        uns = {HVG_SLOT: {"var_names": names[columns]}, "log1p": {}, "preprocess": record}
        _check_space(output, chosen, len(columns), counts=keep_counts)
        with written_whole(output) as temporary:
            left_out = _write(temporary, chosen, var, columns, uns, keep_counts=keep_counts)
            stamps.check()
    return PreprocessReport(
        cells.num_cells, int(kept.sum()), dropped, total, names[columns].tolist(), left_out, counts.rounding
    )


def _check(
    source: Path,
    output: Path,
    target_sum: float | str,
    num_variable_genes: int,
    genes: Sequence[str] | None,
    *,
    overwrite: bool,
) -> None:
    if output.suffix != ".h5ad":
        raise ValueError(f"the output {output} must be an .h5ad file")
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"the output {output} is the input, which is never changed; name another file")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another name, or overwrite it (overwrite=True, --overwrite)")
    if target_sum != "median" and not (isinstance(target_sum, int | float) and target_sum > 0):
        raise ValueError(f"target_sum is a number above 0 or 'median', not {target_sum!r}")
    if genes is not None and not len(genes):
        raise ValueError("the list of genes to take (genes=, --genes) is empty")
    if genes is None and num_variable_genes < 1:
        raise ValueError(f"num_variable_genes is the number of genes to choose, from 1 on, not {num_variable_genes}")


def _check_scale(cells: CellMatrix, *, rounded: bool) -> None:
    """Refuse what a sample shows not to be counts. Small counts with fractions are the user's word against none."""
    seen, place = look_at_values(cells.sample(SCALE_SAMPLE)), cells.place
    if seen.total is not None:
        raise ValueError(
            f"{place} is normalised already: as log1p values, its cells add up to {seen.total:g} counts each. Name the "
            "layer with the counts (layer=, --layer)"
        )
    if not (rounded and seen.scale == "log1p"):
        hint = ", or round corrected counts to whole numbers (round_counts=True, --round)" if seen.scale else ""
        check_scale(seen, "counts", place, f"Name the layer with the counts (layer=, --layer){hint}")


def _gene_names(cells: CellMatrix, column: str | None) -> np.ndarray:
    column = None if column == "index" else column
    if column is not None and column not in cells.var:
        raise ValueError(f"var of {cells.name} has no column {column!r}; {nearest(column, list(map(str, cells.var)))}")
    names = (cells.var.index if column is None else cells.var[column]).astype(str)
    repeated = pd.Index(names)[pd.Index(names).duplicated()]
    if column is None and len(repeated):
        raise ValueError(
            f"{len(repeated)} gene names of {cells.name} occur twice, as {repeated[0]!r}; make them unique "
            "(adata.var_names_make_unique())"
        )
    return np.asarray(names, dtype=object)


def _columns_of(names: np.ndarray, genes: Sequence[str], place: str) -> np.ndarray:
    columns = pd.Index(names[~pd.Index(names).duplicated()]).get_indexer(list(genes))
    first = np.flatnonzero(~pd.Index(names).duplicated())
    missing = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
    if missing:
        hint = nearest(missing[0], names.tolist())
        raise ValueError(f"{place} lacks {len(missing)} of the {len(genes)} genes, as {missing[0]!r}; {hint}")
    return first[columns]


@dataclass(frozen=True, eq=False)
class _Survey:
    """What the first pass finds: counts and stored values of every cell, and expression of the target genes."""

    totals: np.ndarray
    lengths: np.ndarray
    targets: KnockdownTargets | None
    own_expression: np.ndarray
    control_sums: np.ndarray


def _block_starts(cells: CellMatrix, title: str) -> Iterator[tuple[int, int]]:
    step = max(1, int(_BLOCK_BYTES // max(cells.bytes_per_cell, 1)))
    starts = range(0, cells.num_cells, step)
    for start in logging.tqdm(starts, desc=title, unit="block"):
        yield start, min(start + step, cells.num_cells)


class _Counts:
    """The counts of a file in blocks, whole numbers.

    Attributes:
        cells: Where they are read.
        before: Sum of all counts as they are in the file, once all blocks were checked.
        after: Sum of all whole counts.
    """

    def __init__(self, cells: CellMatrix, *, rounded: bool) -> None:
        self.cells, self.rounded = cells, rounded
        self.before = self.after = 0.0

    @property
    def rounding(self) -> float | None:
        """Relative change of the sum by rounding; None where nothing was rounded."""
        return self.after / self.before - 1 if self.rounded and self.before != self.after else None

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """A block of counts without stored zeros, in canonical order."""
        block = self._stored(start, stop)
        if self.rounded:
            block.data = np.rint(block.data)
        block.eliminate_zeros()
        return block

    def read_checked(self, start: int, stop: int) -> sparse.csr_matrix:
        """The same in the first pass.

        Raises:
            ValueError: The values are no counts.
        """
        stored = self._stored(start, stop)
        self._check(stored.data)
        self.before += float(stored.sum(dtype=np.float64))
        block = self.read(start, stop)
        self.after += float(block.sum(dtype=np.float64))
        return block

    def _stored(self, start: int, stop: int) -> sparse.csr_matrix:
        block = sparse.csr_matrix(self.cells.block(start, stop))
        block.sum_duplicates()
        return block

    def _check(self, values: np.ndarray) -> None:
        bad, advice = ~np.isfinite(values) | (values < 0), "name the layer that does (layer=, --layer)"
        if not bad.any() and values.dtype.kind == "f" and not self.rounded:
            bad = values != np.rint(values)
            advice += ", or round corrected counts to whole numbers (round_counts=True, --round)"
        if bad.any():
            raise ValueError(f"{self.cells.place} does not hold raw counts: one value is {values[bad][0]:g}; {advice}")


def _survey(counts: _Counts, targets: KnockdownTargets | None) -> _Survey:
    cells = counts.cells
    totals, lengths = np.zeros(cells.num_cells), np.zeros(cells.num_cells, dtype=np.int64)
    own = np.zeros((cells.num_cells, 1 if targets is None else targets.columns.shape[1]))
    control_sums = np.zeros(cells.num_features)
    for start, stop in _block_starts(cells, "counting"):
        block = counts.read_checked(start, stop)
        totals[start:stop] = block.sum(axis=1, dtype=np.float64).A1
        lengths[start:stop] = np.diff(block.indptr)
        if targets is not None:
            codes = targets.codes[start:stop]
            shares = sparse.diags(_PER_CELL / np.maximum(totals[start:stop], 1.0)) @ block.astype(np.float64)
            for place, columns in enumerate(targets.columns.T):
                column = np.maximum(columns, 0)[codes]
                own[start:stop, place] = np.asarray(shares[np.arange(stop - start), column]).ravel()
            control_sums += np.asarray(shares[codes == targets.control].sum(axis=0)).ravel()
    return _Survey(totals, lengths, targets, own, control_sums)


def _select(survey: _Survey, knockdown: KnockdownFilter | None) -> tuple[np.ndarray, dict[str, tuple[int, list[str]]]]:
    """Which cells are kept, and for every reason what is dropped."""
    kept = survey.totals > 0
    dropped: dict[str, tuple[int, list[str]]] = {"without any count": (int((~kept).sum()), [])}
    targets = survey.targets
    if targets is None or knockdown is None:
        return kept, dropped
    num_controls = int((kept & (targets.codes == targets.control)).sum())
    result = filter_knockdown(
        targets.codes[kept],
        survey.own_expression[kept],
        targets.control_means(survey.control_sums, num_controls),
        targets.names,
        control=targets.control,
        thresholds=knockdown,
    )
    kept[kept] = result.kept
    return kept, dropped | result.dropped


@dataclass(frozen=True, eq=False)
class _Kept:
    """The cells that are kept, in blocks of counts, and how they are normalised."""

    counts: _Counts
    kept: np.ndarray
    totals: np.ndarray
    lengths: np.ndarray
    target_sum: float

    def blocks(self, title: str) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Row numbers in the input, and counts (cells, genes)."""
        for start, stop in _block_starts(self.counts.cells, title):
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


def _rank(kept: _Kept, num_variable_genes: int) -> pd.DataFrame:
    moments = GeneMoments(kept.num_genes)
    for rows, counts in kept.blocks("ranking genes"):
        block = kept.normalise(rows, counts)
        block.data = np.expm1(block.data)
        moments.add(block)
    return rank_variable_genes(moments.mean, moments.variance, num_genes=num_variable_genes)


def _check_space(output: Path, kept: _Kept, num_variable_genes: int, *, counts: bool) -> None:
    """Refuses to begin what the disk cannot hold; HDF5 itself may not survive a full disk."""
    values = int(kept.lengths[kept.kept].sum()) * (1 + counts)
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
    step = max(1, _BLOCK_BYTES // max(1, source.dtype.itemsize * int(np.prod(source.shape[1:]))))
    for start in range(0, source.shape[0], step):
        first, last = np.searchsorted(rows, [start, start + step])
        copy[first:last] = np.asarray(source[start : start + step])[rows[first:last] - start]


def _write(
    path: Path,
    kept: _Kept,
    var: pd.DataFrame,
    columns: np.ndarray,
    uns: dict[str, Any],
    *,
    keep_counts: bool,
) -> list[str]:
    """Write the output. Returns the slots of the input that it lacks."""
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
        slots += [slot.removesuffix("/X") for slot in ("X", "raw/X") if slot in old.slots()]
    return [*_lacking(slots, kept.counts.cells.slot, keep_counts=keep_counts), *dangling]


def _lacking(slots: list[str], read: str, *, keep_counts: bool) -> list[str]:
    """Which slots of the input the output lacks, when its counts were read from one of them."""
    lacking = []
    for slot in sorted(slots):
        if slot == read.removesuffix("/X") and (keep_counts or slot == "X"):
            continue
        was = {"X": " (as it was)", "layers/counts": " (as it was)" if keep_counts else ""}
        lacking.append(slot + was.get(slot, ""))
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
