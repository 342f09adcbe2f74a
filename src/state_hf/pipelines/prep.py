"""Submission files of the Virtual Cell Challenge: the 2025 archive is written, the 2026 counts file is checked."""

import csv
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from transformers.utils.logging import tqdm

from state_hf.configuration.advice import refuse_existing
from state_hf.configuration.near_names import near_matches
from state_hf.configuration.wording import listed
from state_hf.data.cells.cell_copies import copy_store
from state_hf.data.screens.prediction_record import recorded_labels
from state_hf.data.screens.vcc_archive import compressed_size, pack
from state_hf.metrics.input_check import (
    INTEGER_TOLERANCE,
    LOGNORM_LIMIT,
    gene_differences,
    problem_list,
    value_problems,
)
from state_hf.metrics.label_columns import read_label_column
from state_hf.metrics.labelled_cells import LabelledCells
from state_hf.metrics.value_check import ValueSummary, summarize_values

MAX_CELLS_2025 = 200_000
GENES_2025 = 18_080
GENES_2026 = 18_533
MAX_COUNTS_PER_CELL_2026 = 1_000_000
_BLOCK_VALUES = 2**24


@dataclass
class SubmissionPlan:
    """A checked prediction and what the submission file made of it will be.

    Args:
        prediction: The cells, genes in any order.
        genes: The expected genes, in order.
        labels: One row a cell: the label columns of the file.
        reorder: Whether the genes have to be brought into order.
        median_total: Library size that counts are normalised to before log1p, or None where values stay as they are.
        totals: Total counts of each cell.
        nonzero: Number of values that are stored.
        uncompressed_bytes, compressed_bytes: Size of the .h5ad inside the archive, and an estimate of the archive's.
    """

    prediction: LabelledCells
    genes: list[str]
    labels: pd.DataFrame
    reorder: bool
    median_total: float | None
    totals: np.ndarray
    nonzero: int
    uncompressed_bytes: int
    compressed_bytes: int


def read_gene_list(path: str | Path) -> list[str]:
    """The first column of a CSV file without a header, as the challenge hands out its gene list."""
    with Path(path).open(newline="", encoding="utf-8") as lines:
        genes = [row[0].strip() for row in csv.reader(lines) if row and row[0].strip()]
    repeated = sorted({gene for gene in genes if genes.count(gene) > 1}) if len(set(genes)) < len(genes) else []
    if not genes or repeated:
        raise ValueError(f"{path} lists {'no gene' if not genes else f'genes more than once: {listed(repeated)}'}")
    return genes


def plan_submission(
    prediction: LabelledCells,
    genes: Sequence[str],
    *,
    perturbation_key: str | None = None,
    control: str | float | None = None,
    cell_type_key: str | None = None,
    keep_scale: bool = False,
    max_cells: int = MAX_CELLS_2025,
) -> SubmissionPlan:
    """Check a prediction against the rules of 2025 and work out the size of its submission file.

    Args:
        prediction: Predicted cells and controls: counts, or log1p-normalised values. May be backed.
        genes: The expected genes, in order (18,080 in the challenge).
        perturbation_key: Column of `obs` with the perturbation labels; the file calls it `target_gene`. By default that
            which `predict` recorded, else "perturbation".
        control: Label of the control cells. By default the recorded one, else "non-targeting".
        cell_type_key: Column of `obs` with the cell types, if the file shall have one; it is called `celltype` there.
        keep_scale: Write integers as they are. Otherwise counts are normalised to the median library size and log1p'd.
        max_cells: Largest number of cells.

    Returns:
        The plan, for `write_submission`.

    Raises:
        ValueError: With the numbered list of all rules that the prediction breaks.
        ImportError: If `zstandard` is not installed.
    """
    perturbation_key, control = recorded_labels(prediction, perturbation_key, control)
    problems = _layout_problems(prediction, genes, perturbation_key, cell_type_key)
    labels = read_label_column(prediction.obs[perturbation_key]).labels if perturbation_key in prediction.obs else None
    if labels is not None and control not in labels:
        near = near_matches([control], labels).get(control)
        hint = "" if near is None else f"; did you mean {near!r}?"
        problems.append(f"no cell has the control label {control!r} in obs[{perturbation_key!r}]{hint}")
    if prediction.n_obs > max_cells:
        problems.append(f"{prediction.n_obs:,} cells, {max_cells:,} are allowed")
    summary = summarize_values(prediction.X, integer_tolerance=INTEGER_TOLERANCE["lognorm"])
    problems += value_problems(summary, prediction, "lognorm", "prediction")
    if keep_scale and not summary.fractional and summary.maximum >= LOGNORM_LIMIT:
        problems.append(
            f"the values shall stay as they are, but the largest, {summary.maximum:g}, is no log-normalised one"
        )
    if problems:
        raise ValueError(problem_list("The prediction breaks the rules of the 2025 submission", problems))
    columns = {"target_gene": perturbation_key} | ({"celltype": cell_type_key} if cell_type_key else {})
    plan = SubmissionPlan(
        prediction=prediction,
        genes=list(genes),
        labels=pd.DataFrame(
            {name: read_label_column(prediction.obs[column]).texts for name, column in columns.items()},
            index=np.arange(prediction.n_obs).astype(str),
        ),
        reorder=list(prediction.var_names) != list(genes),
        median_total=None if keep_scale or summary.fractional else _median_total(summary),
        totals=summary.totals,
        nonzero=summary.nonzero,
        uncompressed_bytes=0,
        compressed_bytes=0,
    )
    _estimate_sizes(plan)
    return plan


def write_submission(plan: SubmissionPlan, output: str | Path, *, overwrite: bool = False) -> Path:
    """Write the 2025 submission file: float32 CSR in an .h5ad, compressed, watermarked, read back and checked.

    Args:
        plan: What `plan_submission` returned.
        output: The file to write, ending in `.prep.vcc`.
        overwrite: Whether a file that exists is replaced.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: The file exists, and is not to be replaced.
        ValueError: If the name does not end in `.prep.vcc`.
        OSError: If the disk is too small or the file does not read back as written.
    """
    output = Path(output)
    if not output.name.endswith(".prep.vcc"):
        raise ValueError(f"a submission file is named *.prep.vcc, not {output.name!r}")
    refuse_existing(output, overwrite=overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    needed, free = plan.uncompressed_bytes + 2 * plan.compressed_bytes, shutil.disk_usage(output.parent).free
    if needed > free:
        raise OSError(f"writing {output} takes about {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        h5ad = Path(folder, "pred.h5ad")
        _write_h5ad(plan, h5ad)
        _check_h5ad(plan, h5ad)
        pack(h5ad, Path(folder, output.name))
        Path(folder, output.name).replace(output)
    return output


def check_counts_submission(
    prediction: LabelledCells,
    genes: Sequence[str],
    *,
    perturbation_key: str | None = None,
    max_counts_per_cell: float = MAX_COUNTS_PER_CELL_2026,
) -> ValueSummary:
    """Check a prediction against the rules of 2026: raw counts on the challenge's gene axis, in its order.

    Args:
        prediction: Predicted cells, any number for each perturbation. May be backed.
        genes: The expected genes, in order (18,533 in the challenge).
        perturbation_key: Column of `obs` with the perturbation labels. By default that which `predict` recorded, else
            "perturbation".
        max_counts_per_cell: Largest total of one cell.

    Returns:
        What the values are.

    Raises:
        ValueError: With the numbered list of all rules that the prediction breaks.
    """
    perturbation_key, _ = recorded_labels(prediction, perturbation_key, None)
    problems = _layout_problems(prediction, genes, perturbation_key, None)
    if not problems and list(prediction.var_names) != list(genes):
        problems.append("the genes are the expected ones but in another order: reorder with prediction[:, genes]")
    summary = summarize_values(prediction.X, integer_tolerance=INTEGER_TOLERANCE["counts"])
    problems += value_problems(summary, prediction, "counts", "prediction", max_counts_per_cell=max_counts_per_cell)
    if problems:
        raise ValueError(problem_list("The prediction breaks the rules of the 2026 submission", problems))
    return summary


def _layout_problems(
    prediction: LabelledCells, genes: Sequence[str], perturbation_key: str, cell_type_key: str | None
) -> list[str]:
    if prediction.X is None:
        raise ValueError("the prediction has no X")
    problems = gene_differences(prediction.var_names, genes, "prediction", "the gene list")
    if not prediction.var_names.is_unique:
        repeated = prediction.var_names[prediction.var_names.duplicated()].unique()
        problems.append(f"genes named more than once: {listed(list(repeated))}")
    for column in (perturbation_key, cell_type_key):
        if column is None:
            continue
        if column not in prediction.obs:
            problems.append(f"no obs column {column!r} (columns: {listed(list(prediction.obs.columns)) or 'none'})")
        elif (read := read_label_column(prediction.obs[column])).unlabelled:
            problems.append(f"{read.unlabelled:,} cells without a label in obs[{column!r}]{read.missing()}")
    return problems


def _median_total(summary: ValueSummary) -> float:
    positive = summary.totals[summary.totals > 0]
    if not positive.size:
        raise ValueError("every cell of the prediction is empty")
    return float(np.median(positive))


def _blocks(plan: SubmissionPlan) -> Iterator[sparse.csr_matrix]:
    """The cells in blocks, as they stand in the file: genes in order, normalised, float32, sorted, no stored zeros."""
    matrix: Any = plan.prediction.X
    if getattr(matrix, "format", None) == "csc":
        # Rows of a column-major file would each read the whole file.
        matrix = sparse.csr_matrix(matrix.to_memory() if hasattr(matrix, "to_memory") else matrix)
    order = plan.prediction.var_names.get_indexer(pd.Index(plan.genes)) if plan.reorder else None
    step = max(1, _BLOCK_VALUES // len(plan.genes))
    for start in range(0, plan.prediction.n_obs, step):
        block = sparse.csr_matrix(matrix[start : start + step], dtype=np.float64)
        if order is not None:
            block = block[:, order]
        if plan.median_total is not None:
            totals = plan.totals[start : start + step]
            factors = np.divide(plan.median_total, totals, out=np.zeros_like(totals), where=totals > 0)
            block.data *= np.repeat(factors, np.diff(block.indptr))
            np.log1p(block.data, out=block.data)
        block.eliminate_zeros()
        block.sort_indices()
        yield block.astype(np.float32)


def _estimate_sizes(plan: SubmissionPlan) -> None:
    label_bytes = int(plan.labels.map(len).to_numpy().sum()) + sum(map(len, plan.genes)) + 8 * plan.prediction.n_obs
    plan.uncompressed_bytes = 8 * plan.nonzero + label_bytes
    first = next(_blocks(plan), None)
    if first is None or not first.nnz:
        raise ValueError("the prediction has no cells with expression")
    sample = first.data.tobytes() + first.indices.astype(np.int32).tobytes()
    plan.compressed_bytes = int(plan.uncompressed_bytes * compressed_size(sample) / len(sample))


def _write_h5ad(plan: SubmissionPlan, path: Path) -> None:
    copy_store(AnnData(obs=plan.labels.astype("category"), var=pd.DataFrame(index=plan.genes)), path)
    pointer_type = np.int32 if plan.nonzero < 2**31 else np.int64
    with h5py.File(path, "r+") as file:
        if "X" in file:
            del file["X"]
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = (plan.prediction.n_obs, len(plan.genes))
        data = group.create_dataset("data", (plan.nonzero,), np.float32)
        indices = group.create_dataset("indices", (plan.nonzero,), np.int32)
        pointers = np.zeros(plan.prediction.n_obs + 1, dtype=pointer_type)
        row = written = 0
        with tqdm(total=plan.prediction.n_obs, desc="Writing cells", unit="cell") as progress:
            for block in _blocks(plan):
                stop = written + block.nnz
                data[written:stop], indices[written:stop] = block.data, block.indices
                pointers[row + 1 : row + 1 + block.shape[0]] = written + block.indptr[1:]
                row, written = row + block.shape[0], stop
                progress.update(block.shape[0])
        group.create_dataset("indptr", data=pointers)


def _check_h5ad(plan: SubmissionPlan, path: Path) -> None:
    """Read the file as its reader will and compare all that can be known beforehand."""
    written = anndata.read_h5ad(path, backed="r")
    try:
        faults = [
            name
            for name, wrong in {
                "genes": list(written.var_names) != plan.genes,
                "labels": any(list(written.obs[name]) != list(column) for name, column in plan.labels.items()),
                "value type": written.X.dtype != np.float32,
                "number of values": written.X.group["indptr"][-1] != plan.nonzero,
            }.items()
            if wrong
        ]
    finally:
        written.file.close()
    if faults:
        raise OSError(f"{path.name} did not read back as written: {', '.join(faults)} differ")
