"""The README's examples run as they stand, in a folder with a model and a file of cells."""

import re
import shlex
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from state_hf import (
    StateEmbeddingForMaskedExpression,
    generate_screen,
)
from state_hf.cli import main
from tests.tiny_models import save_state_embedding

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line for language, code in BLOCKS if language == "bash" for line in code.splitlines() if line.startswith("state-hf")
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    genes = [f"GENE{number}" for number in range(60)]
    save_state_embedding(
        folder / "model", genes, model_class=StateEmbeddingForMaskedExpression, max_position_embeddings=32
    )
    counts = np.random.default_rng(0).poisson(1.0, (20, len(genes))).astype(np.float32)
    cells = anndata.AnnData(sp.csr_matrix(counts))
    cells.var_names, cells.obs_names = genes, [f"cell{number}" for number in range(20)]
    cells.write_h5ad(folder / "cells.h5ad")
    screen = generate_screen(
        num_cell_types=1,
        num_perturbations=12,
        num_genes=600,
        cells_per_perturbation=200,
        controls=600,
        depth=10_000,
        seed=0,
    )
    for first, name in enumerate(("predicted", "measured")):
        screen[first::2].copy().write_h5ad(folder / f"{name}.h5ad")
    return folder


def test_there_are_examples():
    assert PYTHON
    assert COMMANDS


@pytest.mark.parametrize("code", PYTHON)
def test_python_example(code, files, monkeypatch):
    monkeypatch.chdir(files)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_command_example(command, files, monkeypatch):
    monkeypatch.chdir(files)
    assert main(shlex.split(command)[1:]) == 0


def test_the_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE):
        assert f"\n{target}:" in makefile
