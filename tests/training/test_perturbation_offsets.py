"""Offsets against numbers that can be worked out by hand."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny_models import state_transition_model

from state_hf import (
    PerturbationDataset,
    PerturbationSplit,
    PerturbationVocabulary,
    StateTransitionForPerturbation,
    open_screens,
)
from state_hf.data.screens.split_definition import SplitDefinition
from state_hf.training.perturbation_offsets import fit_perturbation_offsets
from state_hf.training.transfer import replace_perturbations


@pytest.fixture
def dataset():
    """Two genes. P has a mean of (3, 1), Q of (1, 1.5), and both +-0.5 around it in 16 cells."""
    around = np.tile([[0.5], [-0.5]], (8, 2))
    cells = np.concatenate([np.zeros((4, 2)), around + np.array([3, 1]), around + np.array([1, 1.5])]).astype(
        np.float32
    )
    obs = pd.DataFrame({"perturbation": ["ctrl"] * 4 + ["P"] * 16 + ["Q"] * 16, "cell_type": "a"}).astype("category")
    obs.index = obs.index.astype(str)
    screens = open_screens(anndata.AnnData(cells, obs=obs, var=pd.DataFrame(index=["g1", "g2"])), control="ctrl")
    split = PerturbationSplit(screens, SplitDefinition(training=("screen",)))
    return PerturbationDataset(screens, split=split, set_size=8)


@pytest.fixture
def model(dataset):
    screens = dataset.screens
    names = PerturbationVocabulary(screens.perturbations, "ctrl", screens.batches, screens.cell_types, ["g1", "g2"])
    model = state_transition_model(names, use_perturbation_offsets=True)
    # It predicts no effect at all.
    for weights in model.state_transition.output_projection.parameters():
        torch.nn.init.zeros_(weights)
    return model


def test_clear_residuals_become_offsets(dataset, model):
    # Centred over P and Q: (1, -0.25) and (-1, 0.25). The variance is 32 * 0.25 / 30, so the error of a mean is 0.129.
    assert fit_perturbation_offsets(model, dataset, standard_errors=3) == 2
    offsets = dict(
        zip(dataset.screens.perturbations, model.state_transition.perturbation_offsets.tolist(), strict=True)
    )
    assert offsets == {"ctrl": [0, 0], "P": [pytest.approx(1), 0], "Q": [pytest.approx(-1), 0]}
    # 0.25 is 1.94 errors away from 0.
    assert fit_perturbation_offsets(model, dataset, standard_errors=1.9) == 4


def test_offsets_are_added_saved_and_taken_along(dataset, model, tmp_path):
    fit_perturbation_offsets(model, dataset)
    ids = torch.tensor([[model.vocabulary.perturbation_id("P"), -1]])
    cells = model.eval()(control=torch.zeros(1, 3, 2), perturbation_ids=ids).predicted_cells
    torch.testing.assert_close(cells, torch.tensor([1.0, 0.0]).expand(1, 3, 2))
    model.save_pretrained(tmp_path)
    loaded = StateTransitionForPerturbation.from_pretrained(tmp_path)
    offsets = model.state_transition.perturbation_offsets
    torch.testing.assert_close(loaded.state_transition.perturbation_offsets, offsets)
    old = model.vocabulary
    changed = type(old)(["P", "ctrl", "R"], "ctrl", old.batches, old.cell_types, old.genes)
    replace_perturbations(loaded, changed)
    expected = torch.stack([offsets[old.perturbation_id("P")], torch.zeros(2), torch.zeros(2)])
    torch.testing.assert_close(loaded.state_transition.perturbation_offsets.data, expected)


def test_a_model_without_offsets_is_refused(dataset, model):
    model.state_transition.perturbation_offsets = None
    with pytest.raises(ValueError, match="use_perturbation_offsets=True"):
        fit_perturbation_offsets(model, dataset)
