"""The matrix of cells that a tokenizer reads, as checked CSR, and the loop of kernels over its cells."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from transformers.utils import logging

from state_hf.tokenization import _row_kernels
from state_hf.tokenization.feature_types import expression_features
from state_hf.tokenization.gene_names import GeneReport

logger = logging.get_logger(__name__)


def layer_names(adata: Any) -> list[str]:
    """Names of the layers of an AnnData; for anndata 0.13, `X` is one of them, whose name is `None`."""
    return [name for name in adata.layers if name is not None]


def expression_of(adata: Any, *, layer: str | None = None) -> tuple[Any, Any]:
    """The expression matrix of an AnnData, in memory, and the annotation of its genes.

    Args:
        adata: An AnnData: in memory, backed, or a view.
        layer: Name of a layer; `"raw"` is `adata.raw`, if no layer is called so. By default `X`.

    Returns:
        The (cells, genes) matrix, and the matching `var`, without features that are not gene expression.

    Raises:
        ValueError: If there is no such layer, no `X`, or no gene expression in it.
    """
    if layer is None:
        matrix, var = adata.X, adata.var
    elif layer in adata.layers:
        matrix, var = adata.layers[layer], adata.var
    elif layer == "raw" and adata.raw is not None:
        matrix, var = adata.raw.X, adata.raw.var
    else:
        held = ", ".join([*layer_names(adata), *(["raw"] if adata.raw is not None else [])]) or "none"
        raise ValueError(f"The AnnData has no layer {layer!r}; it has: {held}.")
    if matrix is None:
        raise ValueError("The AnnData has no X: choose a layer.")
    # What a backed AnnData hands out knows how to read itself.
    matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix[:]
    found = expression_features(var, "the AnnData")
    if not found.others:
        return matrix, var
    logger.warning_once(f"the AnnData: {found.note}")
    return matrix[:, np.flatnonzero(found.is_expression)], var[found.is_expression]


def as_csr(cells: Any) -> sp.csr_array:
    """A (cells, genes) matrix of any layout and number type as CSR of float32.

    Raises:
        ValueError: It has not two dimensions, or does not hold numbers.
    """
    if not sp.issparse(cells):
        cells = np.asarray(cells)
    if cells.ndim != 2:
        raise ValueError(f"The expression matrix has {cells.ndim} dimensions; it has to be (cells, genes).")
    if cells.dtype.kind not in "uif":
        raise ValueError(f"The expression matrix is of type {cells.dtype}; it has to hold integers or floats.")
    # What is too large for float32 becomes infinite, which is then refused.
    with np.errstate(over="ignore"):
        return sp.csr_array(cells.astype(np.float32, copy=False))


def over_cells(loop: Callable[..., None], number: int) -> None:
    """Run a kernel over ranges of cells in threads: it releases the GIL, and threads survive a fork of data workers."""
    threads = max(1, min(torch.get_num_threads(), number // 16))
    bounds = np.linspace(0, number, threads + 1).astype(int).tolist()
    if threads == 1:
        loop(0, number)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(loop, bounds[:-1], bounds[1:]))


def inspected(cells: sp.csr_array, report: GeneReport) -> tuple[sp.csr_array, np.ndarray]:
    """The cells with repeated entries summed, and the number of known genes that each expresses.

    Raises:
        ValueError: A value is NaN, infinite or negative (the message names the first, its gene and its cell).
    """
    expressed, invalid, repeated = np.zeros((3, cells.shape[0]), np.int64)
    arrays = {"data": cells.data, "indices": cells.indices, "indptr": cells.indptr, "columns": report.columns}
    counters = {"expressed": expressed, "invalid": invalid, "repeated": repeated}
    over_cells(partial(_row_kernels.inspect_cells, **arrays, **counters), cells.shape[0])
    if repeated.any():
        cells = cells.copy()
        cells.has_canonical_format = False
        cells.sum_duplicates()
        return inspected(cells, report)
    if invalid.any():
        cell = int(np.flatnonzero(invalid)[0])
        row = slice(cells.indptr[cell], cells.indptr[cell + 1])
        values, genes = cells.data[row], cells.indices[row]
        at = int(np.flatnonzero(~((values >= 0) & (values < np.inf)))[0])
        raise ValueError(
            f"{invalid.sum():,} values in {np.count_nonzero(invalid):,} of {cells.shape[0]:,} cells are NaN, infinite "
            f"or negative; the first is {values[at]} of gene {report.names[genes[at]]} in cell {cell}."
        )
    return cells, expressed


def with_columns_summed(cells: sp.csr_array, report: GeneReport, *, is_counts: bool) -> sp.csr_array:
    """The cells with the values of several columns of one gene added up in one of these, the others 0.

    Args:
        cells: (cells, dataset genes), inspected.
        report: The vocabulary's row of every column.
        is_counts: Whether the values are counts; else they are log1p of normalised ones, which are added as they were
            before the log.
    """
    summed = sp.csr_array((cells.data.copy(), cells.indices, cells.indptr), shape=cells.shape)
    arrays = {"data": summed.data, "indices": cells.indices, "indptr": cells.indptr, "columns": report.columns}
    loop = partial(_row_kernels.sum_columns, **arrays, num_genes=report.vocabulary_size, is_counts=is_counts)
    over_cells(loop, cells.shape[0])
    return summed


__all__ = ["as_csr", "expression_of", "inspected", "over_cells", "with_columns_summed"]
