"""Splits against cell-load 0.10.4, on the stored cells per split of the field's TOML examples."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_hf.data.screens.perturbation_screens import open_screens
from state_hf.data.screens.split_definition import PARTS
from state_hf.data.screens.split_toml import dataset_files, read_split_toml, write_split_toml
from state_hf.data.screens.splits import PerturbationSplit

REFERENCE = json.loads((Path(__file__).parents[1] / "fixtures" / "cell_load_splits.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("screens")
    for name, columns in REFERENCE["files"].items():
        obs = pd.DataFrame({column: text.split(" | ") for column, text in columns.items()}).astype("category")
        obs.index = [f"{Path(name).stem}_{number}" for number in range(len(obs))]
        (root / name).parent.mkdir(exist_ok=True)
        anndata.AnnData(np.ones((len(obs), 3), np.float32), obs=obs).write_h5ad(root / name)
    return root


def parts_of(toml, folder):
    definition = read_split_toml(toml)
    screens = open_screens(dataset_files(definition, base=folder), perturbation_key="gene", batch_key="gem_group")
    split = PerturbationSplit(screens, definition, controls="shared")
    digits = {name: "0" * len(columns["gene"].split(" | ")) for name, columns in REFERENCE["files"].items()}
    for number, screen in enumerate(screens.screens):
        bits = sum(mask[number].astype(int) << place for place, mask in enumerate(map(split.target_masks, PARTS)))
        digits[str(screen.source.relative_to(folder))] = "".join(map(str, bits))
    return digits


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_the_same_cells_are_in_every_part(case, folder, tmp_path):
    (tmp_path / "split.toml").write_text(REFERENCE["cases"][case]["toml"])
    assert parts_of(tmp_path / "split.toml", folder) == REFERENCE["cases"][case]["parts"]


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_a_written_split_gives_the_same_cells(case, folder, tmp_path):
    (tmp_path / "split.toml").write_text(REFERENCE["cases"][case]["toml"])
    write_split_toml(read_split_toml(tmp_path / "split.toml"), tmp_path / "written.toml")
    assert parts_of(tmp_path / "written.toml", folder) == REFERENCE["cases"][case]["parts"]
