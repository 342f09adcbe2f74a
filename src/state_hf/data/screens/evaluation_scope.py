"""What of a prediction and a screen is scored: the groups that were held out, and the genes that both have."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from state_hf.configuration.advice import Advised
from state_hf.configuration.perturbation_labels import common_names
from state_hf.configuration.wording import counted
from state_hf.data.cells.open_cells import open_cells
from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.data.screens.prediction_record import (
    CELL_TYPE_KEY,
    CONTROL,
    PERTURBATION_KEY,
    Group,
    PredictionRecord,
    record_of,
    recorded_labels,
)
from state_hf.data.screens.screen_reading import labels_of
from state_hf.data.screens.split_parts import GroupParts
from state_hf.metrics.label_columns import read_label_column

ScoredGroups: TypeAlias = Literal["held-out", "prediction", "all"]
ScoredGenes: TypeAlias = Literal["prediction", "all"]

_BLOCK_CELLS = 4096


@dataclass(frozen=True)
class EvaluationScope:
    """What is scored, and by which columns.

    Attributes:
        perturbation_key: Column of obs with the perturbations.
        control: Label of control cells.
        cell_type_key: Column of obs by which cells are scored one cell type after the other; None for all at once.
        groups: The (cell type, perturbation) that are scored; the cell type is "" where there is no column for it. None
            for all that there are.
        group_key: Column of obs of the cell types of `groups`; None without.
        genes: The genes that are scored, in order; None for those that there are.
        names: What labels of perturbations are called, those of the prediction as in the reference, see `common_names`.
        notes: In words, what is left out, and why.
    """

    perturbation_key: str = PERTURBATION_KEY
    control: str = CONTROL
    cell_type_key: str | None = None
    groups: frozenset[Group] | None = None
    group_key: str | None = None
    genes: pd.Index | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def with_names_of(self, cells: CellMatrix) -> "EvaluationScope":
        """The same for the perturbations of other cells, too, which go by the names of these."""
        if not _are_labelled(cells.obs, [self.perturbation_key]):
            return self
        counts = Counter(labels_of(cells, self.perturbation_key).tolist())
        known = dict.fromkeys(self.names.values(), 0)
        names, _ = common_names({**known, **counts}, control=self.control, preferred=known)
        return replace(self, names={**names, **self.names})

    def apply(self, cells: CellMatrix) -> CellMatrix:
        """The cells and genes that are scored, in memory; the cells as they are, where that is all of them."""
        rows = None if self.groups is None else self._rows(cells, self.groups)
        columns = None
        if self.genes is not None and not cells.var_names.equals(self.genes):
            columns = cells.var_names.get_indexer(self.genes)
        if (rows is None or rows.all()) and (columns is None or (columns < 0).any()):
            return cells
        return _taken(cells, rows, columns)

    def _rows(self, cells: CellMatrix, groups: frozenset[Group]) -> np.ndarray:
        """(cells,) bool: those of the groups, and the control cells of their cell types."""
        found = groups_of(cells, self.perturbation_key, self.group_key, self.names)
        controls = {(cell_type, self.control) for cell_type, _ in groups}
        wanted = groups | controls
        return np.fromiter((group in wanted for group in found), dtype=bool, count=len(found))


def resolve_scope(
    prediction: CellMatrix,
    reference: CellMatrix,
    *,
    perturbation_key: str | None,
    control: str | float | None,
    cell_type_key: str | None,
    split: str | Path | None,
    groups: ScoredGroups | None,
    genes: ScoredGenes | None,
) -> EvaluationScope:
    """Decide what is scored, by what the user says and, where that is nothing, what the prediction records of itself.

    For the arguments see `evaluate_predictions`.

    Raises:
        ValueError: The groups that were held out are asked for, and not known or not there.
    """
    for name, value, known in (
        ("groups", groups, ("held-out", "prediction", "all")), ("genes", genes, ("prediction", "all")),
    ):  # fmt: skip
        if value is not None and value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
    record = record_of(prediction)
    perturbation_key, control = recorded_labels(prediction, perturbation_key, control)
    recorded_type = CELL_TYPE_KEY if record is None else record.cell_type_key
    group_key = cell_type_key or (
        recorded_type if recorded_type in prediction.obs and recorded_type in reference.obs else None
    )
    scope = EvaluationScope(perturbation_key, control, cell_type_key, group_key=group_key)
    keys = [scope.perturbation_key, *([group_key] if group_key else ())]
    # What misses columns or labels is reported with all other problems, later.
    if all(_are_labelled(cells.obs, keys) for cells in (prediction, reference)):
        scope = _with_names(scope, prediction, reference)
        scope = _with_groups(scope, prediction, reference, record, split, groups)
        if cell_type_key is None and group_key is not None and (record is not None or scope.groups is not None):
            scope = _by_cell_type(scope, prediction, reference)
    return _with_genes(scope, prediction, reference, record, genes)


def _with_names(scope: EvaluationScope, prediction: CellMatrix, reference: CellMatrix) -> EvaluationScope:
    """One name for every perturbation, however the sides spell it."""
    measured, predicted = (
        Counter(labels_of(cells, scope.perturbation_key).tolist()) for cells in (reference, prediction)
    )
    names, notes = common_names(measured + predicted, control=scope.control, preferred=measured)
    return replace(scope, names=names, notes=[*scope.notes, *notes])


def _with_groups(
    scope: EvaluationScope,
    prediction: CellMatrix,
    reference: CellMatrix,
    record: PredictionRecord | None,
    split: str | Path | None,
    groups: ScoredGroups | None,
) -> EvaluationScope:
    predicted = _perturbed(prediction, scope)
    measured = _perturbed(reference, scope)
    if groups in (None, "held-out") and split is not None:
        parts = GroupParts(split, control=scope.control)
        held = {part: {group for group in measured if parts.part(*group) == part} for part in ("test", "val")}
        part = next((part for part in ("test", "val") if held[part]), None)
        if part is None:
            raise ValueError(
                f"{parts.path} holds out no perturbation of {reference.name}"
                + (
                    ""
                    if scope.group_key
                    else f" (cells of all types are taken together: there is no {CELL_TYPE_KEY!r})"
                )
            )
        return _scored(scope, held[part], f"the {part} part of {parts.path}", measured)
    if groups in (None, "held-out") and record is not None and record.held_out is not None:
        part, recorded = record.held_out
        chosen = {
            (cell_type if scope.group_key else "", scope.names.get(perturbation, perturbation))
            for cell_type, perturbation in recorded
        }
        return _scored(scope, chosen, f"the {part} part of {record.split}, as the prediction records", measured)
    if groups == "held-out":
        raise ValueError(Advised("the prediction does not record what was held out", "name the split (split=...)"))
    if groups == "prediction":
        return _scored(scope, predicted, "those of the prediction", measured)
    if groups is None and record is not None and record.groups and set(record.groups.values()) == {"train"}:
        note = f"{record.split} holds none of the predicted perturbations out: the model was trained on all of them"
        return replace(scope, notes=[*scope.notes, note])
    return scope


def _scored(scope: EvaluationScope, chosen: set[Group], what: str, measured: Collection[Group]) -> EvaluationScope:
    cell_types = sorted({cell_type for cell_type, _ in chosen} - {""})
    perturbations = counted(len({perturbation for _, perturbation in chosen}), "perturbation")
    where = f" in {counted(len(cell_types), 'cell type')} ({_shown(cell_types)})" if cell_types else ""
    left = len(set(measured) - chosen)
    note = f"scored: {perturbations}{where}, {what}" + (f"; {left:,} measured groups are left out" if left else "")
    return replace(scope, groups=frozenset(chosen), notes=[*scope.notes, note])


def _by_cell_type(scope: EvaluationScope, prediction: CellMatrix, reference: CellMatrix) -> EvaluationScope:
    """Cell types were predicted one by one, and are scored so where there are several."""
    chosen = (
        scope.groups if scope.groups is not None else {*_perturbed(prediction, scope), *_perturbed(reference, scope)}
    )
    several = len({cell_type for cell_type, _ in chosen}) > 1
    return replace(scope, cell_type_key=scope.group_key) if several else scope


def _with_genes(
    scope: EvaluationScope,
    prediction: CellMatrix,
    reference: CellMatrix,
    record: PredictionRecord | None,
    genes: ScoredGenes | None,
) -> EvaluationScope:
    ours, theirs = prediction.var_names, reference.var_names
    unique = ours.is_unique and theirs.is_unique
    made_on_them = record is not None and record.num_genes == len(ours)
    wanted = genes == "prediction" or (genes is None and made_on_them)
    if not (wanted and unique) or ours.equals(theirs) or not ours.isin(theirs).all():
        return scope
    if len(ours) == len(theirs):
        note = "the reference's genes are brought into the order of the prediction's"
    else:
        source = f", on which the model predicts ({record.feature_key})" if record is not None and made_on_them else ""
        note = f"scored: the prediction's {len(ours):,} of the reference's {len(theirs):,} genes{source}"
    return replace(scope, genes=ours, notes=[*scope.notes, note])


def _are_labelled(obs: pd.DataFrame, keys: list[str]) -> bool:
    return all(key in obs and not read_label_column(obs[key]).unlabelled for key in keys)


def groups_of(
    cells: CellMatrix, perturbation_key: str, cell_type_key: str | None, names: Mapping[str, str] | None = None
) -> list[Group]:
    """(cell type, perturbation) of every cell, perturbations by their names; without a column the cell type is ""."""
    perturbations = labels_of(cells, perturbation_key, names).tolist()
    cell_types: Iterable[str] = [""] * len(perturbations)
    if cell_type_key is not None:
        cell_types = labels_of(cells, cell_type_key).tolist()
    return list(zip(cell_types, perturbations, strict=True))


def _perturbed(cells: CellMatrix, scope: EvaluationScope) -> set[Group]:
    found = set(groups_of(cells, scope.perturbation_key, scope.group_key, scope.names))
    return {group for group in found if group[1] != scope.control}


def _taken(cells: CellMatrix, rows: np.ndarray | None, columns: np.ndarray | None) -> CellMatrix:
    """Some cells and genes, in memory; a file is walked in blocks."""
    kept = np.ones(cells.n_obs, dtype=bool) if rows is None else rows
    var = cells.var if columns is None else cells.var.iloc[columns]
    blocks = [sp.csr_matrix(np.zeros((0, len(var)), dtype=np.float32))]
    for start in range(0, cells.n_obs, _BLOCK_CELLS):
        inside = kept[start : start + _BLOCK_CELLS]
        if not inside.any():
            continue
        kept_values = cells.block(start, start + _BLOCK_CELLS)[np.flatnonzero(inside)]
        blocks.append(kept_values if columns is None else kept_values[:, columns])
    matrix = sp.vstack(blocks, format="csr")
    taken = open_cells(AnnData(matrix, obs=cells.obs[kept].copy(), var=var[[]].copy()))
    taken.name = cells.name
    return taken.matrix("X")


def _shown(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


__all__ = [
    "EvaluationScope",
    "ScoredGenes",
    "ScoredGroups",
    "groups_of",
    "resolve_scope",
]
