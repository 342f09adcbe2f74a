"""Differential expression of a whole screen against pdex, the engine of cell-eval

    python benchmarks/differential_expression.py [--quick]

Both read the same log-normalised screen into memory and compile on a tiny one before the clock starts.
"""

from perturbation_screens import SIZES, in_words, write_pair
from turns import Contest, main


def state_hf(tiny: str, cells: str, threads: int):
    import anndata

    from state_hf import differential_expression

    differential_expression(anndata.read_h5ad(tiny), perturbation_key="target_gene")
    screen = anndata.read_h5ad(cells)

    def call() -> None:
        differential_expression(screen, perturbation_key="target_gene")

    return call


def pdex(tiny: str, cells: str, threads: int):
    import anndata
    from pdex import pdex

    options = {"groupby": "target_gene", "mode": "ref", "reference": "non-targeting"}
    options |= {"is_log1p": True, "epsilon": 0.0, "threads": threads}
    pdex(anndata.read_h5ad(tiny), **options)
    screen = anndata.read_h5ad(cells)

    def call() -> None:
        pdex(screen, **options)

    return call


def claim(contest: Contest) -> None:
    with contest.folder() as folder:
        tiny = write_pair(folder, "tiny", lognorm=True)[1]
        for name in ("a",) if contest.quick else ("a", "b"):
            cells = write_pair(folder, name, lognorm=True)[1]
            contest.compare(
                f"Differential expression, {in_words(SIZES[name])}",
                (state_hf, pdex),
                {"tiny": str(tiny), "cells": str(cells), "threads": contest.threads},
                repeats=2 if contest.quick else 3,
                warm_up=0,
            )


if __name__ == "__main__":
    main(claim)
