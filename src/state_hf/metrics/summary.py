"""What an evaluation needs to know of one side: computed once from the cells, small beside them, kept in a cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from state_hf.metrics.de_tables import DifferentialExpression, compare_with_control
from state_hf.metrics.distances import energy_distances
from state_hf.metrics.group_sums import block_sums, bulk_lognorm
from state_hf.metrics.jackknife import jackknife_noise
from state_hf.metrics.normalised_counts import counts_behind
from state_hf.metrics.profiles import Profile
from state_hf.metrics.rank_test import GeneStatistics, gene_statistics
from state_hf.metrics.screen import CellBlock, RowScaling, Screen

AS_IS, LOG_NORMALISED = 0, 2


@dataclass(frozen=True)
class ScreenSummary:
    """One side of an evaluation.

    Args:
        perturbations: Labels (P).
        genes: Gene names (G).
        n_cells: Cells of each perturbation, control last (P + 1).
        profiles: Pseudobulk of each perturbation, control last, (P + 1) x G.
        variance: Variance of the cells within each perturbation, summed over genes, control last (P + 1).
        differential_expression: Every perturbation against the control.
        noise: Jackknife noise of the profiles, control last (P + 1); None where the profile has no use for it.
        energy: Energy distance of each perturbation to the control (P); None where the profile has no use for it.
    """

    perturbations: np.ndarray
    genes: np.ndarray
    n_cells: np.ndarray
    profiles: np.ndarray
    variance: np.ndarray
    differential_expression: DifferentialExpression
    noise: np.ndarray | None = None
    energy: np.ndarray | None = None


def summarise(
    screen: Screen, profile: Profile, *, control_blocks: Sequence[CellBlock] | None = None, device: str | None = None
) -> ScreenSummary:
    """Compute what a profile needs of one side.

    Args:
        screen: The cells.
        profile: The evaluation profile.
        control_blocks: Control cells to compare with instead of the screen's own (the reference's).
        device: Torch device for ranks and distances; None for the CPU.

    Raises:
        ValueError: If the values are not on the scale that the profile accepts, or there are no control cells.
    """
    if control_blocks is not None:
        screen = screen.with_control(control_blocks)
    if profile.settings["expression"]["space"] == "lognorm":
        return _summarise_lognorm(screen, profile, device)
    return _summarise_counts(screen, profile, device)


def de_table(screen: Screen, profile: Profile, *, device: str | None = None) -> DifferentialExpression:
    """The differential expression of a screen alone; see `summarise`."""
    return _differential_expression(screen, profile, _statistics(screen, profile, device))


def _statistics(screen: Screen, profile: Profile, device: str | None) -> GeneStatistics:
    if screen.n_cells[-1] == 0:
        raise ValueError(f"there are no control cells: no cell is labelled {screen.control!r}")
    settings = profile.settings["differential_expression"]
    if settings["values"] == "lognorm":
        normalisations = lognorm_normalisations(screen, profile.settings["expression"])
        return gene_statistics(screen, normalisations=normalisations, logs=normalisations is not None, device=device)
    return gene_statistics(screen, normalisations=count_normalisations(screen, settings["target_sum"]), device=device)


def _differential_expression(screen: Screen, profile: Profile, statistics: GeneStatistics) -> DifferentialExpression:
    settings = profile.settings["differential_expression"]
    return compare_with_control(statistics, screen.perturbations, screen.genes, settings)


def _summarise_lognorm(screen: Screen, profile: Profile, device: str | None) -> ScreenSummary:
    statistics = _statistics(screen, profile, device)
    means = statistics.means
    energy = None
    if any(metric.function == "energy_distance_correlation" for metric in profile.metrics):
        mode, scales = lognorm_transform(screen, profile.settings["expression"])
        energy = energy_distances(screen, mode=mode, scales=scales, centre=means[-1], device=device)
    table = _differential_expression(screen, profile, statistics)
    variance = statistics.squares / statistics.n_cells - (means**2).sum(axis=1)
    return ScreenSummary(screen.perturbations, screen.genes, statistics.n_cells, means, variance, table, energy=energy)


def _summarise_counts(screen: Screen, profile: Profile, device: str | None) -> ScreenSummary:
    expression = profile.settings["expression"]
    statistics = _statistics(screen, profile, device)
    table = _differential_expression(screen, profile, statistics)
    sums = block_sums(screen.blocks, len(screen.perturbations) + 1, len(screen.genes))
    noise = jackknife_noise(screen.blocks, sums, expression["bulk_target_sum"])
    profiles = bulk_lognorm(sums, expression["bulk_target_sum"])
    n_cells = statistics.n_cells
    return ScreenSummary(screen.perturbations, screen.genes, n_cells, profiles, noise * n_cells, table, noise=noise)


def lognorm_transform(screen: Screen, expression: Mapping[str, Any]) -> tuple[int, list[np.ndarray]]:
    """How to read a screen's values as log-normalised, in the precision of the input: a mode, and scales of the rows.

    Values without fractions are counts: normalised per cell to the median library size, then log1p. Others must already
    be log-normalised.

    Raises:
        ValueError: If values are negative or too large to be log-normalised.
    """
    if holds_counts(screen, expression):
        target = _median_library(screen)
        return LOG_NORMALISED, [
            _safe(block.library).astype(screen.dtype) / screen.dtype.type(target) for block in screen.blocks
        ]
    return AS_IS, [np.ones(len(block.codes), dtype=screen.dtype) for block in screen.blocks]


def lognorm_normalisations(screen: Screen, expression: Mapping[str, Any]) -> list[RowScaling] | None:
    """How to rank a screen's values as normalised counts; None for values behind which no counts are found.

    Raises:
        ValueError: If values are negative or too large to be log-normalised.
    """
    if holds_counts(screen, expression):
        return count_normalisations(screen, _median_library(screen))
    return counts_behind(screen)


def count_normalisations(screen: Screen, target: float) -> list[RowScaling]:
    """Counts, normalised to a total of `target`."""
    return [RowScaling(_safe(block.library), target) for block in screen.blocks]


def holds_counts(screen: Screen, expression: Mapping[str, Any]) -> bool:
    """Whether the values are counts; else they are log-normalised.

    Raises:
        ValueError: If values are negative or too large to be log-normalised.
    """
    if screen.smallest < 0:
        raise ValueError(
            f"the smallest value is {screen.smallest:g}; counts and log-normalised values are never negative"
        )
    if screen.largest_fraction <= expression["integer_tolerance"]:
        return True
    if screen.largest >= expression["max_value"]:
        raise ValueError(
            f"values have fractions, so they should be log-normalised, but the largest is {screen.largest:g}; "
            f"log-normalised values lie in [0, {expression['max_value']:g}). Give raw counts or log1p-normalised values"
        )
    return False


def check_counts(screen: Screen, expression: Mapping[str, Any]) -> None:
    """Refuse values that are not raw counts.

    Raises:
        ValueError: If a value is negative or has a fraction, or a cell's total exceeds the profile's cap.
    """
    if screen.smallest < 0 or screen.largest_fraction > expression["integer_tolerance"]:
        found = f"{screen.smallest:g}" if screen.smallest < 0 else f"a fraction of {screen.largest_fraction:g}"
        raise ValueError(f"raw counts are needed (non-negative whole numbers), but there is {found}")
    most = screen.library.max(initial=0.0)
    if most > expression["max_counts_per_cell"]:
        raise ValueError(f"a cell has {most:g} counts; the profile allows {expression['max_counts_per_cell']:g} a cell")


def _median_library(screen: Screen) -> float:
    library = screen.library
    return float(np.median(library[library > 0])) if (library > 0).any() else 1.0


def _safe(library: np.ndarray) -> np.ndarray:
    return np.where(library > 0, library, 1.0)
