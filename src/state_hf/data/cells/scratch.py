"""Folders for what has to lie on the disk while a file is read."""

import errno
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any


def _remove(path: Path, process: int) -> None:
    # A forked worker has a copy of the owner, but the folder is not its own.
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


class ScratchFolder:
    """A folder among the system's temporary files (TMPDIR), removed with the object that made it.

    Copies in other processes see the same folder, and leave it.

    Args:
        needed: Bytes that will be written.
        purpose: What for, as messages say it.

    Raises:
        OSError: There is no such space; the message says how much, and where.
    """

    def __init__(self, needed: int, purpose: str) -> None:
        place = tempfile.gettempdir()
        free = shutil.disk_usage(place).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{purpose} takes {needed / 1e9:.1f} GB of temporary files, and {free / 1e9:.1f} GB are free: name "
                "another folder in TMPDIR",
                place,
            )
        self.path = Path(tempfile.mkdtemp(prefix="state-hf-"))
        self._finalizer = weakref.finalize(self, _remove, self.path, os.getpid())

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}


__all__ = ["ScratchFolder"]
