"""How well a State Embedding model decodes the expression of cells that it did not train on."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from state_hf.data.corpus.cell_corpus import CorpusCells
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression
from state_hf.training.expression_targets import ExpressionTargets


class RunningCorrelation:
    """Pearson correlations of rows or columns that come in blocks.

    Args:
        size: Number of correlations, one a column.
    """

    def __init__(self, size: int) -> None:
        self.count = np.zeros(size)
        self.sums = np.zeros((5, size))

    def add(self, one: np.ndarray, other: np.ndarray, known: np.ndarray) -> None:
        """Take (rows, size) values of both in, where `known`."""
        one, other = np.where(known, one, 0.0).astype(np.float64), np.where(known, other, 0.0).astype(np.float64)
        self.count += known.sum(axis=0)
        for place, product in enumerate((one, other, one * one, other * other, one * other)):
            self.sums[place] += product.sum(axis=0)

    def value(self) -> np.ndarray:
        """(size,) correlations; NaN where one side does not vary."""
        n = np.maximum(self.count, 1)
        one, other, one_squared, other_squared, both = self.sums / n
        variances = (one_squared - one**2) * (other_squared - other**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            varies = variances > 1e-12
            return np.where(varies, (both - one * other) / np.sqrt(np.where(varies, variances, 1.0)), np.nan)


@torch.no_grad()
def decoded_expression_pearson(
    model: StateEmbeddingForMaskedExpression,
    batches: Iterable[Sequence[CorpusCells]],
    collator: ExpressionTargets,
    genes: np.ndarray,
) -> dict[str, float]:
    """Correlate decoded with measured log1p expression.

    The model sees what it is to decode, but for the genes that `collator` hides.

    Args:
        model: In evaluation mode.
        batches: Cells, as `CellCorpus` gives them.
        collator: Makes the sentences.
        genes: (genes,) rows of the vocabulary to decode.

    Returns:
        `pearson_genes`, the mean over genes of the correlation along cells; and `pearson_cells`, the mean over cells of
        that along genes. Genes or cells without variation, and genes that a file does not have, are left out.
    """
    along_cells, cellwise = RunningCorrelation(len(genes)), []
    gene_ids = torch.from_numpy(genes).to(model.device)
    for cells in batches:
        batch = collator(cells)
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "expression")}
        encoded = model.state_embedding(**inputs, output_genes=False)
        truth, known = expression_of_genes(cells, genes)
        truth, known = truth.repeat(collator.views, axis=0), known.repeat(collator.views, axis=0)
        depth = torch.from_numpy(_mean_of_expressed(cells).repeat(collator.views)).to(model.device)
        decoded = model.decode_expression(
            encoded.cell_embedding, gene_ids, read_depth=depth, dataset_embedding=encoded.dataset_embedding
        )
        values = decoded.float().cpu().numpy()
        along_cells.add(values, truth, known)
        of_cells = RunningCorrelation(len(values))
        of_cells.add(values.T, truth.T, known.T)
        cellwise.append(of_cells.value())
    return {
        "pearson_genes": _mean(along_cells.value()),
        "pearson_cells": _mean(np.concatenate(cellwise)) if cellwise else float("nan"),
    }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def expression_of_genes(cells: Sequence[CorpusCells], genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log1p expression (cells, genes) of rows of the vocabulary, and whether each cell's file has the gene."""
    rows, known = [], []
    for part in cells:
        place = np.full(part.source.genes.vocabulary_size, -1)
        columns = part.source.genes.columns
        place[columns[columns >= 0]] = np.flatnonzero(columns >= 0)
        chosen = place[genes]
        dense = part.counts[:, np.maximum(chosen, 0)].toarray() * (chosen >= 0)
        rows.append(np.log1p(dense) if part.source.file.scale == "counts" else dense)
        known.append(np.broadcast_to(chosen >= 0, dense.shape))
    return np.concatenate(rows).astype(np.float32), np.concatenate(known)


def _mean_of_expressed(cells: Sequence[CorpusCells]) -> np.ndarray:
    """Mean log1p expression of each cell's expressed genes of the vocabulary: its read depth."""
    depths = []
    for part in cells:
        known = part.source.genes.columns[part.counts.indices] >= 0
        values = np.log1p(part.counts.data) if part.source.file.scale == "counts" else part.counts.data
        cell = np.repeat(np.arange(part.counts.shape[0]), np.diff(part.counts.indptr))
        counted = known & (values > 0)
        total = np.bincount(cell, values * counted, minlength=part.counts.shape[0])
        depths.append(total / np.maximum(np.bincount(cell, counted, minlength=part.counts.shape[0]), 1))
    return np.concatenate(depths).astype(np.float32)


def variable_genes(batches: Iterable[Sequence[CorpusCells]], vocabulary_size: int, number: int) -> np.ndarray:
    """(at most `number`,) rows of the vocabulary whose log1p expression varies most over cells, ascending."""
    count, total, squares = 0, np.zeros(vocabulary_size), np.zeros(vocabulary_size)
    for cells in batches:
        for part in cells:
            genes = part.source.genes.columns[part.counts.indices]
            values = np.log1p(part.counts.data) if part.source.file.scale == "counts" else part.counts.data
            count += part.counts.shape[0]
            total += np.bincount(genes[genes >= 0], values[genes >= 0], minlength=vocabulary_size)
            squares += np.bincount(genes[genes >= 0], values[genes >= 0] ** 2, minlength=vocabulary_size)
    variances = squares / max(count, 1) - (total / max(count, 1)) ** 2
    best = np.argsort(-variances, kind="stable")[:number]
    return np.sort(best[variances[best] > 0])


__all__ = ["RunningCorrelation", "decoded_expression_pearson", "expression_of_genes", "variable_genes"]
