"""Made-up evaluation results, plausible in shape, for the report's tests."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm

from state_hf.metrics.de_tables import DifferentialExpression
from state_hf.metrics.profiles import load_profile
from state_hf.metrics.result import EvaluationResult


def made_up_result(
    perturbations: Sequence[str] = ("GATA1", "KLF1", "MYC", "TP53"),
    genes: Sequence[str] | int = 60,
    *,
    profile: str = "vcc2025",
    scored: bool = True,
    seed: int = 0,
    contexts: Sequence[str] = (),
) -> EvaluationResult:
    """A prediction that sees half of every real effect."""
    generator = np.random.default_rng(seed)
    labels = np.array(perturbations, dtype=object)
    names = np.array([f"GENE{i}" for i in range(genes)] if isinstance(genes, int) else genes, dtype=object)
    shape = len(labels), len(names)
    strength = generator.gamma(1.0, 1.0, size=(shape[0], 1))
    real = strength * generator.normal(size=shape) * (generator.random(shape) < 0.08) + 0.05 * generator.normal(
        size=shape
    )
    predicted = 0.5 * real + 0.1 * generator.normal(size=shape)
    distances = cdist(predicted, real, "cityblock")
    nearer = (distances < np.diag(distances)[:, None]).sum(axis=1)
    values = pd.DataFrame(
        {
            "mae": np.abs(predicted - real).mean(axis=1),
            "pds": 1 - nearer / len(labels),
            "des": np.clip(0.4 + 0.2 * generator.normal(size=len(labels)), 0, 1),
        },
        index=pd.Index(labels, name="perturbation"),
    )
    rule = load_profile(profile)
    values.columns = [metric.name for metric in rule.metrics][:3]
    aggregate = values.describe().T
    scores = pd.DataFrame(
        {
            "prediction": [*values.mean(), np.nan],
            "baseline": [0.09, 0.5, 0.1, np.nan],
            "ceiling": [0.02, 0.97, 0.7, np.nan],
            "score": [0.42, 0.61, 0.33, 0.4533],
        },
        index=[*values.columns, "overall"],
    )
    return EvaluationResult(
        profile=rule,
        settings=rule.to_dict() | {"control": "non-targeting", "seed": seed},
        per_perturbation=values,
        aggregate=aggregate,
        scores=scores if scored else None,
        de_tables=None if contexts else (_made_up_de(predicted, labels, names), _made_up_de(real, labels, names)),
        discrimination=None if contexts else pd.DataFrame(distances, index=labels, columns=labels),
        effects_prediction=None if contexts else pd.DataFrame(predicted, index=labels, columns=names),
        effects_reference=None if contexts else pd.DataFrame(real, index=labels, columns=names),
        diagnostics=pd.DataFrame({"effect_size_ratio": np.linspace(0.4, 0.6, len(labels))}, index=labels),
        summary={"perturbations": float(len(labels)), "effect_size_ratio": 0.5, "nearly_identical_share": 0.0},
        contexts={
            name: made_up_result(perturbations, genes, profile=profile, scored=scored, seed=index + 1)
            for index, name in enumerate(contexts)
        },
    )


def _made_up_de(effects: np.ndarray, labels: np.ndarray, genes: np.ndarray) -> DifferentialExpression:
    p_value = 2 * norm.sf(np.abs(effects) / 0.08)
    order = p_value.argsort(axis=1).argsort(axis=1) + 1
    return DifferentialExpression(
        perturbations=labels,
        genes=genes,
        tested=np.arange(len(genes)),
        target_mean=np.exp(effects),
        reference_mean=np.ones(len(genes)),
        target_cells=np.full(len(labels), 50),
        reference_cells=200,
        log2_fold_change=effects / np.log(2),
        p_value=p_value,
        statistic=np.zeros_like(effects),
        fdr=np.minimum(p_value * len(genes) / order, 1.0),
        significance=0.05,
    )


@pytest.fixture(scope="session")
def make_result() -> Callable[..., EvaluationResult]:
    return made_up_result
