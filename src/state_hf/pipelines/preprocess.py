"""From raw counts to what State Transition trains on: normalised, logged, variable genes named, knock-downs checked."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from state_hf._version import __version__
from state_hf.configuration.advice import Advised, refuse_existing
from state_hf.configuration.near_names import nearest
from state_hf.configuration.wording import counted
from state_hf.data.cells.locations import as_location
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.file_stamps import FileStamps
from state_hf.data.screens.highly_variable import GeneMoments, rank_variable_genes
from state_hf.data.screens.knockdown_filter import KnockdownFilter, filter_knockdown
from state_hf.data.screens.knockdown_targets import KnockdownTargets
from state_hf.data.screens.preprocessed_file import HVG_SLOT, KeptCells, check_space, write_preprocessed
from state_hf.data.whole_counts import WholeCounts, check_sampled_counts
from state_hf.data.whole_files import written_whole

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
        reference_depth: Counts that a cell has at most; None where none were taken away.
        thinned: Number of cells, of those read, that lost counts to have no more.
    """

    cells_read: int
    cells_written: int
    dropped: dict[str, tuple[int, list[str]]]
    target_sum: float
    variable_genes: list[str]
    left_out: list[str]
    rounding: float | None = None
    reference_depth: int | None = None
    thinned: int = 0

    def __str__(self) -> str:
        parts = [
            f"kept {self.cells_written:,} of {self.cells_read:,} cells",
            f"dropped {_reasons(self.dropped) or 'none'}",
            f"normalised to {self.target_sum:g} counts and log1p",
            f"{len(self.variable_genes):,} variable genes",
        ]
        if self.rounding is not None:
            parts.insert(0, f"rounded to whole counts, which changed their sum by {self.rounding:+.2%}")
        if self.reference_depth is not None:
            parts.insert(0, f"thinned {counted(self.thinned, 'cell')} to {self.reference_depth:,} counts")
        if self.left_out:
            parts.append(f"not carried over: {', '.join(self.left_out)}")
        return " | ".join(parts)


def _reasons(dropped: Mapping[str, tuple[int, list[str]]]) -> str:
    """How many cells were dropped, by reason, with the perturbations of which all were."""
    reasons = []
    for reason, (cells, perturbations) in dropped.items():
        if cells:
            shown = ", ".join(perturbations[:5]) + (", ..." if len(perturbations) > 5 else "")
            which = f" ({counted(len(perturbations), 'perturbation')}: {shown})" if perturbations else ""
            reasons.append(f"{counted(cells, 'cell')} {reason}{which}")
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
    reference_depth: int | None = None,
    seed: int = 0,
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
        reference_depth: Counts that a cell has at most: of cells that have more, so many of their molecules are drawn,
            without replacement. So cells of contexts that were sequenced more deeply, or of treated and control cells
            of different depths, become alike before they are normalised. Cells that have fewer stay as they are.
        seed: Seed of that draw.
        overwrite: Whether an output that exists is replaced.

    Raises:
        FileNotFoundError: There is no such input.
        FileExistsError: The output exists.
        ValueError: The values are not counts, a gene name occurs twice or is missing, no cell (or, after the filter, no
            perturbed cell) is left, no gene varies, or the input changes while it is read.
    """
    source, output = as_location(source), Path(output)
    _check(source, output, target_sum, num_variable_genes, genes, overwrite=overwrite)
    if reference_depth is not None and reference_depth < 1:
        raise ValueError(f"reference_depth is a number of counts from 1 on, not {reference_depth}")
    with open_cells(source).expression(layer) as cells:
        check_sampled_counts(cells, rounded=round_counts)
        stamps = FileStamps(source)
        names = _gene_names(cells, gene_column)
        columns = _columns_of(names, genes, str(source)) if genes is not None else None
        counts = WholeCounts(cells, rounded=round_counts, reference_depth=reference_depth, seed=seed)
        targets = None
        if knockdown is not None:
            targets = KnockdownTargets.read(source, names, perturbation_key, control, distinct_case=distinct_case)
        survey = _survey(counts, targets)
        kept, dropped = _select(survey, knockdown)
        if not kept.any():
            raise ValueError(f"no cell of {source} is left: {_reasons(dropped)}")
        if targets is not None and (targets.codes[kept] == targets.control).all():
            raise ValueError(
                Advised(
                    f"the knock-down filter leaves no perturbed cell of {source}: {_reasons(dropped)}. It is for "
                    "perturbations that are named after the genes that they lower, by the names in var",
                    "name the column of var that has such names (gene_column=...)",
                    "leave the filter out",
                    "choose other thresholds",
                )
            )
        total = float(np.median(survey.totals[kept])) if target_sum == "median" else float(target_sum)
        chosen = KeptCells(counts, kept, survey.totals, survey.lengths, total)
        var = cells.var.copy()
        if columns is None:
            ranking = _rank(chosen, num_variable_genes)
            columns = np.flatnonzero(ranking["highly_variable"])
            if not len(columns):
                problem = f"no gene of {source} varies over the {int(kept.sum()):,} cells that are kept, so that none "
                raise ValueError(
                    Advised(f"{problem}can be chosen as variable", "give more cells", "name the genes (genes=...)")
                )
            for column in ranking:
                var[column] = ranking[column].to_numpy()
        record = {
            "scale": "log1p",
            "target_sum": total,
            "layer": layer or "X",
            "variable_genes": "given" if genes is not None else "seurat",
            "rounded": round_counts,
            **({} if reference_depth is None else {"reference_depth": reference_depth, "seed": seed}),
            "num_genes": cells.num_features,
            "genes_sha256": hashlib.sha256("\n".join(map(str, cells.var.index)).encode()).hexdigest(),
            "state_hf_version": __version__,
            **({f"knockdown_{name}": value for name, value in asdict(knockdown).items()} if knockdown else {}),
        }
        uns = {HVG_SLOT: {"var_names": names[columns]}, "log1p": {}, "preprocess": record}
        check_space(output, chosen, len(columns), counts=keep_counts)
        with written_whole(output) as temporary:
            left_out = write_preprocessed(temporary, chosen, var, columns, uns, keep_counts=keep_counts)
            stamps.check()
    return PreprocessReport(
        cells.num_cells,
        int(kept.sum()),
        dropped,
        total,
        names[columns].tolist(),
        left_out,
        counts.rounding,
        reference_depth,
        counts.thinned,
    )


def _check(
    source: str | Path,
    output: Path,
    target_sum: float | str,
    num_variable_genes: int,
    genes: Sequence[str] | None,
    *,
    overwrite: bool,
) -> None:
    if output.suffix != ".h5ad":
        raise ValueError(f"the output {output} must be an .h5ad file")
    if output.exists() and isinstance(source, Path) and source.exists() and output.samefile(source):
        raise ValueError(f"the output {output} is the input, which is never changed; name another file")
    refuse_existing(output, overwrite=overwrite)
    if target_sum != "median" and not (isinstance(target_sum, int | float) and target_sum > 0):
        raise ValueError(f"target_sum is a number above 0 or 'median', not {target_sum!r}")
    if genes is not None and not len(genes):
        raise ValueError("the list of genes to take is empty")
    if genes is None and num_variable_genes < 1:
        raise ValueError(f"num_variable_genes is the number of genes to choose, from 1 on, not {num_variable_genes}")


def _gene_names(cells: CellMatrix, column: str | None) -> np.ndarray:
    column = None if column == "index" else column
    if column is not None and column not in cells.var:
        raise ValueError(f"var of {cells.name} has no column {column!r}; {nearest(column, list(map(str, cells.var)))}")
    names = (cells.var.index if column is None else cells.var[column]).astype(str)
    repeated = pd.Index(names)[pd.Index(names).duplicated()]
    if column is None and len(repeated):
        raise ValueError(
            f"the genes of {cells.name} repeat names ({len(repeated):,}, as {repeated[0]!r}); make them unique "
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


def _survey(counts: WholeCounts, targets: KnockdownTargets | None) -> _Survey:
    cells = counts.cells
    totals, lengths = np.zeros(cells.num_cells), np.zeros(cells.num_cells, dtype=np.int64)
    own = np.zeros((cells.num_cells, 1 if targets is None else targets.columns.shape[1]))
    control_sums = np.zeros(cells.num_features)
    for start, stop in counts.block_starts("counting"):
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


def _rank(kept: KeptCells, num_variable_genes: int) -> pd.DataFrame:
    moments = GeneMoments(kept.num_genes)
    for rows, counts in kept.blocks("ranking genes"):
        block = kept.normalise(rows, counts)
        block.data = np.expm1(block.data)
        moments.add(block)
    return rank_variable_genes(moments.mean, moments.variance, num_genes=num_variable_genes)
