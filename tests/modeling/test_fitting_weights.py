"""Weights of other shapes than config.json says are refused before they take memory."""

import json

import pytest
import torch
from transformers import AutoModel

from state_hf import PerturbationBaseline, PerturbationBaselineConfig, StateEmbeddingModel
from tests.modeling.conftest import state_embedding_config


def change(folder, **fields):
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **fields}))


@pytest.fixture
def folder(tmp_path):
    StateEmbeddingModel(state_embedding_config()).save_pretrained(tmp_path)
    return tmp_path


def test_a_weight_of_another_shape_is_named_and_takes_no_room(folder, monkeypatch):
    change(folder, num_genes=200_000_000)
    monkeypatch.setattr(torch, "empty_like", None)  # What transformers makes room with.
    message = r"do not fit config.json: gene_table.weight is 40 x 16, but 200,000,000 x 16 by the configuration$"
    with pytest.raises(ValueError, match=message) as caught:
        AutoModel.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def test_several_are_counted(folder):
    change(folder, hidden_size=64)
    with pytest.raises(ValueError, match=r"is 40 x 32, but 40 x 64 by the configuration \(and \d+ more\)"):
        StateEmbeddingModel.from_pretrained(folder)


def test_who_wants_other_shapes_gets_them(folder):
    change(folder, num_genes=50)
    model = StateEmbeddingModel.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.gene_table.weight.shape == (50, 16)


def test_baselines_are_held_to_the_same(tmp_path):
    config = PerturbationBaselineConfig(method="perturbation_mean", num_perturbations=3, input_dim=4)
    PerturbationBaseline(config).save_pretrained(tmp_path)
    change(tmp_path, input_dim=5)
    with pytest.raises(ValueError, match="the weights do not fit"):
        AutoModel.from_pretrained(tmp_path)
