"""Cards say what a folder's files say, and keep what others wrote."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from state_hf import StateEmbeddingModel, StateTransitionForPerturbation, write_model_card
from state_hf.model_cards.facts import gene_list_digest

DIGEST = "98df41da8aa2e4ff52b7af4fc3c4289a7be787131befce3f44d0df9e3c788694"


def card_of(folder) -> ModelCard:
    return ModelCard.load(Path(folder, "README.md"))


@pytest.fixture
def run(transition_model, tmp_path):
    """What a training leaves."""
    folder = tmp_path / "my-model"
    transition_model.save_pretrained(folder)
    (folder / "split.json").write_text('{"seed": 7, "controls": "shared"}')
    (folder / "split.csv").write_text("part,dataset,cell_type,perturbations\ntrain,screen,A|B,4\n")
    (folder / "scores.csv").write_text(
        "model,mae,mae_se,pearson_delta\nstate_transition,0.25,0.125,0.5\ncontrol_copy,0.5,,\n"
    )
    return folder


def add_evaluation(folder):
    (folder / "evaluation").mkdir()
    content = {
        "settings": {"profile": "vcc2025", "digest": DIGEST},
        "values": {"mae": 0.125, "pds": None, "overall_score": 0.75},
    }
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(content))


def test_a_state_transition_card(run, transition_model):
    add_evaluation(run)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "train_results.json").write_text('{"train_runtime": 5400}')
    (run / "emissions.csv").write_text(
        "duration,emissions,country_name,cpu_model,gpu_model\n10,0.5,Germany,Xeon,H100\n10,0.25,Germany,Xeon,H100\n"
    )
    assert write_model_card(run) == run / "README.md"
    card = card_of(run)
    assert card.data.co2_eq_emissions["emissions"] == 750.0
    results = {(result.dataset_type, result.metric_type): result for result in card.data.eval_results}
    assert results["held-out", "mae"].metric_value == 0.25
    assert ("held-out", "mae_se") not in results
    challenge = results["evaluation", "overall_score"]
    assert challenge.metric_value == 0.75
    assert challenge.metric_args == {"profile": "vcc2025", "profile_sha256": DIGEST}
    assert ("evaluation", "pds") not in results
    for said in (
        "# my-model",
        "| Input | 20 features of `X`: log1p-normalised expression |",
        "| Attention | bidirectional: every cell sees every other; no positions |",
        gene_list_digest(transition_model.vocabulary.genes),
        "(seed 7)",
        r"| train | screen | A\|B | 4 |",
        "| state_transition | 0.25 ± 0.125 | 0.5 |",
        f"profile vcc2025 (SHA-256 `{DIGEST}`)",
        "Training took 1.50 hours.",
        "about 750 g of CO2 (H100, Xeon)",
        "predicts the 5 that it has rows for",
        "No licence was chosen",
    ):
        assert said in card.text


def test_attention_and_positions_are_said(transition_model, tmp_path):
    transition_model.config.is_causal = True
    transition_model.config.position_embedding_type = "rotary"
    transition_model.save_pretrained(tmp_path)
    assert "| Attention | causal; rotary positions |" in card_of(tmp_path).text


def test_effects_that_validation_does_not_show_are_said(transition_model, tmp_path):
    transition_model.config.effect_scale = 0.065
    transition_model.save_pretrained(tmp_path)
    assert "validation cells show 0.065 of them" in (tmp_path / "README.md").read_text()


def test_what_is_not_there_is_said_to_be_missing(embedding_model, tokenizer, tmp_path):
    embedding_model.save_pretrained(tmp_path)
    text = card_of(tmp_path).text
    assert "the list is not in this folder" in text
    assert "Not recorded in this folder." in text
    assert "None recorded in this folder." in text
    tokenizer.save_pretrained(tmp_path)
    assert gene_list_digest(tokenizer.genes) in card_of(tmp_path).text


def test_a_converted_model_and_what_is_trained_from_it_keep_the_licence(embedding_model, tmp_path):
    embedding_model.state_embedding.save_pretrained(tmp_path / "converted")
    (tmp_path / "converted" / "LICENSE").write_text("Non-commercial.")
    record = {"converted_by": "state-hf 0", "licence": {"files": ["LICENSE"]}}
    (tmp_path / "converted" / "conversion.json").write_text(json.dumps(record))
    write_model_card(tmp_path / "converted")
    converted = card_of(tmp_path / "converted")
    assert (converted.data.license, converted.data.license_link) == ("other", "LICENSE")
    assert "non-commercial use only. Its text: [LICENSE](LICENSE)" in converted.text
    StateEmbeddingModel.from_pretrained(tmp_path / "converted").save_pretrained(tmp_path / "trained")
    StateEmbeddingModel.from_pretrained(tmp_path / "trained").save_pretrained(tmp_path / "again")
    again = card_of(tmp_path / "again")
    assert (again.data.license, again.data.license_name) == ("other", "non-commercial")
    assert "non-commercial use only" in again.text


def test_a_card_by_hand_is_never_touched(transition_model, tmp_path):
    transition_model.save_pretrained(tmp_path)
    broken = (tmp_path / "README.md").read_text().replace("tags:", "tags: [", 1)
    for text in ("# Mine\n", "---\nlicense: mit\n---\n# Mine\n", "---\nno: [yaml\n---\n# Mine\n", broken):
        (tmp_path / "README.md").write_text(text)
        transition_model.save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == text


def test_text_and_metadata_that_were_added_are_kept(run):
    write_model_card(run)
    path = run / "README.md"
    card = ModelCard.load(path)
    card.data.license = "mit"
    card.data.datasets = ["someone/screen"]
    card.data.tags.append("mine")
    card.text = "Before.\n" + card.text + "\nAfter.\n"
    card.save(path)
    add_evaluation(run)
    for _ in range(2):
        write_model_card(run)
        card = card_of(run)
        assert card.data.license == "mit"
        assert card.data.datasets == ["someone/screen"]
        assert card.data.tags.count("mine") == card.data.tags.count("state-hf") == 1
        assert card.text.count("Before.") == card.text.count("After.") == card.text.count("# my-model") == 1
        assert card.text.strip().startswith("Before.")
        assert card.text.strip().endswith("After.")
        assert len(card.data.eval_results) == 4
        assert "`mit`, as the metadata" in card.text


def test_folders_of_other_things_have_no_card(tmp_path):
    assert write_model_card(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert write_model_card(tmp_path) is None
    assert not (tmp_path / "README.md").exists()


def test_its_example_runs(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    write_model_card(run)
    (code,) = re.findall(r"```python\n(.*?)```", card_of(run).text, re.DOTALL)
    names = {"control_cells": torch.rand(1, 4, 20)}
    exec(code, names)
    assert isinstance(names["model"], StateTransitionForPerturbation)
    assert names["output"].predicted_cells.shape == (1, 4, 20)
