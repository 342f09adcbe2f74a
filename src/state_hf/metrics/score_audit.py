"""What a score gains by nothing: the same prediction with another variance or depth, and control cells in its place.

Scores of perturbation responses can be raised without knowing the perturbations: cells that vary more or less change
what tests call, and cells of another depth move every gene. An audit scores such versions of a prediction beside it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from state_hf.metrics.expression_rows import Rows, SparseRows, value_range
from state_hf.metrics.group_sums import block_sums
from state_hf.metrics.profiles import Profile
from state_hf.metrics.screen import CellBlock, Screen
from state_hf.metrics.summary import holds_counts

VARIANCE_FACTOR = 1.5
"""What the deviations of cells from their mean are multiplied by."""

DEPTH_FACTOR = 1.5
"""What expression is multiplied by on the scale of counts: the depths of two runs of one protocol differ so."""

OVERALL = "overall_score"
VERSIONS = ("inflated_variance", "depth_shifted")
AUDIT_COLUMNS = ("prediction", "control_copy", *VERSIONS)

# A smaller share of the control copy's distance from the best value is no more than the noise of the cells.
_LEAST_MOVE = 0.01
# Rows that are changed at a time, so that what is computed on the way stays small.
_CHUNK_ROWS = 4096

# From values (float64), and the code and the gene of each, new values.
Change = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def inflated_screen(screen: Screen, profile: Profile, *, seed: int) -> Screen:
    """The predicted cells with larger deviations from the mean of their perturbation, gene by gene, and the same means.

    A value x of a gene with the mean m becomes m + 1.5 (x - m), or 0 where that is below, and all values of a gene and
    perturbation are then scaled to have the mean m again. Zeros stay: genes that few cells express hardly change.
    Counts are rounded to whole numbers, up or down at random, so that their expectation stays. Control cells are as
    they were.

    Args:
        screen: The prediction.
        profile: The rule that it is scored by.
        seed: Seed of the rounding.
    """
    means = _means(screen)

    def spread(values: np.ndarray, codes: np.ndarray, genes: np.ndarray) -> np.ndarray:
        mean = means[codes, genes]
        return np.maximum(mean + VARIANCE_FACTOR * (values - mean), 0.0)

    wide = _changed(screen, spread)
    moved = _means(wide)
    scale = np.divide(means, moved, out=np.ones_like(means), where=moved > 0)
    same_means = _changed(wide, lambda values, codes, genes: values * scale[codes, genes], in_place=True)
    return _rounded(same_means, profile, seed)


def deeper_screen(screen: Screen, profile: Profile, *, seed: int) -> Screen:
    """The predicted cells as if half as much again had been read of each: expression is 1.5 times what it was.

    Log-normalised values x become log1p(1.5 expm1(x)). Counts are multiplied and rounded as in `inflated_screen`. A
    profile that normalises them takes the factor out of effects; profiles keep it where the total that cells are
    normalised to is the median of the screen. Control cells are as they were.

    Args:
        screen: The prediction.
        profile: The rule that it is scored by.
        seed: Seed of the rounding.
    """
    if holds_counts(screen, profile.settings["expression"]):
        return _rounded(_changed(screen, lambda values, codes, genes: DEPTH_FACTOR * values), profile, seed)
    return _changed(screen, lambda values, codes, genes: np.log1p(DEPTH_FACTOR * np.expm1(values)))


def audit_table(values: Mapping[str, Mapping[str, float]], profile: Profile) -> pd.DataFrame:
    """Versions of a prediction beside it, and which of them move a metric more than the prediction does.

    Args:
        values: For each of `AUDIT_COLUMNS`, metric -> value; `OVERALL` may be among the metrics.
        profile: The rule.

    Returns:
        One row a metric that has a best value; the columns `AUDIT_COLUMNS`, and for each of `VERSIONS` a column
        `<version>_moves_more`: whether the version is farther from the prediction than the prediction is from the copy
        of the control, in distance from the best value, and by more than a hundredth of the copy's own distance.
    """
    best = {metric.name: metric.best for metric in profile.metrics if metric.best is not None}
    if OVERALL in values["prediction"]:
        best[OVERALL] = 1.0
    table = pd.DataFrame(
        {column: [values[column][name] for name in best] for column in AUDIT_COLUMNS}, index=list(best)
    )
    errors = {column: np.abs(table[column].to_numpy() - list(best.values())) for column in AUDIT_COLUMNS}
    gained = np.abs(errors["control_copy"] - errors["prediction"])
    for version in VERSIONS:
        moved = np.abs(errors[version] - errors["prediction"])
        table[f"{version}_moves_more"] = (moved > gained) & (moved > _LEAST_MOVE * errors["control_copy"])
    return table.rename_axis("metric")


def merged_audit(tables: Sequence[pd.DataFrame], profile: Profile) -> pd.DataFrame:
    """The audit of the means over contexts of what `audit_table` gave for each."""
    metrics = list(map(str, tables[0].index))
    means = {
        column: dict(
            zip(metrics, np.mean([table[column].to_numpy() for table in tables], axis=0).tolist(), strict=True)
        )
        for column in AUDIT_COLUMNS
    }
    return audit_table(means, profile)


def is_better(table: pd.DataFrame, profile: Profile, metric: str, version: str) -> bool:
    """Whether a version has a better value of a metric than the prediction."""
    best = next((other.best for other in profile.metrics if other.name == metric and other.best is not None), 1.0)
    distances = np.abs(table.loc[metric, ["prediction", version]].to_numpy(dtype=np.float64) - best)
    return bool(distances[1] < distances[0])


def _means(screen: Screen) -> np.ndarray:
    """Mean of each gene over the stored cells of each perturbation, (P + 1) x G; the control's is not asked for."""
    sums = block_sums(screen.blocks, len(screen.perturbations) + 1, len(screen.genes))
    return sums / np.maximum(screen.n_cells, 1)[:, None]


def _rounded(screen: Screen, profile: Profile, seed: int) -> Screen:
    """Whole numbers in the place of counts with fractions, in the arrays of the screen."""
    if not holds_counts(screen, profile.settings["expression"]):
        return screen
    generator = np.random.default_rng(seed)
    return _changed(
        screen, lambda values, codes, genes: np.floor(values + generator.random(values.shape)), in_place=True
    )


def _changed(screen: Screen, change: Change, *, in_place: bool = False) -> Screen:
    """The screen with new values of its perturbed cells, none where they have none.

    The extremes stay those of the cells that were checked: they tell counts from log-normalised values.
    """
    control = len(screen.perturbations)

    def changed(block: CellBlock) -> CellBlock:
        matrix: Rows
        if isinstance(block.matrix, np.ndarray):
            matrix = block.matrix.astype(screen.dtype, copy=not in_place)
            _change_dense(matrix, block.codes, control, change)
        else:
            # Where values are stays, so that the indices are shared.
            matrix = replace(block.matrix, data=block.matrix.data.astype(screen.dtype, copy=not in_place))
            _change_sparse(matrix, block.codes, control, change)
        return replace(block, matrix=matrix, library=value_range(matrix).library)

    return replace(screen, blocks=tuple(map(changed, screen.blocks)))


def _change_dense(matrix: np.ndarray, codes: np.ndarray, control: int, change: Change) -> None:
    genes = np.arange(matrix.shape[1])[None, :]
    for rows in _chunks(np.flatnonzero((codes >= 0) & (codes < control))):
        matrix[rows] = change(matrix[rows].astype(np.float64), codes[rows][:, None], genes)


def _change_sparse(matrix: SparseRows, codes: np.ndarray, control: int, change: Change) -> None:
    for rows in _chunks(np.arange(len(codes))):
        bounds = matrix.indptr[rows[0] : rows[-1] + 2]
        of_values = np.repeat(codes[rows], np.diff(bounds))
        perturbed = np.flatnonzero((of_values >= 0) & (of_values < control))
        places = bounds[0] + perturbed
        matrix.data[places] = change(
            matrix.data[places].astype(np.float64), of_values[perturbed], matrix.indices[places]
        )


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield rows[start : start + _CHUNK_ROWS]
