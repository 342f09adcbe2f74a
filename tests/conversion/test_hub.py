"""Checkpoints of arc-state and models on the Hub are inspected and converted by their id."""

import json

import huggingface_hub
import pytest
from safetensors.torch import load_file

from state_hf import StateTransitionForPerturbation, push_folder
from state_hf.cli import main
from state_hf.conversion.convert import convert
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.inspection import inspect
from tests.conversion.conftest import STATE_EMBEDDING, STATE_TRANSITION
from tests.hub_server import Repository
from tests.model_cards.conftest import hub

__all__ = ["hub"]

RUN, ANOTHER = STATE_TRANSITION / "decoder", STATE_TRANSITION / "batch_encoder"


def files_of(folder, at=""):
    return {at + path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def runs(hub):
    """A repository as the originals are published: runs in folders, one licence, and what nobody needs here."""
    repository = Repository()
    files = {**files_of(RUN, "fewshot/k562/"), **files_of(ANOTHER, "zeroshot/rpe1/"), "LICENSE": b"Non-commercial."}
    files["fewshot/k562/eval_final.ckpt/adata_pred.h5ad"] = b"large"
    repository.commit("main", files)
    hub.repositories["models", "arc/runs"] = repository
    return repository


@pytest.fixture
def checkpoints(hub):
    """A repository with two checkpoints of State Embedding models, and what lies beside them."""
    repository = Repository()
    files = files_of(STATE_EMBEDDING / "wide")
    files["se_epoch4.ckpt"] = files["se_epoch16.ckpt"] = files.pop("se.ckpt")
    repository.commit("main", {**files, "MODEL_LICENSE.md": b"Non-commercial."})
    hub.repositories["models", "arc/se"] = repository
    return repository


def downloads(hub):
    return {path.split("/resolve/")[1].partition("/")[2] for verb, path in hub.requests if "/resolve/" in path}


def same_model(folder, other):
    one, two = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def test_a_run_in_a_subfolder(hub, runs, converted, tmp_path, capsys):
    output = tmp_path / "st"
    assert main(["convert", "arc/runs", str(output), "--subfolder", "fewshot/k562"]) == 0
    assert "Wrote" in capsys.readouterr().out
    assert same_model(output, converted(RUN))
    assert (output / "vocabulary.json").read_text() == (converted(RUN) / "vocabulary.json").read_text()
    record = json.loads((output / "conversion.json").read_text())
    assert record["original"]["repository"] == "arc/runs"
    assert record["original"]["commit"] == runs.branches["main"]
    assert record["original"]["subfolder"] == "fewshot/k562"
    assert record["licence"]["files"] == ["LICENSE"]
    assert (output / "LICENSE").read_text() == "Non-commercial."
    StateTransitionForPerturbation.from_pretrained(output).save_pretrained(tmp_path / "trained")
    for folder in (output, tmp_path / "trained"):
        card = (folder / "README.md").read_text()
        assert "base_model: arc/runs\n" in card
        assert f"`final.ckpt` in `fewshot/k562` of `arc/runs`, commit `{runs.branches['main']}`" in card
    assert {name.split("/")[0] for name in downloads(hub)} == {"LICENSE", "fewshot"}
    assert not any("eval_final" in name for name in downloads(hub))


def test_one_of_two_checkpoints(hub, checkpoints, converted, tmp_path, capsys):
    output = tmp_path / "se"
    assert main(["convert", "arc/se", str(output)]) == 2
    assert (
        "has several checkpoints (se_epoch16.ckpt, se_epoch4.ckpt); choose one (--checkpoint)"
        in capsys.readouterr().err
    )
    assert main(["convert", "arc/se", str(output), "--checkpoint", "se_epoch4.ckpt"]) == 0
    assert same_model(output, converted(STATE_EMBEDDING / "wide"))
    assert (output / "MODEL_LICENSE.md").is_file()
    assert "se_epoch16.ckpt" not in downloads(hub)


def test_a_revision(hub, checkpoints, tmp_path):
    first = checkpoints.branches["main"]
    checkpoints.commit("main", {}, ["se_epoch4.ckpt", "se_epoch16.ckpt"])
    with pytest.raises(CheckpointError, match="arc/se has no checkpoint"):
        convert("arc/se", tmp_path / "se")
    convert("arc/se", tmp_path / "se", revision=first, checkpoint="se_epoch4.ckpt")
    with pytest.raises(OSError, match="arc/se has no revision 'v9'"):
        convert("arc/se", tmp_path / "other", revision="v9")


def test_shards_with_the_originals_names(hub, converted, tmp_path):
    folder = STATE_EMBEDDING.parents[1] / "state_embedding" / "small"
    shard = (folder / "model.safetensors").read_bytes()
    index = {"weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model-00001-of-00001.safetensors")}
    repository = Repository()
    repository.commit(
        "main",
        {
            "config.json": (folder / "config.json").read_bytes(),
            "genes.txt": "".join(f"GENE{row}\n" for row in range(60)).encode(),
            "model-00001-of-00001.safetensors": shard,
            "model.safetensors.index.json": json.dumps(index).encode(),
        },
    )
    hub.repositories["models", "arc/shards"] = repository
    convert("arc/shards", tmp_path / "se")
    assert same_model(tmp_path / "se", converted(STATE_EMBEDDING / "small"))


def test_what_is_not_there(hub, runs, tmp_path, monkeypatch):
    output = tmp_path / "out"
    for action in (lambda **o: convert("arc/runs", output, **o), lambda **o: inspect("arc/runs", **o)):
        with pytest.raises(CheckpointError, match="in its folders fewshot/k562, zeroshot/rpe1; name one"):
            action()
        with pytest.raises(CheckpointError, match=r"arc/runs/fewshot has no checkpoint.*folders fewshot/k562"):
            action(subfolder="fewshot")
        with pytest.raises(CheckpointError, match=r"arc/runs/fewshot/k562 has no checkpoint 'last\.ckpt'"):
            action(subfolder="fewshot/k562", checkpoint="last.ckpt")
    for action in (lambda name: convert(name, output), inspect):
        with pytest.raises(FileNotFoundError, match="no file or folder arc/nothing, and no such repository on the Hub"):
            action("arc/nothing")
        with pytest.raises(FileNotFoundError, match="no-such-file, and an id on the Hub has the form owner/name"):
            action("no-such-file")
    for action in (lambda **o: convert(RUN, output, **o), lambda **o: inspect(RUN, **o)):
        with pytest.raises(ValueError, match="revision='main' is for a repository on the Hub"):
            action(revision="main")
    runs.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    for action in (lambda name: convert(name, output), inspect):
        with pytest.raises(OSError, match=r"arc/runs is gated: accept its conditions at http.*/arc/runs and log in"):
            action("arc/runs")
    assert not output.exists()


def test_offline_and_unreachable(hub, checkpoints, tmp_path, monkeypatch):
    convert("arc/se", tmp_path / "first", checkpoint="se_epoch4.ckpt")
    asked = len(hub.requests)
    with monkeypatch.context() as offline:
        offline.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        convert("arc/se", tmp_path / "second")
        assert same_model(tmp_path / "second", tmp_path / "first")
        for action in (lambda name: convert(name, tmp_path / "third"), inspect):
            with pytest.raises(OSError, match="arc/other could not be read whole: the Hub cannot be reached"):
                action("arc/other")
        assert len(hub.requests) == asked
    # A port that nobody listens on.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    convert("arc/se", tmp_path / "third", checkpoint="se_epoch4.ckpt")
    with pytest.raises(OSError, match="arc/other could not be read whole"):
        inspect("arc/other")


class TestInspect:
    def test_a_model(self, hub, converted):
        """Its weights are not downloaded."""
        folder = converted(RUN)
        push_folder(folder, "someone/st")
        here, there = inspect(folder), inspect("someone/st")
        assert there.missing == []
        assert {k: v for k, v in there.facts.items() if k != "weights"} == {
            k: v for k, v in here.facts.items() if k != "weights"
        }
        assert there.facts["weights"] == "52 tensors, 6,122 numbers (F32)"

    def test_shards_in_a_subfolder(self, hub, tmp_path):
        convert(STATE_EMBEDDING / "small", tmp_path / "all" / "se", max_shard_bytes=60_000)
        push_folder(tmp_path / "all", "someone/all")
        found = inspect("someone/all", subfolder="se")
        assert found.missing == []
        assert found.facts["sizes"] == inspect(tmp_path / "all" / "se").facts["sizes"]

    def test_a_model_without_weights(self, hub, converted):
        repository = Repository()
        repository.commit("main", {"config.json": (converted(RUN) / "config.json").read_bytes()})
        hub.repositories["models", "someone/empty"] = repository
        assert inspect("someone/empty").missing[0] == "weights: the repository has no model.safetensors"

    def test_checkpoints(self, hub, runs, checkpoints, capsys):
        assert main(["inspect", "arc/runs", "--subfolder", "zeroshot/rpe1"]) == 0
        said = capsys.readouterr().out
        assert "State Transition checkpoint of arc-state (final.ckpt" in said
        assert "3 batches" in said
        assert main(["inspect", "arc/se", "--checkpoint", "se_epoch4.ckpt"]) == 0
        assert "State Embedding checkpoint of arc-state (se_epoch4.ckpt" in capsys.readouterr().out
        assert main(["inspect", "arc/se"]) == 2
        assert (
            "has several checkpoints (se_epoch16.ckpt, se_epoch4.ckpt); choose one (--checkpoint)"
            in capsys.readouterr().err
        )
