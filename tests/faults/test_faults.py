"""What goes wrong around a command: it is interrupted, may not write, or its input changes under it."""

import json
import shutil

import numpy as np
import pytest

import state_hf.pipelines.evaluate as evaluate_module
import state_hf.pipelines.predict as predict_module
import state_hf.pipelines.preprocess as preprocess_module
from state_hf import embed
from state_hf.cli import main
from state_hf.data.partial_results import PartialResults
from tests.pipelines.conftest import adata as adata
from tests.pipelines.conftest import h5ad, tiny_model
from tests.screen_models import lose_a_weight
from tests.tiny_models import state_transition_model

__all__ = ["adata", "h5ad", "tiny_model"]


@pytest.fixture
def arguments(tiny_model, h5ad, tmp_path, monkeypatch):
    monkeypatch.setattr("state_hf.inference.embedding_task._BLOCK_BYTES", 2**13)
    return ["embed", str(h5ad), "--model", str(tiny_model), "--output", str(tmp_path / "out.npy"), "--device", "cpu"]


def after_a_block(monkeypatch, action):
    """Calls `action` before the second block is stored."""
    write, written = PartialResults.write, []

    def write_and_act(self, block, rows):
        written.append(block)
        if len(written) == 2:
            action()
        write(self, block, rows)

    monkeypatch.setattr(PartialResults, "write", write_and_act)


def interrupt():
    raise KeyboardInterrupt


def test_an_interrupt_is_one_line_and_the_run_goes_on(arguments, tiny_model, h5ad, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        after_a_block(patched, interrupt)
        assert main(arguments) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "state-hf embed: interrupted"
    assert len(list((tmp_path / "out.npy.partial").glob("block_*.npy"))) == 1
    assert main([*arguments, "--resume"]) == 0
    whole = embed(h5ad, tiny_model, output=tmp_path / "whole.npy", device="cpu")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.load(whole), atol=1e-5)


def test_a_file_that_changes_while_it_is_read_is_noticed(arguments, h5ad, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "cells.h5ad"
    copy.write_bytes(h5ad.read_bytes())
    arguments[1] = str(copy)
    after_a_block(monkeypatch, lambda: copy.write_bytes(copy.read_bytes() + b"more"))
    assert main(arguments) == 2
    assert "cells.h5ad changed while it was read; start over (--overwrite)" in capsys.readouterr().err
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("command", ["preprocess", "predict", "evaluate"])
def test_a_screen_that_changes_while_it_is_read_gives_no_result(
    command, screen_path, vocabulary, tmp_path, monkeypatch, capsys
):
    copy, model, cache = tmp_path / "screen.h5ad", tmp_path / "model", tmp_path / "cache"
    copy.write_bytes(screen_path.read_bytes())
    state_transition_model(vocabulary).save_pretrained(model)
    words = {
        "preprocess": ["--layer", "counts"],
        "predict": ["--model", str(model)],
        "evaluate": [str(screen_path), "--cache", str(cache)],
    }[command]
    steps = {
        "preprocess": (preprocess_module, "_select"),
        "predict": (predict_module, "plan_predictions"),
        "evaluate": (evaluate_module, "content_key"),
    }[command]
    step = getattr(*steps)

    def write_and_step(*arguments, **options):
        copy.write_bytes(copy.read_bytes() + b"more")
        return step(*arguments, **options)

    monkeypatch.setattr(*steps, write_and_step)
    output = tmp_path / ("scores" if command == "evaluate" else "out.h5ad")
    assert main([command, str(copy), *words, "--output", str(output)]) == 2
    assert "screen.h5ad changed while it was read: run again when it is complete" in capsys.readouterr().err
    assert not output.exists()
    assert not cache.exists() or not any(cache.iterdir())


def test_an_output_that_may_not_be_written_is_one_line(arguments, capsys):
    arguments[arguments.index("--output") + 1] = "/proc/nowhere/out.npy"
    assert main(arguments) == 2
    assert "/proc/nowhere" in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_are_missing_are_refused(tiny_model, h5ad, tmp_path, capsys):
    """Random numbers in their place would embed cells, too."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    lose_a_weight(model, "encoder")
    assert main(["embed", str(h5ad), "--model", str(model), "--output", str(tmp_path / "o.npy")]) == 2
    assert "is incomplete: 1 of its model's weights are missing" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["embed", "predict", "annotate"])
def test_code_in_a_model_is_neither_run_nor_asked_about(command, tiny_model, h5ad, tmp_path, monkeypatch, capsys):
    model, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_model, model)
    (model / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (model / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user is asked"))
    assert main([command, str(h5ad), "--model", str(model), "--output", str(tmp_path / "out.h5ad")]) == 2
    assert str(model) in capsys.readouterr().err
    assert not ran.exists()
