"""What goes wrong around a command: it is interrupted, may not write, or its input changes under it."""

import numpy as np
import pytest

from state_hf import embed
from state_hf.cli import main
from state_hf.data.partial_results import PartialResults
from tests.pipelines.conftest import adata as adata
from tests.pipelines.conftest import h5ad, tiny_model

__all__ = ["adata", "h5ad", "tiny_model"]


@pytest.fixture
def arguments(tiny_model, h5ad, tmp_path, monkeypatch):
    monkeypatch.setattr("state_hf.pipelines.embedding_task._BLOCK_BYTES", 2**13)
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
    after_a_block(monkeypatch, lambda: copy.open("ab").write(b"more"))
    assert main(arguments) == 2
    assert "cells.h5ad changed while it was read: start over (--overwrite)" in capsys.readouterr().err
    assert not (tmp_path / "out.npy").exists()


def test_an_output_that_may_not_be_written_is_one_line(arguments, capsys):
    arguments[arguments.index("--output") + 1] = "/proc/nowhere/out.npy"
    assert main(arguments) == 2
    assert "/proc/nowhere" in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_are_missing_are_refused(tiny_model, h5ad, tmp_path, capsys):
    """Random numbers in their place would embed cells, too."""
    import shutil

    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    weights = load_file(model / "model.safetensors")
    lost = next(name for name in sorted(weights) if "encoder" in name)
    del weights[lost]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert main(["embed", str(h5ad), "--model", str(model), "--output", str(tmp_path / "o.npy")]) == 2
    assert "is incomplete: 1 of its model's weights are missing" in capsys.readouterr().err
