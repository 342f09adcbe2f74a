"""The examples in docstrings run, and print what they show.

Those with a model use a small one: the sizes that they show are a released model's, and stand for the small one's.
"""

import doctest
import importlib
import re
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

import state_hf
from state_hf import PerturbationBaseline, PerturbationBaselineConfig, PerturbationVocabulary, StateTransitionModel
from tests.tiny_models import GENES, save_state_embedding, state_transition_model

PACKAGE = Path(state_hf.__file__).parent
CELLS, SET, WIDTH = 5, 3, 4
# What an example shows -> what it is here: cells of a file, a set's cells, genes of a screen, width of a cell's part
# and of all parts of an embedding.
SIZES = {"2638": CELLS, "512": SET, "2000": len(GENES), "2048": WIDTH, "2058": WIDTH + 10}


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            name = ".".join(("state_hf", *path.relative_to(PACKAGE).with_suffix("").parts))
            found += [test for test in finder.find(importlib.import_module(name)) if test.examples]
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the examples take for given: a model's folder, cells."""
    folder = tmp_path_factory.mktemp("examples")
    save_state_embedding(folder, output_dim=WIDTH)
    adata = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (CELLS, len(GENES))).astype(np.float32))
    adata.var_names, adata.layers["counts"] = GENES, adata.X.copy()
    adata.write_h5ad(folder / "pbmc.h5ad")
    names = ["non-targeting", "TP53"]
    vocabulary = PerturbationVocabulary(names, "non-targeting", ["batch"], ["T"], GENES)
    state_transition_model(vocabulary).save_pretrained(folder / "transition")
    config = PerturbationBaselineConfig(method="perturbation_mean", input_dim=len(GENES), num_perturbations=2)
    baseline = PerturbationBaseline(config)
    baseline.vocabulary = vocabulary
    baseline.save_pretrained(folder / "baseline")
    own = {StateTransitionModel.__name__: folder / "transition", PerturbationBaseline.__name__: folder / "baseline"}
    return {
        "folders": own,
        "folder": folder,
        "adata": adata,
        "cells": torch.rand(SET, len(GENES)),
        "torch": torch,
    }


def test_there_are_examples():
    assert len(EXAMPLES) > 10


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name.removeprefix("state_hf."))
def test_an_example_prints_what_it_shows(example, names, monkeypatch):
    monkeypatch.chdir(names["folder"])
    of_its_own = {"folder": names["folders"].get(example.name.split(".")[-1], names["folder"])}
    example.globs.update({**names, **of_its_own})
    for part in example.examples:
        if part.want.startswith(("(", "torch.Size(")):
            part.want = re.sub(r"\d+", lambda size: str(SIZES.get(size[0], size[0])), part.want)
    out: list[str] = []
    with torch.random.fork_rng():
        result = doctest.DocTestRunner().run(example, out=out.append)
    assert result.failed == 0, "".join(out)
    assert result.attempted > 0
