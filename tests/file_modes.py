"""Modes of files, and files that may not be read, for whoever runs the tests."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534


def mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Nobody may read the file or enter the folder for a while; root, who may read everything, is somebody else.

    Somebody else may not import what was not imported before, so what is done here has to be done once before.
    """
    before, is_root = mode(path), os.geteuid() == 0
    path.chmod(0)
    try:
        if is_root:
            os.seteuid(_NOBODY)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(before)
