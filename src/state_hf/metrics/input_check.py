"""Everything that keeps a prediction from being scored, found before the work starts and listed at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.configuration.labels import FoundLabels, refuse_look_alikes
from state_hf.configuration.near_names import near_matches
from state_hf.configuration.perturbation_labels import label_parts
from state_hf.configuration.wording import counted, listed
from state_hf.metrics.label_columns import LabelColumn, read_label_column
from state_hf.metrics.labelled_cells import LabelledCells
from state_hf.metrics.value_check import ValueSummary, summarize_values

logger = logging.get_logger(__name__)

Scale = Literal["counts", "lognorm"]

LOGNORM_LIMIT = 15.0
"""Log-normalised values lie in [0, 15): exp(15) is three million counts of one gene in one cell."""

INTEGER_TOLERANCE: dict[Scale, float] = {"counts": 1e-6, "lognorm": 1e-3}
"""Distance from an integer below which a value counts as one: strict where counts are required, the 2025 rule else."""


_SCORE_PREDICTED = "score what is predicted, alone (groups='prediction')"

# How public screens call these columns of obs, in lower case.
_USUAL_COLUMNS = {
    "perturbation_key": (
        "perturbation", "target_gene", "gene", "condition", "guide", "perturbation_name", "target", "pert",
    ),
    "cell_type_key": ("cell_type", "celltype", "cell_line", "cell_name", "cell_line_id", "line", "context"),
}  # fmt: skip


@dataclass
class CheckedInputs:
    """What the check read of the values of both sides, so that nobody has to read them again."""

    prediction: ValueSummary
    reference: ValueSummary


def check_inputs(
    prediction: LabelledCells,
    reference: LabelledCells,
    scale: Scale,
    *,
    perturbation_key: str,
    control: str,
    cell_type_key: str | None = None,
    names: Mapping[str, str] | None = None,
    control_in_prediction: bool = True,
    max_counts_per_cell: float | None = None,
) -> CheckedInputs:
    """Refuse a pair of screens that cannot be scored, naming every reason at once.

    Both may be backed: values are read in blocks.

    Args:
        prediction: Predicted cells, genes in `var_names`, labels in `obs[perturbation_key]`.
        reference: Measured cells, likewise.
        scale: What the profile reads. `"counts"`: non-negative integers. `"lognorm"`: log1p-normalised values in
            [0, 15), or integer counts (which the profile normalises itself).
        perturbation_key: Column of `obs` with the perturbation labels: strings, categories or numbers, compared as
            text.
        control: Label of the control cells.
        cell_type_key: Column of `obs` with the contexts (cell types) that are scored apart from each other.
        names: What labels of perturbations are called, see `common_names`. Others are called as they are.
        control_in_prediction: Whether the profile takes the prediction's own control cells.
        max_counts_per_cell: Largest total of one cell, for `"counts"`.

    Returns:
        The summaries of the values of both sides.

    Raises:
        ValueError: With the numbered list of all problems.
    """
    sides = {"prediction": prediction, "reference": reference}
    problems = _gene_problems(prediction, reference)
    missing = _column_problems(sides, {"perturbation_key": perturbation_key, "cell_type_key": cell_type_key})
    problems += missing
    labels: dict[str, _SideLabels] = {}
    if not missing:
        labels = {
            side: _SideLabels.read(side, adata, perturbation_key, cell_type_key, names or {})
            for side, adata in sides.items()
        }
        problems += _label_problems(labels, control, control_in_prediction=control_in_prediction)
    summaries: dict[str, ValueSummary] = {}
    for side, adata in sides.items():
        if adata.X is None:
            problems.append(f"the {side} has no X")
            continue
        try:
            summaries[side] = summarize_values(adata.X, integer_tolerance=INTEGER_TOLERANCE[scale])
        except ValueError as error:
            problems.append(f"the {side}: {error}")
            continue
        problems += value_problems(
            summaries[side],
            adata,
            scale,
            side,
            max_counts_per_cell=max_counts_per_cell,
            lognorm_way="score it by a profile that takes such values (profile='vcc2025')",
        )
        if scale == "counts" and side in labels:
            problems += _empty_perturbations(summaries[side], labels[side])
        _warn_of_duplicate_cells(adata, side)
    if problems:
        raise ValueError(problem_list(f"{_source(prediction)} cannot be scored against {_source(reference)}", problems))
    return CheckedInputs(**summaries)


def problem_list(headline: str, problems: list[str]) -> Advised:
    """One message for several problems, with their advice: the headline, then a numbered line each."""
    lines = [f"  {number}. {problem}" for number, problem in enumerate(problems, start=1)]
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    inner = tuple(problem for problem in problems if isinstance(problem, Advised))
    return Advised("\n".join([f"{headline} ({count}):", *lines]), inner=inner)


def value_problems(
    summary: ValueSummary,
    adata: LabelledCells,
    scale: Scale,
    side: str,
    *,
    max_counts_per_cell: float | None = None,
    lognorm_way: str | None = None,
) -> list[str]:
    """What is wrong with the values of one side for the scale that is asked for.

    Args:
        summary: What the values are.
        adata: The cells.
        scale: The scale.
        side: What messages call the cells.
        max_counts_per_cell: Largest total of one cell, for `"counts"`.
        lognorm_way: What to do with log-normalised values where counts are asked for, see `Advised`; None for nothing.
    """

    def where(position: tuple[int, int, float] | None) -> str:
        row, column, value = position or (0, 0, np.nan)
        return f"first {value:g} in cell {adata.obs_names[row]!r} (row {row}), gene {adata.var_names[column]!r}"

    problems = []
    if summary.non_finite:
        found = counted(summary.non_finite, "NaN or infinite value")
        problems.append(f"the {side} has {found}: {where(summary.first_non_finite)}")
    if summary.negative:
        found = counted(summary.negative, "negative value")
        problems.append(
            f"the {side} has {found}: {where(summary.first_negative)}. Counts and log1p values are never negative; "
            "scaled ones are not scored"
        )
    if scale == "counts" and summary.fractional:
        is_lognorm = summary.maximum < LOGNORM_LIMIT
        problem = (
            f"the {side} must hold raw counts, but has {counted(summary.fractional, 'value')} with a fraction"
            f"{' (it looks log-normalised)' if is_lognorm else ''}: {where(summary.first_fractional)}"
        )
        problems.append(Advised(problem, *([lognorm_way] if is_lognorm and lognorm_way else [])))
    if scale == "lognorm" and summary.fractional and summary.maximum >= LOGNORM_LIMIT:
        problems.append(
            f"the {side} is neither counts nor log-normalised: it has fractions and its largest value is "
            f"{summary.maximum:g}, while log-normalised values lie in [0, {LOGNORM_LIMIT:g}). Pass raw counts, or "
            "normalise each cell and take log1p (`state-hf preprocess`)"
        )
    if scale == "counts" and max_counts_per_cell is not None and summary.totals.max(initial=0) > max_counts_per_cell:
        over = np.flatnonzero(summary.totals > max_counts_per_cell)
        problems.append(
            f"the {side} has {counted(over.size, 'cell')} with more than {max_counts_per_cell:,.0f} counts: first "
            f"{adata.obs_names[over[0]]!r} (row {over[0]}) with {summary.totals[over[0]]:,.0f}"
        )
    return problems


def gene_differences(found: Iterable[str], expected: Iterable[str], side: str, expected_by: str) -> list[str]:
    """Missing and extra genes of one side, with the names that look like each other."""
    found, expected = list(found), list(expected)
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    problems = []
    if missing:
        hint = _hint(near_matches(missing, extra))
        problems.append(
            f"{counted(len(missing), 'gene')} of {expected_by} missing from the {side}: {listed(missing)}{hint}"
        )
    if extra:
        problems.append(f"{counted(len(extra), 'gene')} of the {side} not in {expected_by}: {listed(extra)}")
    return problems


def _gene_problems(prediction: LabelledCells, reference: LabelledCells) -> list[str]:
    problems = []
    for side, adata in (("prediction", prediction), ("reference", reference)):
        duplicated = sorted(set(adata.var_names[adata.var_names.duplicated()]))
        if duplicated:
            problems.append(
                f"{counted(len(duplicated), 'gene')} of the {side} named more than once: {listed(duplicated)}"
            )
    differences = gene_differences(prediction.var_names, reference.var_names, "prediction", "the reference")
    if len(differences) == 1 and len(prediction.var_names) < len(reference.var_names):
        differences = [Advised(differences[0], "score the prediction's genes alone (genes='prediction')")]
    problems += differences
    # An index of nullable strings is not equal to another of the same names.
    names, expected = (np.asarray(adata.var_names, dtype=object) for adata in (prediction, reference))
    if not problems and (names != expected).any():
        first = int(np.flatnonzero(names != expected)[0])
        problems.append(
            f"the genes are the same but in another order, from position {first} on (prediction "
            f"{names[first]!r}, reference {expected[first]!r}): reorder with "
            "prediction[:, reference.var_names]"
        )
    return problems


def _column_problems(sides: dict[str, LabelledCells], columns: Mapping[str, str | None]) -> list[str]:
    problems: list[str] = []
    for side, adata in sides.items():
        for argument, column in columns.items():
            if column is not None and column not in adata.obs:
                present = list(map(str, adata.obs.columns))
                problem = f"the {side} has no obs column {column!r} (columns: {listed(present) or 'none'})"
                meant = near_matches([column], present).get(column) or _usual_column(argument, present)
                problems.append(Advised(problem, *([] if meant is None else [f"name it ({argument}={meant!r})"])))
    return problems


def _usual_column(argument: str, present: list[str]) -> str | None:
    """The only column that has a name which such columns have in public screens."""
    found = [name for name in present if name.casefold() in _USUAL_COLUMNS[argument]]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, eq=False)
class _SideLabels:
    """The labels of one side.

    Attributes:
        side: What messages call it.
        perturbation_key, cell_type_key: Columns of obs.
        perturbations, cell_types: What they hold.
        names: (cells,) object: what every cell's perturbation is called; None without a label.
    """

    side: str
    perturbation_key: str
    cell_type_key: str | None
    perturbations: LabelColumn
    cell_types: LabelColumn | None
    names: np.ndarray

    @classmethod
    def read(
        cls, side: str, adata: LabelledCells, perturbation_key: str, cell_type_key: str | None, names: Mapping[str, str]
    ) -> "_SideLabels":
        column = read_label_column(adata.obs[perturbation_key])
        called = [names.get(label, label) for label in column.labels]
        cell_types = None if cell_type_key is None else read_label_column(adata.obs[cell_type_key])
        by_cell = np.array([*called, None], dtype=object)[column.codes]
        return cls(side, perturbation_key, cell_type_key, column, cell_types, by_cell)

    @property
    def columns(self) -> list[tuple[str, LabelColumn]]:
        """Each column with its name; the contexts first."""
        perturbations = [(self.perturbation_key, self.perturbations)]
        if self.cell_types is None or self.cell_type_key is None:
            return perturbations
        return [(self.cell_type_key, self.cell_types), *perturbations]

    @property
    def present(self) -> list[str]:
        """What the perturbations that have cells are called, in order, each once."""
        return [name for name in dict.fromkeys(self.names.tolist()) if name is not None]

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """(context, perturbation) that have cells."""
        contexts = [] if self.cell_types is None else self.cell_types.texts.tolist()
        return set(zip(contexts, self.names.tolist(), strict=True))

    def own_problems(self) -> list[str]:
        """Cells without a label, and labels that look alike; case tells two apart, where both sides have both."""
        problems = []
        for key, column in self.columns:
            if column.unlabelled:
                number = counted(column.unlabelled, "cell")
                missing = f"without a label in obs[{key!r}]{column.missing()}; label or remove them"
                problems.append(f"the {self.side} has {number} {missing}")
            parts = label_parts if key == self.perturbation_key else lambda label: [label]
            found = FoundLabels(f"obs[{key!r}] of the {self.side}", column.labels, key)
            try:
                refuse_look_alikes([found], distinct_case=True, parts=parts)
            except ValueError as error:
                problems.append(str(error))
        return problems


def _label_problems(labels: Mapping[str, _SideLabels], control: str, *, control_in_prediction: bool) -> list[str]:
    problems = []
    present = {side: found.present for side, found in labels.items()}
    for side, found in labels.items():
        problems += found.own_problems()
        if control not in present[side] and (side == "reference" or control_in_prediction):
            hint = _hint(near_matches([control], present[side]))
            if not hint and present[side]:
                hint = f"; its most frequent label is {found.perturbations.counts.most_common(1)[0][0]!r}"
            key = found.perturbation_key
            problems.append(f"the control {control!r} is no label of the {side} in obs[{key!r}]{hint}")
    for side, other in (("prediction", "reference"), ("reference", "prediction")):
        absent = [label for label in present[other] if label not in set(present[side]) and label != control]
        extra = [label for label in present[side] if label not in set(present[other]) and label != control]
        if not absent:
            continue
        declared = set(labels[side].perturbations.declared)
        empty = [label for label in absent if label in declared]
        # The other direction would only repeat the pairs.
        hint = _hint(near_matches(absent, extra)) if side == "prediction" else ""
        if empty:
            hint += f"; {listed(empty)} declared there without a cell"
        problem = (
            f"{counted(len(absent), 'perturbation')} of the {other} missing from the {side}: {listed(absent)}{hint}"
        )
        alone = side == "prediction" and not extra and not empty
        problems.append(Advised(problem, *([_SCORE_PREDICTED] if alone else [])))
    if not problems and labels["reference"].cell_types is not None:
        problems += _context_problems(labels, control, control_in_prediction=control_in_prediction)
    return problems


def _context_problems(labels: Mapping[str, _SideLabels], control: str, *, control_in_prediction: bool) -> list[str]:
    pairs = {side: found.pairs for side, found in labels.items()}
    key, reference_pairs = labels["reference"].cell_type_key, pairs["reference"]
    if not control_in_prediction:
        pairs = {side: {pair for pair in found if pair[1] != control} for side, found in pairs.items()}
    contexts = {side: sorted({context for context, _ in found}) for side, found in pairs.items()}
    problems: list[str] = []
    for side, other in (("prediction", "reference"), ("reference", "prediction")):
        absent = sorted(pairs[other] - pairs[side])
        if absent:
            names = [f"{label} in {context}" for context, label in absent]
            # The other direction would only repeat the pairs.
            unknown = [context for context in contexts[other] if context not in contexts[side]]
            hint = _hint(near_matches(unknown, contexts[side])) if side == "prediction" else ""
            problem = (
                f"{counted(len(names), 'perturbation')} of the {other} missing from the {side} in their context "
                f"(obs[{key!r}]): {listed(names)}{hint}"
            )
            alone = side == "prediction" and pairs[side] < pairs[other]
            problems.append(Advised(problem, *([_SCORE_PREDICTED] if alone else [])))
    without = [context for context in contexts["reference"] if (context, control) not in reference_pairs]
    if without:
        problems.append(f"no control cells {control!r} of the reference in context {listed(without)}")
    return problems


def _empty_perturbations(summary: ValueSummary, labels: _SideLabels) -> list[str]:
    groups = pd.DataFrame({"name": labels.names, "total": summary.totals})
    keys = ["name"]
    if labels.cell_types is not None:
        groups["context"] = labels.cell_types.texts
        keys = ["context", "name"]
    totals = groups.groupby(keys)["total"].sum()
    empty = [label if len(keys) == 1 else f"{label[1]} in {label[0]}" for label in totals.index[totals == 0]]
    if not empty:
        return []
    return [f"{counted(len(empty), 'perturbation')} of the {labels.side} without a single count: {listed(empty)}"]


def _warn_of_duplicate_cells(adata: LabelledCells, side: str) -> None:
    duplicated = int(adata.obs_names.duplicated().sum())
    if duplicated:
        logger.warning(
            f"{duplicated:,} cell names of the {side} occur more than once; check that no cells are doubled."
        )


def _hint(matches: Mapping[str, str], *, limit: int = 3) -> str:
    if not matches:
        return ""
    pairs = ", ".join(f"{near!r} for {name!r}" for name, near in list(matches.items())[:limit])
    more = f" and {len(matches) - limit} more" if len(matches) > limit else ""
    return f"; perhaps it has {pairs}{more}"


def _source(adata: LabelledCells) -> str:
    cells = getattr(adata, "cells", adata)
    path = getattr(cells, "path", None) or getattr(cells, "filename", None)
    named = getattr(cells, "name", "")
    if path is None and Path(named).suffix:  # a part of a file's cells
        path = named
    return Path(str(path)).name if path else f"AnnData of {adata.n_obs:,} cells"
