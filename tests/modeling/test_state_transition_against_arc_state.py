"""State Transition against arc-state 0.11.1, on the stored outputs, losses and gradients of its random models."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from state_hf import StateTransitionForPerturbation, StateTransitionModel

FIXTURES = Path(__file__).parents[1] / "fixtures" / "state_transition"
NAMES = sorted(path.name for path in FIXTURES.iterdir())
# The peer's outputs were computed in float32. Ours are computed in double, so that what is between them is the peer's
# rounding alone, whatever the machine.
TOLERANCE = {"rtol": 0, "atol": 1e-5, "check_dtype": False}


@pytest.fixture(params=NAMES)
def folder(request):
    return FIXTURES / request.param


@pytest.fixture
def reference(folder):
    stored = load_file(folder / "expected.safetensors")
    return {name: value.double() if value.is_floating_point() else value for name, value in stored.items()}


def inputs_of(reference, *, decodes):
    names = ["control", "perturbation_ids", "batch_ids", "target", *(["target_expression"] if decodes else [])]
    return {name: reference[name] for name in names}


def test_every_original_weight_is_used(folder):
    _, info = StateTransitionForPerturbation.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert not info["unexpected_keys"]


def test_outputs(folder, reference):
    model = StateTransitionForPerturbation.from_pretrained(folder).double()
    with torch.no_grad():
        output = model(**inputs_of(reference, decodes=model.gene_decoder is not None))
    for name in ("predicted_cells", "predicted_expression", "confidence"):
        if f"expected.{name}" in reference:
            torch.testing.assert_close(output[name], reference[f"expected.{name}"], **TOLERANCE)


def test_loss(folder, reference):
    model = StateTransitionForPerturbation.from_pretrained(folder).train().double()
    loss = model(**inputs_of(reference, decodes=model.gene_decoder is not None)).loss
    assert loss.item() == pytest.approx(reference["expected.loss"].item(), rel=1e-5)


def test_gradients(folder, reference):
    # The reference was computed in double: the gradients of single cells cancel, and float32 leaves 1e-4 of the sum.
    model = StateTransitionForPerturbation.from_pretrained(folder).train().double()
    model(**inputs_of(reference, decodes=model.gene_decoder is not None)).loss.backward()
    gradients = {name.removeprefix("gradient."): value for name, value in reference.items() if "gradient" in name}
    assert gradients
    ours = dict(model.named_parameters())
    for name, expected in gradients.items():
        gradient = ours[our_name(name)].grad
        assert (gradient - expected).norm() <= 1e-5 * expected.norm() + 1e-8, name


def our_name(name):
    if name.startswith("gene_decoder"):
        return name.replace("finetune.model.binary_decoder.0", "expression_decoder.skip_blocks.0")
    for theirs, own in (
        ("pert_encoder", "perturbation_encoder"),
        ("transformer_backbone", "backbone"),
        ("project_out", "output_projection"),
        ("confidence_token.confidence_token", "confidence_token"),
    ):
        name = name.replace(theirs, own)
    return f"state_transition.{name}"


def test_the_bare_model_loads_the_same_weights(folder, reference):
    model, info = StateTransitionModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        output = model.double()(reference["control"], reference["perturbation_ids"], batch_ids=reference["batch_ids"])
    torch.testing.assert_close(output.predicted_cells, reference["expected.predicted_cells"], **TOLERANCE)


def test_saved_under_the_original_names(folder, tmp_path):
    StateTransitionModel.from_pretrained(folder).save_pretrained(tmp_path)
    original, saved = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    heads = ("gene_decoder.", "batch_classifier.", "confidence_token.confidence_projection.")
    tables = ("transformer_backbone.embed_tokens.", "transformer_backbone.wte.", "transformer_backbone.wpe.")
    unused = (*tables, "final_down_then_up.") if folder.name == "all_genes_not_residual" else tables
    expected = {name: value for name, value in original.items() if not name.startswith((*heads, *unused))}
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
