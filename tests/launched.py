"""Processes that tests start."""

import subprocess
from collections.abc import Sequence


def finish(command: Sequence[str]) -> None:
    """Run to the end; where it fails, what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
