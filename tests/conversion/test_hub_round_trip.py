"""A checkpoint of arc-state becomes a model on the Hub, and comes back with the original's outputs."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForPreTraining, AutoProcessor, AutoTokenizer

from state_hf import StateTransitionForPerturbation, convert, inspect, push_folder
from state_hf.inference.cell_encoder import CellEncoder
from tests import cell2sentence_models, geneformer_models
from tests.conversion.conftest import FIXTURES, STATE_EMBEDDING, STATE_TRANSITION
from tests.model_cards.conftest import hub

__all__ = ["hub"]

# float32 sums in another order; both sides compute the same formula.
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.mark.parametrize("name", sorted(path.name for path in STATE_EMBEDDING.iterdir()))
def test_state_embedding(name, converted, hub):
    folder = converted(STATE_EMBEDDING / name)
    push_folder(folder, "someone/se")
    reference = load_file(FIXTURES / "state_embedding" / name / "expected.safetensors")
    inputs = {key: reference[key] for key in ("input_ids", "expression", "target_ids", "labels")}
    with torch.no_grad():
        cells = AutoModel.from_pretrained("someone/se")(input_ids=inputs["input_ids"], expression=inputs["expression"])
        trained = AutoModelForPreTraining.from_pretrained("someone/se")(**inputs)
    torch.testing.assert_close(cells.cell_embedding, reference["expected.cell_embedding"], **TOLERANCE)
    if "expected.dataset_embedding" in reference:
        torch.testing.assert_close(cells.dataset_embedding, reference["expected.dataset_embedding"], **TOLERANCE)
    torch.testing.assert_close(trained.predicted_expression, reference["expected.predicted_expression"], **TOLERANCE)
    tokenizer = AutoTokenizer.from_pretrained("someone/se")
    assert tokenizer.genes == AutoTokenizer.from_pretrained(folder).genes


@pytest.mark.parametrize("name", sorted(path.name for path in STATE_TRANSITION.iterdir()))
def test_state_transition(name, converted, hub):
    folder = converted(STATE_TRANSITION / name)
    push_folder(folder, "someone/st")
    reference = load_file(FIXTURES / "state_transition" / name / "expected.safetensors")
    inputs = {"perturbation_ids": reference["perturbation_ids"], "batch_ids": reference["batch_ids"]}
    with torch.no_grad():
        cells = AutoModel.from_pretrained("someone/st")(reference["control"], **inputs)
        full = StateTransitionForPerturbation.from_pretrained("someone/st")(reference["control"], **inputs)
    torch.testing.assert_close(cells.predicted_cells, reference["expected.predicted_cells"], **TOLERANCE)
    if "expected.predicted_expression" in reference:
        torch.testing.assert_close(full.predicted_expression, reference["expected.predicted_expression"], **TOLERANCE)
    vocabulary = AutoModel.from_pretrained("someone/st").vocabulary
    assert vocabulary == AutoModel.from_pretrained(folder).vocabulary


@pytest.mark.parametrize("release", ["v1", "v2"])
def test_geneformer(release, tmp_path, hub):
    folder = tmp_path / release
    convert(geneformer_models.FOLDER / release / "model", folder)
    push_folder(folder, "someone/geneformer")
    encoder = CellEncoder.from_pretrained("someone/geneformer")
    encoding = encoder.tokenizer.encode_cells(geneformer_models.COUNTS, geneformer_models.IDS)
    assert geneformer_models.lists(encoding) == geneformer_models.ragged(release)
    here = CellEncoder.from_pretrained(folder)
    torch.testing.assert_close(encoder.states(encoding).cell, here.states(encoding).cell, **TOLERANCE)
    facts = inspect("someone/geneformer").facts
    assert facts["kind"] == "Geneformer model (BertForMaskedLM)"
    assert facts["vocabulary"].startswith("47 genes")


def test_cell2sentence(tmp_path, hub):
    folder, genes = tmp_path / "model", tmp_path / "genes.txt"
    genes.write_text("\n".join(cell2sentence_models.NAMES))
    convert(cell2sentence_models.MODEL, folder, genes=genes, max_shard_bytes=50_000)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    push_folder(folder, "someone/c2s")
    repository = hub.repositories["models", "someone/c2s"]
    files = repository.commits[repository.branches["main"]]
    assert {"genes.txt", "processor_config.json", "state_hf_classes.py", "generation_config.json"} <= set(files)
    assert "licences of their own" in files["README.md"].decode()
    encoder = CellEncoder.from_pretrained("someone/c2s")
    cells = (cell2sentence_models.COUNTS[:3], cell2sentence_models.NAMES)
    ours = AutoProcessor.from_pretrained(folder)
    assert torch.equal(encoder.tokenizer.encode_cells(*cells)["input_ids"], ours.encode_cells(*cells)["input_ids"])
    stored = cell2sentence_models.expected("model.cell_type_prediction")
    logits = AutoModelForCausalLM.from_pretrained("someone/c2s")(
        input_ids=stored["input_ids"], attention_mask=stored["attention_mask"]
    ).logits
    real = stored["attention_mask"].bool()
    torch.testing.assert_close(logits[real], stored["logits"][real], **TOLERANCE)
    assert "26 genes" in inspect("someone/c2s").facts["vocabulary"]


def test_the_card_on_the_hub_is_of_the_converted_model(converted, hub):
    folder = converted(STATE_EMBEDDING / "small")
    written = (folder / "README.md").read_text()
    assert "# small\n" in written
    for fact in ("license: other", "license_name: non-commercial", "licensed for non-commercial use only"):
        assert fact in written
    for row in ("| Attention | bidirectional", "SHA-256 of `genes.txt` `", "| Input | raw counts"):
        assert row in written
    push_folder(folder, "someone/se")
    repository = hub.repositories["models", "someone/se"]
    pushed = repository.commits[repository.branches["main"]]["README.md"].decode()
    assert pushed == written.replace("# small\n", "# someone/se\n").replace('"small"', '"someone/se"').replace(
        "--model small ", "--model someone/se "
    )


def test_the_card_of_a_transition_model(converted):
    written = (converted(STATE_TRANSITION / "decoder") / "README.md").read_text()
    assert "licensed for non-commercial use only" in written
    assert "- attention: bidirectional (the checkpoint sets bidirectional_attention)" in written
    for row in ("| Attention | bidirectional: every cell sees every other; no positions |", "an embedding", "(mlp)"):
        assert row in written
