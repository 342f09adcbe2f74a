"""What cannot be loaded is named."""

import socket
import time

import pytest
from huggingface_hub import constants
from transformers import AutoConfig

from state_hf.cli import main
from state_hf.configuration.model_folders import loading_from, require_found


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_named():
    message = "no/model is no folder here, and cannot be loaded from the Hub: no connection"
    with pytest.raises(OSError, match=message), loading_from("no/model", look=False):
        raise OSError("no connection")


def test_errors_that_say_more_stay_as_they_are(tmp_path):
    (tmp_path / "config.json").touch()
    for name, error in (("no/model", OSError(28, "No space left")), ("m", OSError("no m")), (tmp_path, OSError("cut"))):
        with pytest.raises(OSError, match=error.args[-1]) as caught, loading_from(name, look=False):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("inside", "named", "said"),
    [
        ("checkpoints/checkpoint-1/model.safetensors", "", r"model holds no model: .*: its training did not end"),
        ("final.ckpt", "", r"model holds no model: .*state-hf convert"),
        ("notes.txt", "", r"model holds no model: there is no config\.json in it$"),
        ("config.json", "config.json", r"config\.json is a file: name the model's folder, .*model$"),
    ],
)
def test_what_is_no_model_is_named(inside, named, said, tmp_path):
    folder = tmp_path / "model"
    (folder / inside).parent.mkdir(parents=True)
    (folder / inside).write_text("{}")
    with pytest.raises(ValueError, match=said), loading_from(folder / named):
        AutoConfig.from_pretrained(folder / named)


@pytest.fixture
def nobody_waits(monkeypatch):
    """No retries: they sleep in between."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits for another try"))


@pytest.fixture
def no_network(monkeypatch, tmp_path, nobody_waits):
    """A Hub at a port on which nobody listens, and an empty cache."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["./model", "../models/st", "a/b/c", "~/model", "/models/st", "my model", "st_model/"])
def test_what_can_be_no_id_is_not_looked_for_on_the_hub(name, monkeypatch, nobody_waits):
    monkeypatch.setattr(
        "state_hf.configuration.model_folders.get_hf_file_metadata", lambda url: pytest.fail("asks the Hub")
    )
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*, and it can be no id of a model on the Hub"):
        require_found(name)


@pytest.mark.parametrize("name", ["st_modle", "someone/model"])
def test_without_a_network_the_error_says_both_at_once(name, no_network):
    with pytest.raises(OSError, match=f"there is no folder {name}, and the Hub cannot be reached"):
        require_found(name)


def test_offline_mode_is_said(no_network, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="no folder st_modle, and no model of that name in the cache; HF_HUB_OFFLINE"):
        require_found("st_modle")


def test_a_mistyped_folder_is_guessed(no_network, tmp_path):
    (tmp_path / "models" / "st_model").mkdir(parents=True)
    with pytest.raises(OSError, match=r"no folder models/st_modle \(did you mean models/st_model\?\)"):
        require_found("models/st_modle")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict", ["screen.h5ad", "--model", "st_modle", "--output", "predicted.h5ad"]),
        ("embed", ["cells.h5ad", "--model", "st_modle", "--output", "embedded.h5ad"]),
        ("annotate", ["cells.h5ad", "--model", "st_modle", "--output", "labels.csv"]),
        ("tokenize", ["corpus.csv", "--model", "st_modle", "--output", "tokenised"]),
        ("genes", ["extend", "model", "st_modle", "--output", "extended"]),
        ("embed-genes", ["proteins.fasta", "--model", "st_modle", "--output", "table"]),
    ],
)
def test_no_command_waits_for_a_mistyped_model(command, words, no_network, tmp_path, screen_path, capsys):
    (tmp_path / "st_model").mkdir()
    for name in ("screen.h5ad", "cells.h5ad"):
        (tmp_path / name).symlink_to(screen_path)
    (tmp_path / "proteins.fasta").write_text(">ENSP1 gene_symbol:A\nMKV\n")
    (tmp_path / "corpus.csv").write_text("path\ncells.h5ad\n")
    assert main([command, *words]) == 2
    error = capsys.readouterr().err
    assert "there is no folder st_modle (did you mean st_model?), and the Hub cannot be reached" in error
