"""Predictions that know nothing of the single perturbation: what a model has to beat."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from state_hf.metrics.comparison import target_positions
from state_hf.metrics.expression_rows import stack, value_range
from state_hf.metrics.group_sums import block_sums
from state_hf.metrics.screen import CellBlock, Screen
from state_hf.metrics.summary import AS_IS, ScreenSummary, lognorm_transform


def mean_profile(summary: ScreenSummary, *, include_control: bool, as_delta: bool = False) -> np.ndarray:
    """The mean of the pseudobulks, every perturbation counting once (G).

    Args:
        summary: The real side.
        include_control: Whether the control's pseudobulk is one of those averaged, as cell-eval does.
        as_delta: Whether to return the mean change against control instead.
    """
    profiles = summary.profiles if include_control else summary.profiles[:-1]
    return profiles.mean(axis=0) - summary.profiles[-1] if as_delta else profiles.mean(axis=0)


def constant_screen(reference: Screen, profile: np.ndarray, expression: Mapping[str, Any]) -> Screen:
    """A screen whose cells all have one profile, with the reference's numbers of cells and its control cells.

    Each perturbation's profile is stored once, and stands for all its cells.

    Args:
        reference: The real cells, as counts or log-normalised.
        profile: Log-normalised expression of every perturbed cell (G).
        expression: The evaluation profile's `expression` settings.
    """
    n_perturbations = len(reference.perturbations)
    matrix = np.ascontiguousarray(np.broadcast_to(profile, (n_perturbations, len(profile))))
    perturbed = CellBlock(matrix, np.arange(n_perturbations, dtype=np.int32), matrix.sum(axis=1))
    controls = lognorm_control(reference, expression)
    # A fraction of 1 marks the values as log-normalised, whatever they happen to be.
    return replace(
        reference,
        blocks=(perturbed, *controls),
        copies=reference.n_cells[:-1],
        smallest=0.0,
        largest_fraction=1.0,
        largest=max(float(profile.max()), *(value_range(block.matrix).largest for block in controls)),
    )


def lognorm_control(screen: Screen, expression: Mapping[str, Any]) -> tuple[CellBlock, ...]:
    """The control cells of a screen, log-normalised."""
    mode, scales = lognorm_transform(screen, expression)
    control = []
    for block, scale in zip(screen.blocks, scales, strict=True):
        rows = np.flatnonzero(block.codes == len(screen.perturbations))
        taken = block.take(rows)
        matrix = taken.matrix
        if mode == AS_IS:
            pass
        elif isinstance(matrix, np.ndarray):
            matrix = np.log1p(matrix / scale[rows, None])
        else:
            per_value = np.repeat(scale[rows], np.diff(matrix.indptr))
            matrix = replace(matrix, data=np.log1p(matrix.data / per_value))
        control.append(replace(taken, matrix=matrix))
    return tuple(block for block in control if len(block.codes))


def resampled_screen(
    reference: Screen, *, seed: int, target_genes: Mapping[str, str | None] | None, shift: bool
) -> Screen:
    """Control cells drawn again for every perturbation, as many as it has cells.

    With `shift`, each gene is scaled so that the expected counts are the mean perturbed profile (the baseline of the
    2026 challenge): the mean over perturbations of their mean counts, where a gene leaves out the perturbations that
    target it. Without, it is a copy of the control.

    Args:
        reference: The real cells, as counts where `shift`.
        seed: Seed of the draws.
        target_genes: Perturbation -> target gene, as for the evaluation.
        shift: Whether to scale genes.
    """
    n_perturbations, n_genes = len(reference.perturbations), len(reference.genes)
    control_blocks = reference.control_blocks()
    control = stack([block.matrix for block in control_blocks])
    scale = np.ones(n_genes)
    if shift:
        means = block_sums(reference.blocks, n_perturbations + 1, n_genes) / reference.n_cells[:, None]
        target = target_positions(reference.perturbations, reference.genes, target_genes)
        used = np.ones((n_perturbations, n_genes), dtype=bool)
        used[np.flatnonzero(target >= 0), target[target >= 0]] = False
        counted = used.sum(axis=0)
        if not counted.all():
            gene = reference.genes[np.flatnonzero(counted == 0)[0]]
            raise ValueError(f"every perturbation targets gene {gene!r}, so it has no mean response for a baseline")
        profile = np.where(used, means[:-1], 0.0).sum(axis=0) / counted
        scale = np.divide(profile, means[-1], out=np.zeros(n_genes), where=means[-1] > 0)
    generator = np.random.default_rng(seed)
    sizes = reference.n_cells[:-1]
    blocks = []
    for code, size in enumerate(sizes):
        drawn = control[generator.integers(0, control.shape[0], size=int(size))]
        if shift:
            drawn = replace(drawn, data=(drawn.data * scale[drawn.indices]).astype(np.float32))
        blocks.append(CellBlock(drawn, np.full(int(size), code, dtype=np.int32), value_range(drawn).library))
    return replace(reference, blocks=(*blocks, *control_blocks))
