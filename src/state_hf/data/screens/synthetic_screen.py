"""A generator of realistic small perturbation screens, for demos, tests and benchmarks without a download."""

from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from state_hf.tokenization.feature_types import expression_features

# Sampling is done for so many cells at a time; part of the seeding, so changing it changes every screen.
_BLOCK_CELLS = 2048
_PROGRAMME_GENES = 40
_PROGRAMME_SPREAD = 0.25
_CELL_TYPE_SPREAD = 0.6
_BATCH_SPREAD = 0.08
_DEPTH_SPREAD = 0.35
_STRONG_SHARE = 0.3
_ESCAPE_SHARE = 0.1


def _reference_fractions(num_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Mean share of a cell's counts per gene: the two humps (detected, barely detected) of droplet data, (genes,)."""
    expressed = rng.random(num_genes) < 0.6
    log_mean = np.where(expressed, rng.normal(0.0, 1.2, num_genes), rng.normal(-4.0, 1.0, num_genes))
    fractions = np.exp(log_mean)
    return fractions / fractions.sum()


def _profile_of(reference: anndata.AnnData) -> tuple[np.ndarray, pd.Index]:
    """Mean share of a cell's counts per gene (genes,), and the genes' names."""
    is_gene = expression_features(reference.var, "the reference").is_expression
    totals = np.asarray(reference.X.sum(axis=0), dtype=np.float64).ravel()[is_gene]
    if not np.isfinite(totals).all() or (totals < 0).any() or totals.sum() == 0:
        raise ValueError("the reference's X must hold counts: finite, none negative, and not all zero")
    # A gene that the reference never saw keeps a little expression, as its true mean is unknown and not zero.
    fractions = totals + 0.01 * totals[totals > 0].min()
    return fractions / fractions.sum(), reference.var_names[is_gene].astype(str)


@dataclass(frozen=True)
class _Effects:
    """Log fold changes, all over genes: what the cells of every label are made of."""

    base: np.ndarray  # (genes,) log share of counts
    cell_types: np.ndarray  # (cell types, genes)
    batches: np.ndarray  # (batches, genes)
    programmes: np.ndarray  # (programmes, genes)
    perturbations: np.ndarray  # (cell types, perturbations + 1, genes), the control's row is zero
    inverse_dispersion: np.ndarray  # (genes,)


def _programmes(num_genes: int, num_programmes: int, rng: np.random.Generator) -> np.ndarray:
    programmes = np.zeros((num_programmes, num_genes))
    size = min(_PROGRAMME_GENES, num_genes)
    for row in programmes:
        row[rng.choice(num_genes, size, replace=False)] = rng.normal(0.6, 0.4, size)
    return programmes


def _perturbation_effects(
    targets: np.ndarray, programmes: np.ndarray, num_cell_types: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Each perturbation knocks its target down and moves one or two programmes, more or less by cell type.

    Returns:
        Log fold changes (cell types, perturbations + 1, genes), and by how much each programme is moved
        (perturbations, programmes).
    """
    moves = np.zeros((len(targets), len(programmes)))
    effects = np.zeros((num_cell_types, len(targets) + 1, programmes.shape[1]))
    for row, target in enumerate(targets, start=1):
        strength = rng.uniform(1.0, 2.0) if rng.random() < _STRONG_SHARE else rng.uniform(0.05, 0.4)
        activity = moves[row - 1]
        moved = rng.choice(len(programmes), rng.integers(1, 3), replace=False)
        activity[moved] = strength * rng.choice([-1.0, 1.0], len(moved))
        residual = rng.uniform(0.05, 0.3)
        for cell_type in range(num_cell_types):
            effects[cell_type, row] = (activity * rng.lognormal(0.0, 0.4, len(programmes))) @ programmes
            effects[cell_type, row, target] = np.log(residual)
    return effects, moves


def _draw_counts(
    effects: _Effects, cell_types: np.ndarray, perturbations: np.ndarray, batches: np.ndarray, depth: float, seed: int
) -> sparse.csr_matrix:
    """Negative-binomial counts (cells, genes), block by block, so that memory holds one dense block."""
    blocks = []
    for start in range(0, len(cell_types), _BLOCK_CELLS):
        rng = np.random.default_rng([seed, 1, start])
        block = slice(start, start + _BLOCK_CELLS)
        kinds, lots = cell_types[block], batches[block]
        # Some cells carry the label of a guide that did nothing, as in any screen.
        acting = np.where(rng.random(len(kinds)) < _ESCAPE_SHARE, 0, perturbations[block])
        activity = rng.normal(0.0, _PROGRAMME_SPREAD, (len(kinds), len(effects.programmes)))
        log_share = effects.base + effects.cell_types[kinds] + effects.batches[lots] + activity @ effects.programmes
        share = np.exp(log_share + effects.perturbations[kinds, acting])
        totals = rng.lognormal(np.log(depth), _DEPTH_SPREAD, (len(kinds), 1))
        means = share / share.sum(axis=1, keepdims=True) * totals
        shapes = np.broadcast_to(effects.inverse_dispersion, means.shape)
        counts = rng.poisson(rng.gamma(shapes, means / shapes))
        blocks.append(sparse.csr_matrix(counts.astype(np.float32)))
    return sparse.vstack(blocks, format="csr")


def _numbered(stem: str, count: int) -> pd.Index:
    return pd.Index([f"{stem}_{number}" for number in range(1, count + 1)])


def generate_screen(
    *,
    num_cell_types: int = 3,
    num_perturbations: int = 12,
    num_genes: int = 400,
    num_batches: int = 2,
    cells_per_perturbation: int = 60,
    controls: int = 200,
    depth: float = 2000.0,
    reference: anndata.AnnData | None = None,
    control_label: str = "non-targeting",
    seed: int = 0,
) -> anndata.AnnData:
    """Generate a knock-down screen with raw counts, several cell types, and batches.

    Counts are negative binomial around a mean that multiplies, gene by gene: a reference profile, the cell type's
    deviation on a part of the genes, the batch's small deviation, the cell's own activity of gene programmes, and the
    perturbation's effect, normalised to the cell's depth. A perturbation is named after its target gene, leaves 5 to
    30 % of it, and moves one or two programmes; three in ten do so strongly, the others hardly, and by how much depends
    on the cell type. One perturbed cell in ten escapes its perturbation.

    Args:
        num_cell_types: Number of cell types, `type_1`, ...
        num_perturbations: Number of perturbations beside the control, each of a gene in the upper half of expression.
        num_genes: Number of genes, `GENE0001`, ...; ignored where a reference is given.
        num_batches: Number of batches, `batch_1`, ...; cells of every group are spread over all of them.
        cells_per_perturbation: Cells of every (cell type, perturbation).
        controls: Control cells of every cell type.
        depth: Median number of counts of a cell.
        reference: Real cells with counts in X, from which gene names and mean profile are taken.
        control_label: Label of the control cells.
        seed: Same seed and arguments, same screen.

    Returns:
        Cells in random order; `X` CSR float32 counts, `obs` with categories `perturbation`, `cell_type` and `batch`,
        `uns["synthetic_screen"]` with the arguments, `uns["programme_moves"]` with how much every perturbation moves
        every programme, in log fold changes: what there is to know of perturbations.

    Raises:
        ValueError: There are more perturbations than genes to perturb, or the reference holds no counts.
    """
    rng = np.random.default_rng([seed, 0])
    if reference is not None:
        fractions, genes = _profile_of(reference)
    else:
        fractions = _reference_fractions(num_genes, rng)
        genes = pd.Index([f"GENE{number:04d}" for number in range(1, num_genes + 1)])
    upper_half = np.argsort(-fractions, kind="stable")[: max(1, len(genes) // 2)]
    if num_perturbations > len(upper_half):
        raise ValueError(
            f"{num_perturbations} perturbations need as many target genes, but only {len(upper_half)} of the "
            f"{len(genes)} genes are well expressed; ask for fewer perturbations or more genes"
        )
    targets = np.sort(rng.choice(upper_half, num_perturbations, replace=False))
    programmes = _programmes(len(genes), max(4, num_perturbations // 2), rng)
    marked = rng.random((num_cell_types, len(genes))) < 0.3
    cell_type_effects = np.where(marked, rng.normal(0.0, _CELL_TYPE_SPREAD, marked.shape), 0.0)
    batch_effects = rng.normal(0.0, _BATCH_SPREAD, (num_batches, len(genes)))
    perturbation_effects, moves = _perturbation_effects(targets, programmes, num_cell_types, rng)
    effects = _Effects(
        base=np.log(fractions),
        cell_types=cell_type_effects,
        batches=batch_effects,
        programmes=programmes,
        perturbations=perturbation_effects,
        inverse_dispersion=rng.lognormal(1.0, 0.5, len(genes)),
    )
    sizes = np.array([controls] + [cells_per_perturbation] * num_perturbations)
    perturbations = np.tile(np.repeat(np.arange(len(sizes)), sizes), num_cell_types)
    cell_types = np.repeat(np.arange(num_cell_types), sizes.sum())
    order = rng.permutation(len(perturbations))
    # Dealt out before the shuffle, so that every group has its share of every batch.
    batches = (np.arange(len(order)) % num_batches)[order]
    perturbations, cell_types = perturbations[order], cell_types[order]
    labels = [control_label, *genes[targets]]
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical.from_codes(perturbations, pd.Index(labels)),
            "cell_type": pd.Categorical.from_codes(cell_types, _numbered("type", num_cell_types)),
            "batch": pd.Categorical.from_codes(batches, _numbered("batch", num_batches)),
        },
        index=[f"cell_{number}" for number in range(len(order))],
    )
    settings = {
        "num_cell_types": num_cell_types, "num_perturbations": num_perturbations, "num_genes": len(genes),
        "num_batches": num_batches, "cells_per_perturbation": cells_per_perturbation, "controls": controls,
        "depth": depth, "control_label": control_label, "seed": seed,
    }  # fmt: skip
    counts = _draw_counts(effects, cell_types, perturbations, batches, depth, seed)
    truth = pd.DataFrame(moves, index=pd.Index(labels[1:]), columns=_numbered("programme", len(programmes)))
    uns = {"synthetic_screen": settings, "programme_moves": truth}
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes), uns=uns)
