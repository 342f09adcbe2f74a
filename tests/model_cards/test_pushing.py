"""Models, tokenizer, metrics and gene tables go to a Hub and come back; what cannot is explained."""

import hashlib

import evaluate
import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from state_hf import (
    GeneTable,
    PerturbationBaseline,
    PerturbationBaselineConfig,
    StateEmbeddingTokenizer,
    load_gene_table,
    push_folder,
)
from state_hf.cli import main
from state_hf.evaluate_modules.modules import metric_names, push_metric
from tests.model_cards.conftest import GENES


def same_weights(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def files(hub, name, branch="main", kind="models"):
    repository = hub.repositories[kind, name]
    return repository.commits[repository.branches[branch]]


def test_a_state_embedding_model_and_its_tokenizer(hub, embedding_model, tokenizer):
    embedding_model.push_to_hub("someone/se")
    tokenizer.push_to_hub("someone/se")
    assert same_weights(AutoModelForPreTraining.from_pretrained("someone/se"), embedding_model)
    assert same_weights(AutoModel.from_pretrained("someone/se"), embedding_model.state_embedding)
    assert AutoTokenizer.from_pretrained("someone/se").genes == GENES
    card = files(hub, "someone/se")["README.md"].decode()
    assert "# someone/se" in card
    assert hashlib.sha256(files(hub, "someone/se")["genes.txt"]).hexdigest() in card


def test_a_state_transition_model_with_its_vocabulary(hub, transition_model):
    transition_model.push_to_hub("st", private=True)
    loaded = AutoModelForPreTraining.from_pretrained("someone/st")
    assert same_weights(loaded, transition_model)
    assert loaded.vocabulary == transition_model.vocabulary
    assert hub.repositories["models", "someone/st"].private


def test_a_baseline(hub, vocabulary):
    config = PerturbationBaselineConfig(input_dim=20, num_perturbations=len(vocabulary.perturbations))
    baseline = PerturbationBaseline(config)
    baseline.vocabulary = vocabulary
    baseline.push_to_hub("someone/baseline")
    loaded = AutoModel.from_pretrained("someone/baseline")
    assert loaded.vocabulary == vocabulary
    assert "`control_copy`" in files(hub, "someone/baseline")["README.md"].decode()


def test_a_gene_table(hub):
    table = GeneTable(["A", "B"], torch.arange(4.0).view(2, 2), {"model": "tiny"})
    table.push_to_hub("someone/genes")
    loaded = load_gene_table("someone/genes")
    assert (loaded.genes, loaded.record["model"]) == (("A", "B"), "tiny")
    assert torch.equal(loaded.embeddings, table.embeddings)


def test_revisions_subfolders_and_shards(hub, embedding_model, transition_model, tokenizer, tmp_path):
    embedding_model.push_to_hub("someone/se")
    with torch.no_grad():
        embedding_model.state_embedding.gene_table.weight.zero_()
    embedding_model.push_to_hub("someone/se", revision="second", max_shard_size="2KB")
    assert "model.safetensors.index.json" in files(hub, "someone/se", "second")
    # The whole model would be loaded before the shards.
    assert "model.safetensors" not in files(hub, "someone/se", "second")
    assert sum(name.endswith(".safetensors") for name in files(hub, "someone/se", "second")) > 3
    second = AutoModelForPreTraining.from_pretrained("someone/se", revision="second")
    assert same_weights(second, embedding_model)
    first = AutoModelForPreTraining.from_pretrained(
        "someone/se", revision=hub.repositories["models", "someone/se"].branches["main"]
    )
    assert first.state_embedding.gene_table.weight.any()

    transition_model.save_pretrained(tmp_path / "both" / "st")
    embedding_model.save_pretrained(tmp_path / "both" / "se")
    tokenizer.save_pretrained(tmp_path / "both" / "se")
    GeneTable(["A"], torch.zeros(1, 2)).save_pretrained(tmp_path / "both" / "genes")
    push_folder(tmp_path / "both", "someone/both")
    loaded = AutoModelForPreTraining.from_pretrained("someone/both", subfolder="st")
    assert same_weights(loaded, transition_model)
    assert loaded.vocabulary == transition_model.vocabulary
    assert AutoTokenizer.from_pretrained("someone/both", subfolder="se").genes == GENES
    assert load_gene_table("someone/both", subfolder="genes").genes == ("A",)


def test_offline_the_cache_serves(hub, transition_model, embedding_model, tokenizer, monkeypatch):
    transition_model.push_to_hub("someone/st")
    embedding_model.push_to_hub("someone/se")
    tokenizer.push_to_hub("someone/se")
    loaded = (AutoModel.from_pretrained("someone/se"), AutoTokenizer.from_pretrained("someone/se"))
    AutoModelForPreTraining.from_pretrained("someone/st")
    asked = len(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert same_weights(AutoModel.from_pretrained("someone/se"), loaded[0])
    assert AutoTokenizer.from_pretrained("someone/se").genes == GENES
    assert AutoModelForPreTraining.from_pretrained("someone/st").vocabulary == transition_model.vocabulary
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        AutoModel.from_pretrained("someone/never-loaded")
    assert len(hub.requests) == asked


def test_what_is_missing_or_gated_is_explained(hub, embedding_model, tokenizer, monkeypatch, tmp_path, capsys):
    with pytest.raises(OSError, match="someone/nothing is not a local folder and is not a valid model identifier"):
        AutoModel.from_pretrained("someone/nothing")
    with pytest.raises(OSError, match="there is no folder someone/nothing, and no model of that name on the Hub"):
        load_gene_table("someone/nothing")
    embedding_model.push_to_hub("someone/se")
    with pytest.raises(OSError, match="v9 is not a valid git identifier"):
        AutoModel.from_pretrained("someone/se", revision="v9")
    with pytest.raises(OSError, match=r"does not appear to have a file named gene_table.safetensors"):
        load_gene_table("someone/se")
    with pytest.raises(ValueError, match=r"someone/se has no genes\.txt, which names the genes"):
        StateEmbeddingTokenizer.from_pretrained("someone/se")
    tokenizer.push_to_hub("someone/se")
    with pytest.raises(OSError, match="v9 is not a valid git identifier"):
        AutoTokenizer.from_pretrained("someone/se", revision="v9")
    hub.repositories["models", "someone/se"].gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(OSError, match=r"gated repo[\s\S]*someone/se"):
        AutoModel.from_pretrained("someone/se", cache_dir=tmp_path / "other")
    with pytest.raises(OSError, match=r"gated repo[\s\S]*someone/se"):
        AutoTokenizer.from_pretrained("someone/se", cache_dir=tmp_path / "other")
    with pytest.raises(OSError, match=r"gated repo[\s\S]*someone/se"):
        load_gene_table("someone/se", cache_dir=str(tmp_path / "other"))
    hub.repositories["models", "someone/se"].private = True
    command = ["genes", "extend", "someone/se", "someone/genes", "--output", str(tmp_path / "new")]
    assert main(command) == 2
    assert "there is no folder someone/genes, and no model of that name on the Hub" in capsys.readouterr().err
    with pytest.raises(HfHubHTTPError):
        embedding_model.push_to_hub("someone/se")


def test_a_folder_is_pushed_without_checkpoints(hub, transition_model, tmp_path):
    transition_model.save_pretrained(tmp_path / "run")
    transition_model.save_pretrained(tmp_path / "run" / "checkpoints" / "checkpoint-1")
    transition_model.save_pretrained(tmp_path / "run" / "baselines" / "control_copy")
    (tmp_path / "run" / ".hidden").write_text("secret")
    push_folder(tmp_path / "run", "someone/run")
    pushed = files(hub, "someone/run")
    assert "model.safetensors" in pushed
    assert "baselines/control_copy/vocabulary.json" in pushed
    assert not [name for name in pushed if name.startswith(("checkpoints", "."))]
    with pytest.raises(FileNotFoundError, match="no folder"):
        push_folder(tmp_path / "nothing", "someone/run")


def test_the_command_pushes_a_folder(hub, transition_model, tmp_path, capsys):
    transition_model.save_pretrained(tmp_path / "run")
    assert main(["push", str(tmp_path / "run"), "someone/run", "--private"]) == 0
    assert f"{hub.url}/someone/run/commit/" in capsys.readouterr().out
    assert hub.repositories["models", "someone/run"].private
    assert main(["push", str(tmp_path / "run"), "someone/run", "--token", "hf_wrong"]) == 2
    assert "state-hf push:" in capsys.readouterr().err


def test_the_card_on_the_hub_is_not_lost(hub, transition_model, tmp_path):
    transition_model.push_to_hub("someone/st")
    repository = hub.repositories["models", "someone/st"]
    written = files(hub, "someone/st")["README.md"].decode()
    edited = written.replace("library_name:", "license: mit\nlibrary_name:") + "\nMy own words.\n"
    repository.commit("main", {"README.md": edited.encode()})
    transition_model.config.target_sum = 1234.0
    transition_model.push_to_hub("someone/st")
    card = ModelCard(files(hub, "someone/st")["README.md"].decode())
    assert "My own words." in card.text
    assert card.data.license == "mit"
    assert "1234 counts a cell" in card.text

    repository.commit("main", {"README.md": b"# Mine alone\n"})
    transition_model.push_to_hub("someone/st")
    assert files(hub, "someone/st")["README.md"] == b"# Mine alone\n"


def test_a_metric_becomes_a_space(hub, tmp_path, monkeypatch):
    push_metric("expression_error", "someone/expression_error")
    pushed = files(hub, "someone/expression_error", kind="spaces")
    assert {"README.md", "app.py", "expression_error.py", "requirements.txt"} <= pushed.keys()
    monkeypatch.setattr("evaluate.config.HF_ENDPOINT", hub.url)
    monkeypatch.setattr("evaluate.config.HUB_EVALUATE_URL", hub.url + "/spaces/{path}/resolve/{revision}/{name}")
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", False)
    monkeypatch.setattr("evaluate.config.DOWNLOADED_EVALUATE_PATH", str(tmp_path / "downloads"))
    assert type(evaluate.load("someone/expression_error")).__name__ == "ExpressionError"
    with pytest.raises(ValueError, match="a Space called expression_error"):
        push_metric("expression_error", "someone/my-metric")
    assert "expression_error" in metric_names()
