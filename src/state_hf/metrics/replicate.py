"""How well the real cells agree with themselves: disjoint halves of every perturbation, scored against each other."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from state_hf.metrics.comparison import Comparison, target_positions
from state_hf.metrics.de_agreement import fold_change_error
from state_hf.metrics.evaluation import evaluate_summaries
from state_hf.metrics.profiles import Profile
from state_hf.metrics.screen import CellBlock, Screen
from state_hf.metrics.summary import ScreenSummary, summarise


def disjoint_halves(screen: Screen, *, seed: int) -> tuple[Screen, Screen]:
    """Split the cells of every perturbation, and of the control, into two random halves of floor(n / 2).

    Both halves share the cells' memory. Perturbations of a single cell are left out of both.

    Args:
        screen: The cells.
        seed: Seed of the split.

    Raises:
        ValueError: If the control has fewer than two cells, or no perturbation has two.
    """
    codes = np.concatenate([block.codes for block in screen.blocks])
    n_cells = screen.n_cells
    kept = np.flatnonzero(n_cells[:-1] >= 2)
    if n_cells[-1] < 2 or not len(kept):
        raise ValueError("halves need at least two control cells and a perturbation with at least two cells")
    generator = np.random.default_rng(seed)
    halves = np.full((2, len(codes)), -1, dtype=np.int32)
    renumbered = np.full(len(n_cells), -1)
    renumbered[[*kept, len(n_cells) - 1]] = np.arange(len(kept) + 1)
    # Labels in their order, the control among them: the order in which cell-eval draws.
    for code in np.argsort(np.array([*screen.perturbations, screen.control], dtype=str), kind="stable"):
        rows = generator.permutation(np.flatnonzero(codes == code))
        half = len(rows) // 2
        halves[0, rows[:half]] = halves[1, rows[half : 2 * half]] = renumbered[code]
    chosen = replace(screen, perturbations=screen.perturbations[kept], copies=screen.copies[kept])
    first, second = (replace(chosen, blocks=tuple(_recode(screen, half))) for half in halves)
    return first, second


def ceiling(
    screen: Screen, profile: Profile, *, seed: int, target_genes: Mapping[str, str | None] | None, device: str | None
) -> dict[str, float]:
    """The highest aggregate values that the noise of the real data allows, metric by metric.

    One half is scored against the other, and the mean r of each reliability metric is carried from half to full depth
    by Spearman-Brown, 2r / (1 + r), where r > 0. NaN for all other metrics, which have no such ceiling.
    """
    as_reference, as_prediction = disjoint_halves(screen, seed=seed)
    values = evaluate_summaries(
        summarise(as_prediction, profile, device=device),
        summarise(as_reference, profile, device=device),
        profile,
        control=screen.control,
        target_genes=target_genes,
        on_error="nan",
    ).aggregate["mean"]
    reliable = {metric.name for metric in profile.metrics if metric.reliability}
    return {
        str(name): 2 * r / (1 + r) if name in reliable and r > 0 else np.nan for name, r in values.astype(float).items()
    }


def replicate_values(
    screen: Screen,
    summary: ScreenSummary,
    profile: Profile,
    *,
    target_genes: Mapping[str, str | None] | None,
    device: str | None,
) -> dict[str, float]:
    """Aggregate values of real half against real half, averaged over the profile's seeded splits (2026 challenge).

    Each half has its own controls. The fold-change error takes its genes and its scale from the whole real table, so
    that it covers the same perturbations as a prediction's.

    Args:
        screen: The real cells.
        summary: Their summary.
        profile: The rule, with `replicate_seed` and `replicate_splits`.
        target_genes: Perturbation -> target gene.
        device: Torch device; None for the CPU.
    """
    alone = screen.perturbations[screen.n_cells[:-1] < 2]
    if len(alone):
        raise ValueError(
            f"a replicate needs two cells of every perturbation; {len(alone)} have one, such as {alone[0]!r}"
        )
    rule = profile.settings["score"]
    seeds = np.random.SeedSequence(rule["replicate_seed"]).generate_state(rule["replicate_splits"])
    values = [_one_split(screen, summary, profile, int(seed), target_genes, device) for seed in seeds]
    return {name: float(np.mean([split[name] for split in values])) for name in values[0]}


def _one_split(
    screen: Screen,
    summary: ScreenSummary,
    profile: Profile,
    seed: int,
    target_genes: Mapping[str, str | None] | None,
    device: str | None,
) -> dict[str, float]:
    halves = [summarise(half, profile, device=device) for half in disjoint_halves(screen, seed=seed)]
    own_controls = replace(profile, settings={**profile.settings, "control_source": "own"})
    result = evaluate_summaries(halves[1], halves[0], own_controls, control=screen.control, target_genes=target_genes)
    values = {str(name): float(value) for name, value in result.aggregate["mean"].items()}
    for metric in profile.metrics:
        if metric.function == "fold_change_error":
            values[metric.name] = _fold_change_replicate(summary, halves, profile, target_genes, **metric.parameters)
    return values


def _fold_change_replicate(
    summary: ScreenSummary,
    halves: list[ScreenSummary],
    profile: Profile,
    target_genes: Mapping[str, str | None] | None,
    *,
    min_genes: int,
) -> float:
    """Difference between the halves' fold changes, over the genes and relative to the changes of the whole table."""
    target = target_positions(summary.perturbations, summary.genes, target_genes)
    whole = Comparison(summary, summary, profile, target)
    real = whole.fold_changes[1]
    table = summary.differential_expression
    first, second = (
        np.nan_to_num(half.differential_expression.over(table.tested, table.genes).log2_fold_change, posinf=0, neginf=0)
        for half in halves
    )
    values = fold_change_error(whole.called[1], real, real + (second - first), min_genes=min_genes)
    if np.isnan(values).all():
        raise ValueError(f"no perturbation of the reference has {min_genes} significant genes, so it has no replicate")
    return float(np.nanmean(values))


def _recode(screen: Screen, codes: np.ndarray) -> Iterator[CellBlock]:
    start = 0
    for block in screen.blocks:
        yield replace(block, codes=codes[start : start + len(block.codes)])
        start += len(block.codes)
