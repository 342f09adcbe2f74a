"""Checkpoints of arc-state's own training commands: with Adam's state, OmegaConf's types, moved norms, dropout."""

import json
import pickletools
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from state_hf import StateEmbeddingForMaskedExpression, StateTransitionForPerturbation
from state_hf.cli import main
from state_hf.conversion.arc_state.to_arc import convert_to_arc
from state_hf.conversion.convert import convert
from state_hf.conversion.pickled_types import plain
from state_hf.conversion.torch_file import read_pickled
from tests.conversion.conftest import FIXTURES

TRAINED = FIXTURES / "conversion" / "trained"
SE, RUN = TRAINED / "se.ckpt", TRAINED / "run"
# float32 sums in another order; both sides compute the same formula.
TOLERANCE = {"rtol": 0, "atol": 1e-5}
DROPOUT, ATTENTION_DROPOUT = 0.2, 0.15
SENTENCES = ("input_ids", "expression", "target_ids", "labels")


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "se"
    assert main(["convert", str(SE), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def transition(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "st"
    assert main(["convert", str(RUN), str(folder)]) == 0
    return folder


def names_in(path):
    """The globals that a checkpoint's pickle names."""
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return {argument for opcode, argument, _ in pickletools.genops(pickled) if opcode.name == "GLOBAL"}


def test_the_checkpoint_is_of_the_kind_that_was_refused():
    """OmegaConf's metadata name `int`, which protocol 2 spells `__builtin__.long`; Adam's state and loops are there."""
    assert "__builtin__ long" in names_in(SE)
    content = read_pickled(SE)
    assert content["optimizer_states"][0]["state"]
    assert content["loops"]["fit_loop"]
    assert plain(content["hyper_parameters"], "se.ckpt")["cfg"]["model"]["dropout"] == DROPOUT


def test_state_embedding(embedding):
    reference = load_file(TRAINED / "se.safetensors")
    model = StateEmbeddingForMaskedExpression.from_pretrained(embedding).eval()
    with torch.no_grad():
        output = model(**{key: reference[key] for key in SENTENCES})
    for key in ("cell_embedding", "dataset_embedding"):
        torch.testing.assert_close(output[key], reference[f"expected.{key}"], **TOLERANCE)


def test_norms_and_biases_are_not_those_of_a_new_model(embedding, transition):
    """Else the comparisons would not see them."""
    for folder in (embedding, transition):
        weights = load_file(folder / "model.safetensors")
        norms = {name: value for name, value in weights.items() if "norm" in name or ".encoder.1." in f".{name}"}
        assert norms
        assert all((value - (0 if name.endswith("bias") else 1)).abs().max() > 1e-3 for name, value in norms.items())


def test_state_transition(transition):
    reference = load_file(TRAINED / "run.safetensors")
    model = StateTransitionForPerturbation.from_pretrained(transition).eval()
    with torch.no_grad():
        output = model(reference["control"], reference["perturbation_ids"])
    torch.testing.assert_close(output.predicted_cells, reference["expected.predicted_cells"], **TOLERANCE)


def test_dropout_is_that_of_the_checkpoint(embedding, transition):
    config = json.loads((embedding / "config.json").read_text())
    assert (config["hidden_dropout_prob"], config["attention_dropout"]) == (DROPOUT, DROPOUT)
    config = json.loads((transition / "config.json").read_text())
    assert (config["dropout"], config["attention_dropout"]) == (DROPOUT, ATTENTION_DROPOUT)


def test_attention_dropout_is_the_originals(embedding):
    """Its mean and spread over 1,000 passes, in which the original drops weights of its attention and nothing else."""
    reference = load_file(TRAINED / "se.safetensors")
    mean, deviation = reference["averaged.mean"], reference["averaged.deviation"]
    model = StateEmbeddingForMaskedExpression.from_pretrained(embedding, hidden_dropout_prob=0.0).train()
    inputs = {key: reference[key] for key in SENTENCES}
    torch.manual_seed(0)
    with torch.no_grad():
        passes = torch.stack([model(**inputs).cell_embedding for _ in range(1000)])
    # Standard errors of a difference of means and of deviations over 1,000 passes each.
    error = (deviation**2 / 1000 + passes.var(0) / 1000).sqrt()
    assert ((passes.mean(0) - mean).abs() / error).max() < 5
    torch.testing.assert_close(passes.std(0), deviation, rtol=0.25, atol=1e-4)
    # Ours has none of it in evaluation.
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(**inputs).cell_embedding, model(**inputs).cell_embedding)


def test_there_and_back(embedding, transition, tmp_path, capsys):
    """The dropout goes back, too, and no word is said where there is one."""
    paths = (SE, convert_to_arc(embedding, tmp_path / "back.ckpt"))
    hyper = [plain(read_pickled(path)["hyper_parameters"], str(path)) for path in paths]
    assert hyper[1]["dropout"] == hyper[0]["dropout"] == DROPOUT
    assert f"dropout: {DROPOUT}" in read_pickled(tmp_path / "back.ckpt")["cfg_yaml"]
    path = convert_to_arc(transition, tmp_path / "run")
    before, after = (
        plain(read_pickled(file)["hyper_parameters"], str(file)) for file in (RUN / "checkpoints" / "final.ckpt", path)
    )
    assert after["dropout"] == before["dropout"] == DROPOUT
    names = ("attention_dropout", "num_attention_heads", "bidirectional_attention")
    backbones = [found["transformer_backbone_kwargs"] for found in (before, after)]
    assert all(backbones[0][name] == backbones[1][name] for name in names)
    again = convert(tmp_path / "back.ckpt", tmp_path / "again")
    assert again.config.attention_dropout == DROPOUT


def test_two_dropouts_become_one_for_the_original(embedding, tmp_path, caplog, monkeypatch):
    """It has one, which can change its embeddings: that of the attention is kept, and said."""
    from transformers.utils import logging

    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.get_logger("state_hf"), "propagate", True)
    model = StateEmbeddingForMaskedExpression.from_pretrained(embedding, attention_dropout=0.0)
    model.save_pretrained(tmp_path / "se")
    (tmp_path / "se" / "genes.txt").write_text((embedding / "genes.txt").read_text())
    path = convert_to_arc(tmp_path / "se", tmp_path / "se.ckpt")
    assert read_pickled(path)["hyper_parameters"]["dropout"] == 0.0
    assert "written with its attention_dropout, 0" in caplog.text


def rewritten(source, target, change):
    """A checkpoint with something else in it."""
    content = torch.load(source, weights_only=False)  # written by this test
    change(content)
    torch.save(content, target)


def test_what_a_checkpoint_does_not_say_is_said(embedding, tmp_path):
    back = convert_to_arc(embedding, tmp_path / "back.ckpt")

    def forget(content):
        content.pop("cfg_yaml")
        content["hyper_parameters"].pop("dropout")

    rewritten(back, tmp_path / "silent.ckpt", forget)
    notes = convert(tmp_path / "silent.ckpt", tmp_path / "out").notes
    assert "The checkpoint does not say its pad_length: max_position_embeddings is 2048, our default." in notes
    assert "The checkpoint does not say its dropout: hidden_dropout_prob is 0.1, our default." in notes


def test_two_dropouts_of_a_run_where_here_is_one(converted, tmp_path):
    run = convert_to_arc(converted(FIXTURES / "conversion" / "state_transition" / "decoder"), tmp_path / "run")
    rewritten(run, run, lambda content: content["hyper_parameters"]["decoder_cfg"].update(dropout=0.4))
    assert any(
        "Dropout of the gene decoder, 0.4 in" in note for note in convert(tmp_path / "run", tmp_path / "a").notes
    )
    gpt2 = convert_to_arc(converted(FIXTURES / "conversion" / "state_transition" / "gpt2_causal"), tmp_path / "gpt2")
    change = {"embd_pdrop": 0.3, "attn_pdrop": 0.25}
    rewritten(gpt2, gpt2, lambda content: content["hyper_parameters"]["transformer_backbone_kwargs"].update(change))
    model = convert(tmp_path / "gpt2", tmp_path / "b")
    assert model.config.attention_dropout == 0.25
    assert any("(embd_pdrop), 0.3 in the checkpoint" in note for note in model.notes)
