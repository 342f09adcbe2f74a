"""Whole evaluations against cell-eval and cell-eval2, profile by profile

    python benchmarks/evaluation.py [--quick] [--folder SCREENS]

Every turn is a process of its own. All read the same screens into memory and compile on a tiny pair before the clock
starts. The largest size takes 10 GB of memory (the peer's), and 5 GB of disk with its screens.
"""

import tempfile

from perturbation_screens import SIZES, in_words, write_pair
from turns import Contest, main


def state_hf(profile: str, tiny: list[str], cells: list[str], device: str, threads: int):
    import anndata

    from state_hf import evaluate_predictions

    names = {"perturbation_key": "target_gene", "device": None if device == "cpu" else device}
    evaluate_predictions(*map(anndata.read_h5ad, tiny), profile, on_error="nan", **names)
    pair = [anndata.read_h5ad(path) for path in cells]

    def call() -> None:
        evaluate_predictions(*pair, profile, **names)

    return call


def cell_eval(profile: str, tiny: list[str], cells: list[str], device: str, threads: int):
    import anndata
    from cell_eval import MetricsEvaluator

    def evaluate(pair) -> None:
        with tempfile.TemporaryDirectory() as folder:
            names = {"control_pert": "non-targeting", "pert_col": "target_gene"}
            evaluator = MetricsEvaluator(*pair, **names, outdir=folder, num_threads=threads)
            evaluator.compute(profile={"vcc2025": "vcc"}.get(profile, profile), write_csv=False)

    evaluate([anndata.read_h5ad(path) for path in tiny])
    pair = [anndata.read_h5ad(path) for path in cells]
    return lambda: evaluate(pair)


def cell_eval2(profile: str, tiny: list[str], cells: list[str], device: str, threads: int):
    import contextlib
    from dataclasses import replace

    import anndata
    from cell_eval2 import aggregate_metrics, compute_metrics
    from cell_eval2.config import EvalConfig
    from cell_eval2.run import metric_output_names

    config = replace(EvalConfig.from_preset(profile), pert_col="target_gene")

    def evaluate(pair) -> None:
        values = compute_metrics(*pair, config=config)
        with contextlib.suppress(ValueError):  # where a metric has no value there is no aggregate
            aggregate_metrics(values, metrics=metric_output_names(config))

    evaluate([anndata.read_h5ad(path) for path in tiny])
    pair = [anndata.read_h5ad(path) for path in cells]
    return lambda: evaluate(pair)


def claim(contest: Contest) -> None:
    cases = [("a", "vcc2025", 3), ("b", "vcc2025", 2), ("c", "vcc2025", 1)]
    cases += [("a", "full", 2), ("b", "full", 1), ("a", "vcc2026", 2), ("b", "vcc2026", 1)]
    with contest.folder() as folder:
        for name, profile, repeats in cases[:1] if contest.quick else cases:
            lognorm = profile != "vcc2026"
            tiny, cells = (write_pair(folder, size, lognorm=lognorm) for size in ("tiny", name))
            contest.compare(
                f"Evaluation, `{profile}`, {in_words(SIZES[name])}",
                (state_hf, cell_eval if lognorm else cell_eval2),
                {
                    "profile": profile,
                    "tiny": [str(path) for path in tiny],
                    "cells": [str(path) for path in cells],
                    "device": contest.device,
                    "threads": contest.threads,
                },
                repeats=1 if contest.quick else repeats,
                fresh=True,
            )


if __name__ == "__main__":
    main(claim)
