"""Permissions of files: what is written follows the umask, and what may not be read is called that."""

import os
import stat
from pathlib import Path


def follow_umask(path: str | os.PathLike[str]) -> None:
    """Give a file the permissions that `open` gives a new one beside it.

    Some libraries make files that their owner alone can read, which a lab's shared folder is not for.

    Args:
        path: A file that was just written.
    """
    path = Path(path)
    # To ask for the umask is to change it, for other threads too; and a folder may have rules of its own.
    probe = path.with_name(f".permissions-{os.getpid()}-{path.name}")
    try:
        probe.touch()
        path.chmod(stat.S_IMODE(probe.stat().st_mode))
    finally:
        probe.unlink(missing_ok=True)


def weights_follow_umask(folder: str | os.PathLike[str]) -> None:
    """Let the weights in a folder be read by whom the umask allows: safetensors saves them for their owner alone.

    Args:
        folder: Where a model was just saved.
    """
    for path in Path(folder).glob("*.safetensors"):
        follow_umask(path)


def check_readable(path: str | os.PathLike[str]) -> None:
    """Refuse what is there but may not be read, before a library calls it missing or damaged.

    Args:
        path: A file, or a folder, whose own files are looked at, too. What is not there is none of this function's
            business.

    Raises:
        PermissionError: It may not be read, or a folder above it may not be entered; the message names it.
    """
    path = Path(path)
    try:
        files = [path]
        if stat.S_ISDIR(path.stat().st_mode):
            files = [entry for entry in path.iterdir() if not stat.S_ISDIR(entry.stat().st_mode)]
        for file in files:
            # Not to wait for the other end of a pipe.
            os.close(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
    except PermissionError:
        raise
    except OSError:
        return


__all__ = ["check_readable", "follow_umask", "weights_follow_umask"]
