"""Converted checkpoints against the stored outputs of arc-state 0.11.1, and back against the original files."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from state_hf import StateEmbeddingForMaskedExpression, StateTransitionForPerturbation
from state_hf.conversion.arc_state.to_arc import convert_to_arc
from state_hf.conversion.pickled_types import plain
from state_hf.conversion.torch_file import read_pickled
from tests.conversion.conftest import FIXTURES, STATE_EMBEDDING, STATE_TRANSITION

EMBEDDINGS = sorted(path.name for path in STATE_EMBEDDING.iterdir())
RUNS = sorted(path.name for path in STATE_TRANSITION.iterdir())
# float32 sums in another order; both sides compute the same formula.
TOLERANCE = {"rtol": 0, "atol": 1e-5}


def loaded(model_class, folder):
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_state_embedding(name, converted):
    reference = load_file(FIXTURES / "state_embedding" / name / "expected.safetensors")
    model = loaded(StateEmbeddingForMaskedExpression, converted(STATE_EMBEDDING / name))
    inputs = {key: reference[key] for key in ("input_ids", "expression", "target_ids", "labels")}
    with torch.no_grad():
        output = model(**inputs)
    for key in ("cell_embedding", "dataset_embedding", "dataset_logits", "predicted_expression"):
        if f"expected.{key}" in reference:
            torch.testing.assert_close(output[key], reference[f"expected.{key}"], **TOLERANCE)


@pytest.mark.parametrize("name", RUNS)
def test_state_transition(name, converted):
    reference = load_file(FIXTURES / "state_transition" / name / "expected.safetensors")
    model = loaded(StateTransitionForPerturbation, converted(STATE_TRANSITION / name))
    with torch.no_grad():
        output = model(reference["control"], reference["perturbation_ids"], batch_ids=reference["batch_ids"])
    for key in ("predicted_cells", "predicted_expression", "confidence"):
        if f"expected.{key}" in reference:
            torch.testing.assert_close(output[key], reference[f"expected.{key}"], **TOLERANCE)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_configuration_of_the_fixture(name, converted):
    ours = AutoConfig.from_pretrained(FIXTURES / "state_transition" / name).to_dict()
    found = AutoConfig.from_pretrained(converted(STATE_TRANSITION / name)).to_dict()
    # The fixture's own configuration leaves out what only losses and files need.
    skipped = {"dtype", "transformers_version", "_name_or_path", "auto_map", "loss_kwargs", "num_batches"}
    different = {key for key in ours if ours[key] != found.get(key) and key not in skipped}
    assert different == set()


def test_auto_classes_load_the_folder(converted):
    folder = converted(STATE_EMBEDDING / "small")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.genes[:2] == ["GENE0", "GENE1"]
    assert tokenizer.cls_expression == "gene_3"
    assert tokenizer.model_max_length == AutoModel.from_pretrained(folder).config.max_position_embeddings == 12


def test_names_are_in_the_order_of_their_ones(converted):
    """The fixture's map lists its labels from the last to the first."""
    vocabulary = AutoModel.from_pretrained(converted(STATE_TRANSITION / "batch_encoder")).vocabulary
    assert vocabulary.perturbations == ("KLF1", "non-targeting", "TP53", "GATA1")
    assert vocabulary.control_perturbation == "non-targeting"
    assert vocabulary.batches == ("batch0", "batch1", "batch2")
    assert vocabulary.cell_types == ("K562", "RPE1")
    assert vocabulary.genes[0] == "GENE0"


def states_of(original, written):
    theirs = {name.replace("_orig_mod.", ""): value for name, value in read_pickled(original)["state_dict"].items()}
    return theirs, read_pickled(written)["state_dict"]


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_state_embedding_back(name, converted, tmp_path):
    path = convert_to_arc(converted(STATE_EMBEDDING / name), tmp_path / "back.ckpt")
    theirs, ours = states_of(STATE_EMBEDDING / name / "se.ckpt", path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key].load(), value.load()) for key, value in theirs.items())
    genes = read_pickled(path)["protein_embeds_dict"]
    table = load_file(FIXTURES / "state_embedding" / name / "model.safetensors")["pe_embedding.weight"]
    assert list(genes) == [f"GENE{row}" for row in range(len(table))]
    assert torch.equal(torch.stack([row.load() for row in genes.values()]), table)


@pytest.mark.parametrize("name", RUNS)
def test_state_transition_back(name, converted, tmp_path):
    run = tmp_path / "run"
    path = convert_to_arc(converted(STATE_TRANSITION / name), run)
    original = STATE_TRANSITION / name
    theirs, ours = states_of(original / "checkpoints" / "final.ckpt", path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key].load(), value.load()) for key, value in theirs.items())
    for file in ("pert_onehot_map.pt", "batch_onehot_map.torch", "cell_type_onehot_map.torch"):
        if (original / file).is_file():
            before, after = ({k: v.load().tolist() for k, v in read_pickled(f / file).items()} for f in (original, run))
            assert after == before
    before, after = (
        plain(read_pickled(file)["hyper_parameters"], str(file))
        for file in (original / "checkpoints" / "final.ckpt", path)
    )
    kept = ("input_dim", "hidden_dim", "output_dim", "output_space", "embed_key", "control_pert", "cell_set_len")
    assert all(after[key] == before[key] for key in kept)


def test_back_and_forth_again(converted, tmp_path):
    """What was written for arc-state converts to the same model."""
    folder = converted(STATE_TRANSITION / "decoder")
    convert_to_arc(folder, tmp_path / "run")
    again = converted(tmp_path / "run")
    weights, expected = (load_file(path / "model.safetensors") for path in (again, folder))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert (again / "vocabulary.json").read_text() == (folder / "vocabulary.json").read_text()
