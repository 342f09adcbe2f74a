"""A mixed model of the mean cells of a screen: what contexts share, what a perturbation does, and what is noise."""

from dataclasses import dataclass, field

import numpy as np
import torch

from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.modeling.layers.mixed_effects_tables import MixedEffectsTables
from state_hf.training.screen_means import ContextId, ScreenMeans
from state_hf.training.unseen_effects import effects_by_features

# The global numbers are learnt from so many features at most; every feature then gets its own two.
_FEATURES = 1000
_STEPS, _OWN_STEPS, _FACTORS_FROM = 60, 15, 10
_TOLERANCE = 1e-3
_FLOOR = 1e-8
# Pseudo-observations that hold a feature's own factors at 1.
_EFFECT_PRIOR, _LEVEL_PRIOR = 5.0, 5.0
_RANK, _PERTURBATIONS_A_FACTOR = 5, 5
_BLOCK_VALUES = 2**25
_DEGREES = 3.0
# Variance, in a cell's, of what nothing is known about.
_FAR = 1e6


@dataclass(frozen=True, eq=False)
class MixedEffects:
    """What is expected of a perturbation in a context, given the mean of its control cells.

    With the observed control mean y of n cells and `noise` the variance of a cell, the perturbed mean is expected at
    `treated` + `covariance` / (`level_variance` + noise / n) * (y - `level`) + `effects`, and the control level at
    `level` + `level_variance` / (`level_variance` + noise / n) * (y - `level`). The tables have a row for every context
    of the screen, and a last one for all others.

    Attributes:
        contexts: The contexts, in the order of the rows.
        level: (contexts + 1, features) control level, as everything but the context's control cells tells it.
        level_variance: (contexts + 1, features) its variance.
        treated: (contexts + 1, features) level of a perturbed cell but for its perturbation's own effect.
        covariance: (contexts + 1, features) covariance of `treated` and `level`.
        effects: (perturbations, features) a perturbation's own effect.
        noise: (contexts + 1, features) variance of a cell around the mean of its group.
        treated_variance: (contexts + 1, features) variance of `treated`, before the control cells are seen.
        effect_variance: (perturbations, features) what `effects` add to the variance of `treated`: their own, and twice
            their covariance with it. Of a perturbation without training cells, the mean square of the others' effects.
        interaction: (features,) variance of what a perturbation's effect in one context adds to it.
    """

    contexts: list[ContextId]
    level: np.ndarray
    level_variance: np.ndarray
    treated: np.ndarray
    covariance: np.ndarray
    effects: np.ndarray
    noise: np.ndarray
    treated_variance: np.ndarray
    effect_variance: np.ndarray
    interaction: np.ndarray


@dataclass(eq=False)
class _Globals:
    """Variances as multiples of a cell's: of the levels by context, and of the effects.

    `common` is of the effect that all perturbations have, `context` of what a context adds to it, `own`
    (perturbations,) of a perturbation's effect beyond `factors` (perturbations, rank), and `interaction` of its effect
    in one context.
    """

    level: np.ndarray
    own: np.ndarray
    factors: np.ndarray
    depth: np.ndarray
    common: float = 0.02
    context: float = 0.01
    interaction: float = 0.01


@dataclass(eq=False)
class _Features:
    """Group means of some features in units of a cell's standard deviation, and the features' own two factors.

    Attributes:
        controls: (contexts, features) precision of the mean control cells, and `control_means` these.
        precision: (contexts, perturbations, features) precision of the mean perturbed cells, 0 where there are none,
            and `means` these.
        scale: (features,) of the variances of effects.
        level_scale: (features,) of the variances of levels.
        tails: (features, perturbations) of the variances of single own effects.
    """

    controls: np.ndarray
    control_means: np.ndarray
    precision: np.ndarray
    means: np.ndarray
    scale: np.ndarray = field(init=False)
    level_scale: np.ndarray = field(init=False)
    tails: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.scale = np.ones(self.controls.shape[1])
        self.level_scale = np.ones(self.controls.shape[1])
        self.tails = np.ones(self.precision.shape[:0:-1])

    def trained(self) -> np.ndarray:
        """(contexts, perturbations), True where there are perturbed cells."""
        return np.asarray((self.precision > 0).any(axis=2))

    def part(self, chosen: np.ndarray | slice) -> "_Features":
        """Some of the features."""
        some = _Features(
            self.controls[:, chosen], self.control_means[:, chosen],
            self.precision[..., chosen], self.means[..., chosen],
        )  # fmt: skip
        some.scale, some.level_scale, some.tails = self.scale[chosen], self.level_scale[chosen], self.tails[chosen]
        return some


@dataclass(eq=False)
class _Posterior:
    """Of the shared terms (levels, common effect, its contexts' parts, factors), and of the perturbations given them.

    Attributes:
        mean: (features, terms), and `variance` (features, terms, terms).
        own: (features, perturbations) a perturbation's effect beyond the factors.
        slope: (features, perturbations, terms) how `own` falls with the terms.
        given: (features, perturbations) variance of `own` where the terms are known.
    """

    mean: np.ndarray
    variance: np.ndarray
    own: np.ndarray
    slope: np.ndarray
    given: np.ndarray


def fit_mixed_effects(means: ScreenMeans, num_perturbations: int) -> MixedEffects:
    """Fit the model by EM, and condition it on the screen.

    The mean cell of perturbation p in context c is L_c + [p is no control] (m + M_c + t_p + g_cp) + noise, for every
    feature: the context's level, an effect that all perturbations have, the context's part of it, the perturbation's
    own, and an interaction that says nothing of other contexts. Variances are a feature's variance between cells times
    a number that the screen's features share (for levels one by context, for t_p one by perturbation, on top of a few
    factors that perturbations share), times a factor of the feature's own. So effects are shrunk by gene and by
    perturbation as far as the screen says (D. V. Lindley, A. F. M. Smith, J. R. Stat. Soc. B 34, 1, 1972; D. B. Rubin,
    D. T. Thayer, Psychometrika 47, 69, 1982, for the factors). Levels vary around a common one times the context's
    depth: contexts that are replicates lend each other their levels, and others do not.

    All are normal but a perturbation's own effects, which have Student's t distribution with 3 degrees of freedom: a
    single strong gene of a weak perturbation is hardly moved (K. L. Lange, R. J. A. Little, J. M. G. Taylor, J. Am.
    Stat. Assoc. 84, 881, 1989).

    Args:
        means: Means of the training cells, from `screen_means`.
        num_perturbations: Perturbations of the vocabulary. One without training cells has an own effect of 0.

    Raises:
        ValueError: No perturbed cells are in a context with controls.
    """
    groups, scale, noise = _groups(means, num_perturbations)
    if not groups.precision.any():
        raise ValueError("The training cells have no perturbation with control cells of the same context.")
    shared = _Globals(
        np.full(len(groups.controls), 0.05),
        np.full(num_perturbations, 0.02),
        np.zeros((num_perturbations, 0)),
        _depths(groups.control_means),
    )
    width, rank = len(scale), min(_RANK, num_perturbations // _PERTURBATIONS_A_FACTOR)
    terms = 2 * len(groups.controls) + 1 + rank
    together = max(1, _BLOCK_VALUES // (terms * (num_perturbations + terms)))
    spaced = np.linspace(0, width - 1, min(width, _FEATURES, together)).astype(int)
    chosen = np.argsort(scale, kind="stable")[spaced]
    some = groups.part(chosen)
    for step in range(_STEPS):
        before = np.array([*shared.level, shared.common, shared.context, shared.interaction, shared.own.mean()])
        posterior = _posterior(some, shared)
        if step == _FACTORS_FROM:
            _start_factors(some, shared, posterior)
            posterior = _posterior(some, shared)
        _improve(some, shared, posterior)
        after = np.array([*shared.level, shared.common, shared.context, shared.interaction, shared.own.mean()])
        if step > _FACTORS_FROM and np.abs(after - before).max() < _TOLERANCE * after.max():
            break
    parts = []
    for start in range(0, width, together):
        block = groups.part(slice(start, start + together))
        for _ in range(_OWN_STEPS):
            posterior = _posterior(block, shared)
            _improve_own(block, shared, posterior, _squares(posterior), _level_squares(block, shared, posterior))
        parts.append(_tables(block, shared))
    level, level_variance, treated, covariance, treated_variance, effects, effect_variance, interaction = (
        np.concatenate(table, axis=1) for table in zip(*parts, strict=True)
    )
    return MixedEffects(
        contexts=list(means.controls),
        level=level * scale,
        level_variance=level_variance * scale**2,
        treated=treated * scale,
        covariance=covariance * scale**2,
        effects=effects * scale,
        noise=noise,
        treated_variance=treated_variance * scale**2,
        effect_variance=effect_variance * scale**2,
        interaction=interaction[0] * scale**2,
    )


@torch.no_grad()
def mixed_effects_tables(
    means: ScreenMeans,
    vocabulary: PerturbationVocabulary,
    perturbation_features: np.ndarray | None = None,
    *,
    variances: bool = False,
) -> MixedEffectsTables:
    """Fit the model, and put what it expects into a module, with a row for every cell type of a vocabulary.

    Args:
        means: Means of the training cells, from `screen_means`.
        vocabulary: Perturbations and cell types in the order of the screens' ids.
        perturbation_features: (perturbations, features) in that order, which say what a perturbation without training
            cells does, as far as they do, see `effects_by_features`.
        variances: Whether the module also says how far it may be off.

    Raises:
        ValueError: No perturbed cells are in a context with controls.
    """
    num_perturbations, num_cell_types = len(vocabulary.perturbations), len(vocabulary.cell_types)
    fitted = fit_mixed_effects(means, num_perturbations)
    # Of a cell type that trains in several datasets, or in none, it is not known which context is meant.
    rows = np.full(num_cell_types + 1, len(fitted.contexts))
    cell_types = [cell_type for _, cell_type in fitted.contexts]
    for row, cell_type in enumerate(cell_types):
        if cell_types.count(cell_type) == 1:
            rows[cell_type] = row
    tables = MixedEffectsTables(num_perturbations, num_cell_types, fitted.effects.shape[1], variances=variances)
    if perturbation_features is not None:
        trained = np.unique([perturbation for (context, perturbation) in means.perturbed if context in means.controls])
        by_features = effects_by_features(fitted.effects[trained], perturbation_features[trained])
        unseen = np.setdiff1d(np.arange(num_perturbations), trained)
        fitted.effects[unseen] = by_features.of_array(perturbation_features[unseen])
        tables.by_features = by_features.float()
    tables.effects.copy_(torch.from_numpy(fitted.effects))
    for name in ("level", "level_variance", "treated", "covariance", "noise"):
        getattr(tables, name).copy_(torch.from_numpy(getattr(fitted, name)[rows]))
    if tables.variances is not None:
        tables.variances.treated.copy_(torch.from_numpy(fitted.treated_variance[rows]))
        tables.variances.effects.copy_(torch.from_numpy(fitted.effect_variance))
        tables.variances.interaction.copy_(torch.from_numpy(fitted.interaction))
    return tables


def _groups(means: ScreenMeans, num_perturbations: int) -> tuple[_Features, np.ndarray, np.ndarray]:
    """Means and precisions in units of a cell's standard deviation, this, (features,), and a cell's variances."""
    contexts = list(means.controls)
    between = np.stack([means.variances[context] for context in contexts])
    variance = between.mean(axis=0)
    smallest = variance[variance > 0].min() if variance.any() else 1.0
    variance = np.maximum(variance, smallest)
    # A feature that does not vary among few cells of one context may do so elsewhere.
    cell = np.where(between > 0, between, variance) / variance
    scale = np.sqrt(variance)
    precision = np.zeros((len(contexts), num_perturbations, len(scale)))
    observed = np.zeros_like(precision)
    for (context, perturbation), mean in means.perturbed.items():
        if context in means.controls:
            row = contexts.index(context)
            precision[row, perturbation] = means.cells[context, perturbation] / cell[row]
            observed[row, perturbation] = mean / scale
    controls = np.stack([means.control_cells[context] / cell[row] for row, context in enumerate(contexts)])
    control_means = np.stack([means.controls[context] / scale for context in contexts])
    noise = np.concatenate([cell * variance, variance[None]])
    return _Features(controls, control_means, precision, observed), scale, noise


def _depths(control_means: np.ndarray) -> np.ndarray:
    """(contexts,) how much higher levels are than the contexts' common ones: the rank-1 fit to all of them."""
    left, _, _ = np.linalg.svd(control_means, full_matrices=False)
    depth = left[:, 0] * np.sign(left[:, 0].sum())
    # Values of an embedding have no height.
    return depth / depth.mean() if (depth > 0).all() else np.ones(len(depth))


def _level_precision(shared: _Globals) -> np.ndarray:
    """(contexts, contexts) precision of levels around a mean that is not known."""
    precision = 1 / shared.level
    loaded = precision * shared.depth
    return np.diag(precision) - np.outer(loaded, loaded) / (loaded @ shared.depth)


def _gram(weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(features, terms, terms): X' W X of the perturbed groups, with weights (features, contexts, perturbations)."""
    features, contexts, _ = weights.shape
    per_context, loaded = weights.sum(axis=2), weights @ factors
    common, position = contexts, np.arange(contexts)
    own, first = contexts + 1 + position, 2 * contexts + 1
    gram = np.zeros((features, first + factors.shape[1], first + factors.shape[1]))
    gram[:, position, position] = gram[:, own, own] = per_context
    gram[:, position, own] = gram[:, own, position] = per_context
    for rows in (position, own):
        gram[:, rows, common] = gram[:, common, rows] = per_context
    gram[:, common, common] = per_context.sum(axis=1)
    gram[:, :contexts, first:] = gram[:, contexts + 1 : first, first:] = loaded
    gram[:, common, first:] = loaded.sum(axis=1)
    gram[:, first:, :first] = gram[:, :first, first:].swapaxes(1, 2)
    rank = factors.shape[1]
    outer = (factors[:, :, None] * factors[:, None, :]).reshape(len(factors), rank**2)
    gram[:, first:, first:] = (weights.sum(axis=1) @ outer).reshape(features, rank, rank)
    return gram


def _rows(weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(features, perturbations, terms): X' W of the groups, summed over a perturbation's."""
    by_perturbation, total = weights.swapaxes(1, 2), weights.sum(axis=1)
    loaded = total[:, :, None] * factors
    return np.concatenate([by_perturbation, total[:, :, None], by_perturbation, loaded], axis=2)


def _posterior(data: _Features, shared: _Globals) -> _Posterior:
    contexts = len(data.controls)
    first = 2 * contexts + 1
    spread = shared.interaction * data.scale
    weights = (data.precision / (1 + data.precision * spread)).transpose(2, 0, 1)
    means, total = data.means.transpose(2, 0, 1), weights.sum(axis=1)
    prior = shared.own * data.scale[:, None] * data.tails
    given = prior / (1 + prior * total)
    rows = _rows(weights, shared.factors)
    slope = given[:, :, None] * rows
    information = _gram(weights, shared.factors) - slope.swapaxes(1, 2) @ rows
    position = np.arange(contexts)
    information[:, :contexts, :contexts] += _level_precision(shared) / data.level_scale[:, None, None]
    information[:, position, position] += data.controls.T
    information[:, contexts, contexts] += 1 / shared.common
    information[:, contexts + 1 + position, contexts + 1 + position] += 1 / shared.context
    position = np.arange(first, information.shape[1])
    information[:, position, position] += 1 / data.scale[:, None]
    weighted = weights * means
    by_context, by_perturbation = weighted.sum(axis=2), weighted.sum(axis=1)
    seen = np.concatenate(
        [
            (data.controls * data.control_means).T + by_context,
            by_context.sum(axis=1, keepdims=True),
            by_context,
            by_perturbation @ shared.factors,
        ],
        axis=1,
    ) - np.einsum("fpk,fp->fk", slope, by_perturbation)
    variance = np.linalg.inv(information)
    mean = np.einsum("fkl,fl->fk", variance, seen)
    own = given * by_perturbation - np.einsum("fpk,fk->fp", slope, mean)
    return _Posterior(mean, variance, own, slope, given)


def _interaction(data: _Features, shared: _Globals, posterior: _Posterior) -> float:
    """Mean expected square of the interactions, in units of `scale`."""
    contexts, mean = len(data.controls), posterior.mean
    first = 2 * contexts + 1
    spread = shared.interaction * data.scale
    weights = (data.precision / (1 + data.precision * spread)).transpose(2, 0, 1)
    fitted = (mean[:, :contexts] + mean[:, [contexts]] + mean[:, contexts + 1 : first])[:, :, None] + (
        posterior.own + mean[:, first:] @ shared.factors.T
    )[:, None, :]
    there = weights > 0
    wide = spread[:, None, None]
    squares = np.square(wide * weights * (data.means.transpose(2, 0, 1) - fitted)) + wide - wide**2 * weights
    # Of the fitted values: sum of weights^2 (u' V u + given), with u = x - slope.
    doubled = np.square(weights)
    rows, squared = _rows(doubled, shared.factors), doubled.sum(axis=1)
    mixed = rows.swapaxes(1, 2) @ posterior.slope
    inner = _gram(doubled, shared.factors) - mixed - mixed.swapaxes(1, 2)
    inner += posterior.slope.swapaxes(1, 2) @ (squared[:, :, None] * posterior.slope)
    uncertain = np.einsum("fkl,flk->f", posterior.variance, inner) + (squared * posterior.given).sum(axis=1)
    total = ((np.where(there, squares, 0).sum(axis=(1, 2)) + spread**2 * uncertain) / data.scale).sum()
    return float(total / there.sum())


def _squares(posterior: _Posterior) -> np.ndarray:
    """(features, perturbations) expected squares of own effects."""
    of_terms = ((posterior.slope @ posterior.variance) * posterior.slope).sum(axis=2)
    return np.square(posterior.own) + posterior.given + of_terms


def _level_squares(data: _Features, shared: _Globals, posterior: _Posterior) -> np.ndarray:
    """(features, contexts) expected squares of levels around their mean."""
    contexts = len(shared.level)
    loaded = shared.depth / shared.level
    precision = loaded @ shared.depth
    centred = np.eye(contexts) - np.outer(shared.depth, loaded) / precision
    around = posterior.mean[:, :contexts] @ centred.T
    variance = ((centred @ posterior.variance[:, :contexts, :contexts]) * centred).sum(axis=2)
    return np.square(around) + variance + data.level_scale[:, None] * np.square(shared.depth) / precision


def _improve(data: _Features, shared: _Globals, posterior: _Posterior) -> None:
    """A step of EM for the numbers that features share, and for those of these features."""
    contexts = len(shared.level)
    first = 2 * contexts + 1
    own_squares, mean, variance = _squares(posterior), posterior.mean, posterior.variance
    seen = data.trained()
    diagonal = np.square(mean) + np.diagonal(variance, axis1=1, axis2=2)
    level_squares = _level_squares(data, shared, posterior)
    interaction = _interaction(data, shared, posterior)
    previous = (data.scale, data.level_scale, data.tails)
    _improve_own(data, shared, posterior, own_squares, level_squares)
    shared.common = max(float(diagonal[:, contexts].mean()), _FLOOR)
    active = seen.any(axis=1)
    # Of one context with perturbed cells nobody can say what is its own; nor of perturbations that one context has.
    several = active.sum() > 1
    shared.context = max(float(diagonal[:, contexts + 1 : first][:, active].mean()), _FLOOR) if several else _FLOOR
    repeated = (seen.sum(axis=0) > 1).any()
    shared.interaction = max(interaction, _FLOOR) if repeated else _FLOOR
    if contexts > 1:
        levels = np.maximum((level_squares / previous[1][:, None]).mean(axis=0), _FLOOR)
        # Two contexts are as far from each other as each from the other.
        shared.level = levels if contexts > 2 else np.full(contexts, levels.mean())
    scale, precision = previous[0][:, None], 1 / (previous[0][:, None] * previous[2])
    trained: np.ndarray = np.asarray(seen.any(axis=0))
    shared.own = np.where(trained, np.maximum((own_squares * precision).mean(axis=0), _FLOOR), _FLOOR)
    if shared.factors.shape[1]:
        factors, spread = mean[:, first:], variance[:, first:, first:]
        outer = factors[:, :, None] * factors[:, None, :] + spread
        together = posterior.own[:, :, None] * factors[:, None, :] - posterior.slope @ variance[:, :, first:]
        together = (together * precision[:, :, None]).mean(axis=0)
        moments = np.einsum("fp,fij->pij", precision, outer) / len(precision)
        change = np.where(trained[:, None], np.linalg.solve(moments, together[:, :, None])[:, :, 0], 0)
        shared.own = np.where(trained, np.maximum(shared.own - (change * together).sum(axis=1), _FLOOR), _FLOOR)
        outer = (outer / scale[:, :, None]).mean(axis=0)
        shared.factors = (shared.factors + change) @ np.linalg.cholesky(outer)


def _improve_own(
    data: _Features, shared: _Globals, posterior: _Posterior, own_squares: np.ndarray, level_squares: np.ndarray
) -> None:
    """A step of EM for the features' own factors of the variances."""
    contexts = len(shared.level)
    trained: np.ndarray = np.asarray(data.trained().any(axis=0))
    squares = own_squares / shared.own
    total = (squares / data.tails)[:, trained].sum(axis=1)
    factors, spread = (
        posterior.mean[:, 2 * contexts + 1 :],
        posterior.variance[:, 2 * contexts + 1 :, 2 * contexts + 1 :],
    )
    total = total + np.square(factors).sum(axis=1) + np.einsum("fii->f", spread)
    number = trained.sum() + factors.shape[1]
    levels = (level_squares / shared.level).sum(axis=1) - 1
    data.tails = (_DEGREES + squares / data.scale[:, None]) / (_DEGREES + 1)
    data.scale = (total + _EFFECT_PRIOR) / (number + _EFFECT_PRIOR)
    if contexts > 1:
        data.level_scale = (levels + _LEVEL_PRIOR) / (contexts - 1 + _LEVEL_PRIOR)


def _start_factors(data: _Features, shared: _Globals, posterior: _Posterior) -> None:
    """Half of the effects so far, in their main directions."""
    trained: np.ndarray = np.asarray(data.trained().any(axis=0))
    rank = min(_RANK, int(trained.sum()) // _PERTURBATIONS_A_FACTOR)
    effects = (posterior.own / np.sqrt(data.scale)[:, None])[:, trained].T
    left, size, _ = np.linalg.svd(effects, full_matrices=False)
    shared.factors = np.zeros((len(trained), rank))
    shared.factors[trained] = left[:, :rank] * size[:rank] / np.sqrt(2 * effects.shape[1])
    shared.own = np.where(trained, shared.own / np.sqrt(2), _FLOOR)


def _tables(data: _Features, shared: _Globals) -> tuple[np.ndarray, ...]:
    """The tables of `MixedEffects` for some features, in units of a cell's standard deviation."""
    contexts = len(data.controls)
    posterior = _posterior(data, shared)
    mean, variance = posterior.mean, posterior.variance
    rows: list[tuple[np.ndarray, ...]] = []
    for context in range(contexts):
        # Without the context's own control cells: what they add to the information is taken away again (J. Sherman,
        # W. J. Morrison, Ann. Math. Stat. 21, 124, 1950).
        precision, column = data.controls[context], variance[:, context]
        left = 1 - precision * column[:, context]
        moved = column * (precision * (mean[:, context] - data.control_means[context]) / left)[:, None]
        together = [context, contexts, contexts + 1 + context]
        without, shared_part = mean + moved, column[:, together].sum(axis=1)
        rows.append(
            (
                without[:, context],
                column[:, context] / left,
                without[:, together].sum(axis=1),
                shared_part / left,
                variance[:, together][:, :, together].sum(axis=(1, 2)) + precision * np.square(shared_part) / left,
            )
        )
    rows.append(_new_context(data, shared, posterior))
    tables = [np.stack(table) for table in zip(*rows, strict=True)]
    effects = posterior.own + mean[:, 2 * contexts + 1 :] @ shared.factors.T
    loaded = -posterior.slope
    loaded[:, :, 2 * contexts + 1 :] += shared.factors
    spread = loaded @ variance
    # What an effect takes from the terms that perturbations share, they lack: both are those of any context.
    start = np.zeros(variance.shape[1])
    start[:contexts], start[contexts] = _weights(shared)[0], 1
    uncertain = np.maximum(posterior.given + (spread * loaded).sum(axis=2) + 2 * spread @ start, 0)
    trained: np.ndarray = np.asarray(data.trained().any(axis=0))
    usual = (np.square(effects) + uncertain)[:, trained].mean(axis=1, keepdims=True)
    uncertain = np.where(trained, uncertain, usual)
    return *tables, effects.T, uncertain.T, (shared.interaction * data.scale)[None]


def _weights(shared: _Globals) -> tuple[np.ndarray, float]:
    """(contexts,) of levels in the common one, and the precision of that."""
    loaded = shared.depth / shared.level
    precision = float(loaded @ shared.depth)
    return loaded / precision, precision


def _new_context(data: _Features, shared: _Globals, posterior: _Posterior) -> tuple[np.ndarray, ...]:
    """A row of the tables for a context that the screen does not have."""
    contexts = len(shared.level)
    weights, precision = _weights(shared)
    mean, variance = posterior.mean, posterior.variance
    level = mean[:, :contexts] @ weights
    spread = np.einsum("i,fij,j->f", weights, variance[:, :contexts, :contexts], weights)
    # One context does not tell how far another one is from it.
    apart = shared.level.mean() + 1 / precision if contexts > 1 else _FAR
    spread += apart * data.level_scale
    common = variance[:, contexts, :contexts] @ weights
    treated = spread + 2 * common + variance[:, contexts, contexts] + shared.context
    return level, spread, level + mean[:, contexts], spread + common, treated


__all__ = ["MixedEffects", "fit_mixed_effects", "mixed_effects_tables"]
