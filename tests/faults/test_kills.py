"""Commands that are killed outright while they write: what has the output's name is whole, and running again works."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
from safetensors.numpy import load_file

from state_hf.cli import main
from tests.conversion.conftest import STATE_EMBEDDING
from tests.tiny_models import state_transition_model

# Every file is complete a while before it gets its name, so that a random moment is often one of those that matter.
SLOW = """
import os, sys, time
sync, rename = os.fsync, os.replace
os.fsync = lambda descriptor: (time.sleep(0.2), sync(descriptor))
os.replace = lambda *names, **options: (time.sleep(0.2), rename(*names, **options))
from state_hf.cli import main
sys.exit(main(sys.argv[1:]))
"""


def cells_of(path: Path) -> dict[str, np.ndarray]:
    cells = anndata.read_h5ad(path)
    return {"X": cells.X.toarray(), "labels": cells.obs["perturbation"].to_numpy(str)}


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    assert (folder / "config.json").is_file()
    return load_file(folder / "model.safetensors")


def scores_of(folder: Path) -> dict[str, np.ndarray]:
    return {"scores": np.loadtxt(folder / "aggregate.csv", dtype=str, delimiter=",")}


@pytest.fixture(scope="module")
def model(vocabulary, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    state_transition_model(vocabulary).save_pretrained(folder)
    return folder


@pytest.fixture
def commands(screen_path, model, tmp_path):
    """Command -> its words, but for the output; the option that names the output; and what reads it."""
    screen = str(screen_path)
    cache = ["--cache", str(tmp_path / "cache")]
    return {
        "preprocess": ([screen, "--layer", "counts"], "--output", "out.h5ad", cells_of),
        "predict": ([screen, "--model", str(model)], "--output", "out.h5ad", cells_of),
        "convert": ([str(STATE_EMBEDDING / "small")], None, "out", weights_of),
        "evaluate": ([screen, screen, *cache], "--output", "out", scores_of),
    }


@pytest.mark.parametrize("command", ["preprocess", "predict", "convert", "evaluate"])
def test_a_killed_command_leaves_nothing_half_done(command, commands, tmp_path):
    words, option, name, read = commands[command]
    (tmp_path / "whole").mkdir()

    def arguments(folder: Path) -> list[str]:
        output = [str(folder / name)] if option is None else [option, str(folder / name)]
        return [command, *words, *output]

    killed = tmp_path / "killed"
    killed.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SLOW, *arguments(killed)], stderr=subprocess.PIPE)
    written = (killed, tmp_path / "cache")
    while process.poll() is None and not any(folder.is_dir() and any(folder.iterdir()) for folder in written):
        time.sleep(0.005)
    time.sleep(float(np.random.default_rng().uniform(0, 0.5)))
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1].decode()
    assert process.returncode in (0, -signal.SIGKILL), said

    assert main(arguments(tmp_path / "whole")) == 0
    expected = read(tmp_path / "whole" / name)
    if (killed / name).exists():
        found = read(killed / name)
    else:
        assert main(arguments(killed)) == 0
        found = read(killed / name)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values)
