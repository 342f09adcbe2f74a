"""Whether data are on the scale that a State Transition model reads: in training, and in prediction."""

from typing import Any

from transformers.utils import logging

from state_hf.configuration.advice import Advised
from state_hf.data.screens.named_genes import check_named_genes
from state_hf.data.screens.normalisation import same_total
from state_hf.data.screens.perturbation_screens import PerturbationScreens
from state_hf.data.screens.slot_scale import Scale, check_slot

logger = logging.get_logger(__name__)

_FEATURES = "name the slot that has them (feature_key=...)"


def expression_scale(config: Any) -> Scale:
    """Scale of the expression that a model predicts or decodes: "counts", "log1p", or "embedding" if it is neither."""
    if getattr(config, "gene_decoder", None) is not None:
        return "counts" if config.gene_decoder == "negative_binomial" else "log1p"
    return config.feature_scale or "log1p"


def trained_total(
    config: Any,
    screens: PerturbationScreens,
    features: str,
    expression: str | None,
    *,
    given: float | None,
    initial: float | None,
) -> float | None:
    """Hold the cells that train a model against the scale that it reads and predicts.

    Args:
        config: The model's configuration.
        screens: The screens.
        features: Slot of its features.
        expression: Slot of the expression that it decodes; None if it decodes none.
        given: Counts per cell that the user says the expression was normalised to.
        initial: Those that the model was trained on before.

    Returns:
        Counts per cell that the expression was normalised to; None where that is not known, or not done.

    Raises:
        ValueError: See `check_slot` and `check_named_genes`; or what the cells were normalised to differs from `given`
            or `initial`.
    """
    reads: Scale = config.feature_scale or "log1p"
    others = " or ".join(scale for scale in ("log1p", "counts", "embedding") if scale != reads)
    way = f"say what else the model reads, with feature_scale in its configuration (config=...): {others}"
    total = check_slot(screens, features, reads, *_makes(reads), _FEATURES, way)
    if expression is not None:
        wanted = expression_scale(config)
        way = f"name the slot that has {wanted} values (expression_slot=...)"
        features, total = expression, check_slot(screens, expression, wanted, way)
    elif reads != "embedding":
        way = "take all genes, which have names (feature_key='X')"
        for screen in screens.screens:
            check_named_genes(screen.cells.matrix(features), way)
    place = _place(features, screens)
    for claimed, whose, instead in (
        (initial, "the initial model was trained on cells normalised to", ""),
        (given, f"target_sum={given} says that cells were normalised to", "leave it out"),
    ):
        if claimed is None:
            continue
        if total is not None and not same_total(total, claimed):
            make = f"preprocess the screen to that total (`state-hf preprocess --target-sum {claimed:g}`)"
            problem = f"{whose} {claimed:,g} counts, and {place} is normalised to {total:,g}"
            raise ValueError(Advised(problem, make, *([instead] if instead else [])))
        total = claimed if total is None else total
    return total


def predicted_total(
    config: Any, screens: PerturbationScreens, *, features: str, expression: str, counts: str | None
) -> float | None:
    """Hold the control cells that a model predicts from against what it was trained on.

    Args:
        config: The model's configuration.
        screens: The screens; their control cells are looked at.
        features: Slot of the model's features.
        expression: Slot of the control cells' expression, which is read if the model decodes expression.
        counts: Slot of raw counts; None if none are read.

    Returns:
        Counts per cell that predicted expression is normalised to; None where that is not known, or not done.

    Raises:
        ValueError: See `check_slot`; or the cells were normalised to another total than those that trained the model.
    """
    reads = config.feature_scale
    total = check_slot(screens, features, reads, *_makes(reads), _FEATURES, only_controls=True)
    slot = features
    if getattr(config, "gene_decoder", None) is not None:
        wanted = expression_scale(config)
        way = f"name the slot that has {wanted} values (expression_slot=...)"
        slot, total = expression, check_slot(screens, expression, wanted, way, only_controls=True)
    if counts is not None:
        way = "name the slot that has the raw counts (counts_slot=...)"
        check_slot(screens, counts, "counts", way, only_controls=True)
    trained, place = config.target_sum, _place(slot, screens)
    if expression_scale(config) != "log1p":
        return None
    if trained is None:
        if total is not None:
            logger.warning(
                f"the model does not say what its training cells were normalised to; {place} is normalised to "
                f"{total:,g} counts a cell"
            )
        return total
    if total is None:
        logger.warning(
            f"what {place} was normalised to is not known; the model was trained on cells normalised to {trained:,g} "
            "counts"
        )
    elif not same_total(trained, total):
        raise ValueError(
            f"the model was trained on cells normalised to {trained:,g} counts, and {place} is normalised to "
            f"{total:,g}, so that one value means different expression in the two; preprocess the file to the model's "
            f"total (`state-hf preprocess --target-sum {trained:g}`)"
        )
    return trained


def _place(slot: str, screens: PerturbationScreens) -> str:
    return f"{slot} of {' and '.join(screen.name for screen in screens.screens)}"


def _makes(scale: Scale) -> list[str]:
    return ["make log1p values of counts (`state-hf preprocess`)"] if scale == "log1p" else []


__all__ = ["expression_scale", "predicted_total", "trained_total"]
