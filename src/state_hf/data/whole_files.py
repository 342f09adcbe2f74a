"""Files and folders that are there whole or not at all."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; renamed to `path` at the end, or removed on an error.

    The content is on the disk before the name is, so that not even a power cut leaves a part of it.

    Args:
        path: The file to write; what has its name stays until the new file is complete.

    Raises:
        OSError: The file cannot be written; if because the disk is full, the message says so.
    """
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        number = error_number(error)
        if number not in _DISK_FULL:
            raise
        message = "The disk is full, so the file was not written: make room and run again"
        raise OSError(number, message, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `folder` to write into; renamed to it at the end, or removed on an error.

    Args:
        folder: The folder to make.
        overwrite: Whether to replace a folder that exists.

    Raises:
        FileExistsError: If the folder exists.
    """
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: choose another name, or replace it with --overwrite.")
    unfinished = folder.with_name(f".writing-{os.getpid()}-{folder.name}")
    replaced = folder.with_name(f".replaced-{os.getpid()}-{folder.name}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
    finally:
        for leftover in (unfinished, replaced):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def error_number(error: OSError | RuntimeError) -> int | None:
    """The system's number; HDF5 gives it in its text only, and as a RuntimeError where a file is closed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"errno = (\d+)", str(error))
    return int(found[1]) if found else None
