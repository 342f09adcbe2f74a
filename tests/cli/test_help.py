"""Help is there at once: no command imports more than it needs to describe itself."""

import subprocess
import sys

from state_hf.cli import main

PROBE = """
import argparse, importlib, sys
from state_hf.cli import _COMMANDS
for name in _COMMANDS:
    module = importlib.import_module("state_hf.cli." + name.replace("-", "_"))
    module.configure(argparse.ArgumentParser())
    print(name, {"torch", "transformers", "anndata", "pandas", "numba"} & set(sys.modules))
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(line.endswith(" set()") for line in done.stdout.splitlines()), done.stdout


def test_a_mistyped_command_is_guessed(capsys):
    assert main(["embedd", "cells.h5ad"]) == 2
    assert "there is no command 'embedd'; did you mean embed?" in capsys.readouterr().err
