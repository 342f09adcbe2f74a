"""Models, losses and whole jobs give on another device what they give on the CPU, and forget no tensor there.

There is no GPU where the tests run: the device is a pretended one, in a process of its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("check", ["models", "jobs"])
def test_on_another_device(check, tmp_path):
    root = Path(__file__).parents[2]
    code = f"from tests.devices import checks; from pathlib import Path; checks.{check}(Path({str(tmp_path)!r}))"
    child = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-3000:]
