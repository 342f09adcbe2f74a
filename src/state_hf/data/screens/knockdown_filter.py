"""Which cells of a knock-down screen show that their target gene was knocked down."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class KnockdownFilter:
    """Thresholds of the three stages, with cell-load's names and defaults; of a combination, every target must pass.

    Attributes:
        residual_expression: A perturbation is kept if its cells have, on average, less than this share of the control
            cells' expression of the target gene.
        cell_residual_expression: Of those, a cell is kept if it has less than this share.
        min_cells: Of those, a perturbation is kept if at least so many of its cells are left.
    """

    residual_expression: float = 0.30
    cell_residual_expression: float = 0.50
    min_cells: int = 30


@dataclass(frozen=True, eq=False)
class KnockdownResult:
    """What the filter keeps.

    Attributes:
        kept: (cells,) bool; all control cells are kept.
        dropped: For every reason the number of cells and the perturbations that it took all cells of.
    """

    kept: np.ndarray
    dropped: dict[str, tuple[int, list[str]]]


def filter_knockdown(
    codes: np.ndarray,
    own_expression: np.ndarray,
    control_means: np.ndarray,
    names: list[str],
    *,
    control: int,
    thresholds: KnockdownFilter,
) -> KnockdownResult:
    """Keep the cells of perturbations whose target genes are knocked down, and of these the cells where it shows.

    Args:
        codes: (cells,) index of every cell's perturbation in `names`.
        own_expression: (cells, targets) normalised expression of the cell's own target genes, not logged; of no meaning
            for control cells, where a perturbation has fewer targets, and where the target is no gene. (cells,) where
            none has more than one.
        control_means: (perturbations, targets) mean expression of the target genes over all control cells: NaN where
            the target is no gene, infinite where a perturbation has fewer targets. (perturbations,) likewise.
        names: (perturbations,) names, with the control's among them.
        control: The control's index in `names`.
        thresholds: The thresholds.
    """
    own_expression, control_means = own_expression.reshape(len(codes), -1), control_means.reshape(len(names), -1)
    is_target = np.arange(len(names)) != control
    sizes = np.bincount(codes, minlength=len(names))
    no_gene = is_target & np.isnan(control_means).any(axis=1)
    # As close to zero as NumPy's isclose takes for zero, which is cell-load's test.
    unexpressed = is_target & ~no_gene & (control_means <= 1e-8).any(axis=1)
    measured = is_target & ~no_gene & ~unexpressed
    weak, escaped = np.zeros(len(names), dtype=bool), np.zeros(len(codes), dtype=bool)
    for own, means in zip(own_expression.T, control_means.T, strict=True):
        residual = own / np.where(measured, means, 1.0)[codes]
        average = np.bincount(codes, weights=residual, minlength=len(names)) / np.maximum(sizes, 1)
        weak |= measured & ~(average < thresholds.residual_expression)
        escaped |= ~(residual < thresholds.cell_residual_expression)

    kept = ~(no_gene | unexpressed | weak)[codes]
    escaped &= kept & is_target[codes]
    kept &= ~escaped
    left = np.bincount(codes[kept], minlength=len(names))
    few = measured & ~weak & (sizes > 0) & (left < thresholds.min_cells)
    too_few = kept & few[codes]
    kept &= ~too_few

    def of(perturbations: np.ndarray) -> tuple[int, list[str]]:
        chosen = np.flatnonzero(perturbations & (sizes > 0))
        return int(sizes[chosen].sum()), [names[number] for number in chosen.tolist()]

    share, cell_share = thresholds.residual_expression, thresholds.cell_residual_expression
    return KnockdownResult(
        kept,
        {
            "whose target is no gene of the file": of(no_gene),
            "whose target no control cell expresses": of(unexpressed),
            f"of perturbations that keep {share:.0%} or more of their target's expression": of(weak),
            f"that keep {cell_share:.0%} or more of it themselves": (int(escaped.sum()), []),
            f"of perturbations with fewer than {thresholds.min_cells} cells left": (
                int(too_few.sum()),
                [names[number] for number in np.flatnonzero(few).tolist()],
            ),
        },
    )
