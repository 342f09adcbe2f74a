"""How well a fine-tuned model labels the cells that were held out, beside simple models of the same split."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import sparse

from state_hf.analysis.label_scores import class_scores, confusion, per_class_scores, regression_scores
from state_hf.analysis.simple_models import VariableGeneModels
from state_hf.data.cells.group_split import LabelledSplit
from state_hf.data.cells.stored_matrix import CellMatrix

_BLOCK_CELLS = 1024


def blocks_of(cells: CellMatrix) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """First cell and expression of every block of cells, in order."""
    for start in range(0, cells.num_cells, _BLOCK_CELLS):
        yield start, cells.block(start, start + _BLOCK_CELLS)


def scores_of_split(
    predictions: pd.DataFrame,
    labels: np.ndarray,
    split: LabelledSplit,
    names: list[str],
    cells: CellMatrix,
    *,
    is_counts: bool,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    """The table of scores with the baselines, per class, and the confusion matrix; the last two None for a regression.

    Args:
        predictions: Of the cells of the part "test", with the columns `label` and `predicted`.
        labels: (cells,) of all cells.
        split: The parts.
        names: The classes; none for a regression.
        cells: The expression of all cells.
        is_counts: Whether that are counts.
        seed: Of the baselines.
    """
    truth, predicted = predictions["label"].to_numpy(), predictions["predicted"].to_numpy()
    rows = {part: split.rows[part] for part in ("train", "test")}
    # The baseline reads the cells that it needs, as sparse rows.
    kept = {
        part: sparse.vstack([b[np.isin(np.arange(s, s + b.shape[0]), own)] for s, b in blocks_of(cells)], format="csr")
        for part, own in rows.items()
    }
    baseline = VariableGeneModels(is_counts=is_counts, by_class=bool(names), seed=seed)
    simple = baseline.fit(kept["train"], labels[rows["train"]]).predict(kept["test"])
    if not names:
        mean = np.full(len(truth), labels[rows["train"]].mean())
        columns = {"fine-tuned": predicted, **simple, "mean": mean}
        table = pd.DataFrame({name: regression_scores(truth, found) for name, found in columns.items()}).T
        return table, None, None
    train_names, counts = np.unique(labels[rows["train"]].astype(str), return_counts=True)
    majority = np.full(len(truth), train_names[counts.argmax()], dtype=object)
    columns = {"fine-tuned": predicted, **simple, "majority": majority}
    truth = truth.astype(str)
    table = pd.DataFrame({name: class_scores(truth, found.astype(str)) for name, found in columns.items()}).T
    known = sorted({*names, *truth})
    return table, per_class_scores(truth, predicted.astype(str), known), confusion(truth, predicted.astype(str), known)


__all__ = ["blocks_of", "scores_of_split"]
