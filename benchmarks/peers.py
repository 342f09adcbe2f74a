"""The peers' environments: which peer lives in which, and how an environment is built from its pinned packages."""

import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
PEERS = {
    "arc-state": "arc-state",
    "cell-eval": "arc-state",
    "cell-load": "arc-state",
    "pdex": "arc-state",
    "geomloss": "arc-state",
    "cell-eval2": "cell-eval2",
}
"""The environment of every peer; its packages are pinned in `peers/ENVIRONMENT.txt`."""


def python_of(contestant: str, given: Sequence[str] = ()) -> str:
    """The interpreter of a contestant: this one, if it is no peer; else the one of its environment, built if absent.

    Args:
        contestant: Its name.
        given: `ENVIRONMENT=PYTHON`, for environments that exist elsewhere. The variable `STATE_HF_PEERS` holds more of
            them, separated by spaces.

    Returns:
        Path of a Python interpreter.

    Raises:
        SystemExit: If `given` names no environment.
    """
    elsewhere = {}
    for pair in (*os.environ.get("STATE_HF_PEERS", "").split(), *given):
        environment, _, python = pair.partition("=")
        if environment not in PEERS.values() or not python:
            raise SystemExit(f"{pair} is not ENVIRONMENT=PYTHON; environments: {', '.join(sorted({*PEERS.values()}))}.")
        elsewhere[environment] = python
    if contestant not in PEERS:
        return sys.executable
    return elsewhere.get(PEERS[contestant]) or built(PEERS[contestant])


def built(environment: str) -> str:
    """Build an environment under `.peers/` if it is not there. Returns its interpreter."""
    folder = HERE / ".peers" / environment
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        requirements = HERE / "peers" / f"{environment}.txt"
        # Our own constraints are not the peers'.
        free = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True, env=free)
        done.touch()
    return str(python)
