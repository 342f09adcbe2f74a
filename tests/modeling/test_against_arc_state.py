"""State Embedding against arc-state 0.11.1, on the stored outputs of its random models."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from state_hf import StateEmbeddingForMaskedExpression, StateEmbeddingModel

FIXTURES = Path(__file__).parents[1] / "fixtures" / "state_embedding"
NAMES = ("small", "wide", "without_dataset")
# The peer's numbers were computed in float32. Ours are computed in double, so that what is between them is the peer's
# rounding alone, whatever the machine.
TOLERANCE = {"rtol": 0, "atol": 1e-5, "check_dtype": False}


@pytest.fixture(params=NAMES)
def folder(request):
    return FIXTURES / request.param


@pytest.fixture
def reference(folder):
    return load_file(folder / "expected.safetensors")


def test_every_original_weight_is_used(folder):
    _, info = StateEmbeddingForMaskedExpression.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert not info["unexpected_keys"]


def test_embeddings_logits_and_decoded_expression(folder, reference):
    model = StateEmbeddingForMaskedExpression.from_pretrained(folder).double()
    with torch.no_grad():
        output = model(
            reference["input_ids"],
            expression=reference["expression"],
            target_ids=reference["target_ids"],
            labels=reference["labels"],
        )
    expected = {key.removeprefix("expected."): value for key, value in reference.items() if "expected." in key}
    expected.pop("gene_output")
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def test_embeddings_as_input(folder, reference):
    model = StateEmbeddingModel.from_pretrained(folder).double()
    with torch.no_grad():
        output = model(reference["inputs_embeds"], expression=reference["embeds_expression"])
    torch.testing.assert_close(output["gene_output"], reference["expected.gene_output"], **TOLERANCE)
