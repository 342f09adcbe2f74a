"""`state-hf embed` as a user runs it: in processes of its own, several at once, killed, and wrongly."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_hf import embed
from state_hf.cli import main

SOURCE = Path(__file__).parents[2] / "src"


def start(*arguments: object) -> subprocess.Popen:
    # What the tests are told of the processor holds for the process, too: results are compared to the bit.
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PATH": str(Path(sys.executable).parent)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_killed_run_goes_on_to_the_same_result(tiny_model, h5ad, tmp_path):
    output = tmp_path / "out.h5ad"
    # The process stops in the middle of its sixth block, so that the kill always finds it there.
    script = textwrap.dedent(f"""
        import time
        import numpy
        from state_hf import embed
        from state_hf.data import partial_results
        from state_hf.inference import embedding_task

        embedding_task._BLOCK_BYTES = 2**13
        save, saved = numpy.save, []
        def save_and_stop(file, rows):
            saved.append(rows)
            if len(saved) == 6:
                file.write(b"half")
                file.flush()
                time.sleep(600)
            save(file, rows)
        numpy.save = save_and_stop
        embed({str(h5ad)!r}, {str(tiny_model)!r}, output={str(output)!r}, device="cpu")
    """)
    process = start("-c", script)
    folder = tmp_path / "out.h5ad.partial"
    deadline = time.monotonic() + 120
    while not list(folder.glob(".block_00000005*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    messages = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, messages
    assert len(list(folder.glob("block_*.npy"))) == 5
    assert not output.exists()

    arguments = ["embed", str(h5ad), "--model", str(tiny_model), "--output", str(output), "--device", "cpu"]
    assert main(arguments) == 2
    assert main([*arguments, "--resume"]) == 0
    whole = embed(h5ad, tiny_model, output=tmp_path / "whole.npy", device="cpu")
    np.testing.assert_allclose(anndata.read_h5ad(output).obsm["X_state"], np.load(whole), atol=1e-5)
    assert not folder.exists()


def test_two_processes_give_what_one_gives(tiny_model, h5ad, tmp_path):
    output = tmp_path / "two.h5ad"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0]
    command = ["-m", "state_hf", "embed", h5ad, "--model", tiny_model, "--output", output, "--device", "cpu"]
    process = start(*launch, *command)
    messages = process.communicate(timeout=300)[0]
    assert process.returncode == 0, messages
    one = embed(h5ad, tiny_model, output=tmp_path / "one.npy", device="cpu")
    np.testing.assert_allclose(anndata.read_h5ad(output).obsm["X_state"], np.load(one), atol=1e-5)
    assert messages.count("cells; 53 of 55 genes") == 1
    assert "(process 1 of 2)" in messages
    assert not (tmp_path / "two.h5ad.partial").exists()


def test_command_reports_genes_and_ends_with_one_line(tiny_model, h5ad, tmp_path, capfd):
    output = tmp_path / "out.npy"
    assert main(["embed", str(h5ad), "--model", str(tiny_model), "--output", str(output), "--device", "cpu"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert any("90 cells; 53 of 55 genes are in the vocabulary of 60" in line for line in lines)
    assert lines[-1].startswith(f"Wrote {output}: 90 cells x 18 in ")
    assert lines[-1].endswith("cells/s)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.h5ad", "--output", "out.h5ad"], "there is no file nothing.h5ad"),
        (["{h5ad}", "--output", "out.txt"], "its name must end in .h5ad, .zarr, .npy, .parquet"),
        (["{h5ad}", "--output", "{h5ad}"], "is an input, which is never changed"),
        (["{h5ad}", "--output", "{folder}/out.h5ad", "--layer", "log"], "has no layer 'log'"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(tiny_model, h5ad, tmp_path, capfd, arguments, message):
    filled = [argument.format(h5ad=h5ad, folder=tmp_path) for argument in arguments]
    assert main(["embed", *filled, "--model", str(tiny_model), "--device", "cpu"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("state-hf embed: ")
    assert message in error


@pytest.mark.parametrize("option", [["--batch-size", "0"], ["--seed", "-1"], ["--fill", "zero"], ["--workers", "two"]])
def test_wrong_option_is_one_sentence_and_status_2(option, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(["embed", "cells.h5ad", "--model", "m", "--output", "o.npy", *option])
    assert f"error: argument {option[0]}" in capfd.readouterr().err
