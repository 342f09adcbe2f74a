"""Files and folders that are there whole or not at all."""

import errno
import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from state_hf.configuration.advice import refuse_existing
from state_hf.configuration.file_permissions import follow_umask

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; renamed to `path` at the end, or removed on an error.

    The content is on the disk before the name is, so that not even a power cut leaves a part of it. Its permissions
    follow the umask, whatever wrote it.

    Args:
        path: The file or folder to write; what has its name stays until the new one is complete. Folders above it that
            are not there are made.

    Raises:
        OSError: The file cannot be written; if because the disk is full, the message says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        yield temporary
        if temporary.is_dir():
            for weights in temporary.rglob("*.safetensors"):
                follow_umask(weights)
            _put_folder(temporary, path)
        else:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            follow_umask(temporary)
            temporary.replace(path)
    except (OSError, RuntimeError) as error:
        number = error_number(error)
        if number not in _DISK_FULL:
            raise
        message = "The disk is full, so the file was not written: make room and run again"
        raise OSError(number, message, str(path)) from error
    finally:
        remove_path(temporary)


def _put_folder(folder: Path, path: Path) -> None:
    """Give a folder its name; unlike a file, it takes the place of nothing."""
    if not path.exists():
        folder.replace(path)
        return
    replaced = path.with_name(f".replaced-{os.getpid()}-{path.name}")
    path.replace(replaced)
    try:
        folder.replace(path)
    except OSError:
        replaced.replace(path)
        raise
    remove_path(replaced)


def remove_path(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if there is one of this name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `folder` to write into; renamed to it at the end, or removed on an error.

    Args:
        folder: The folder to make.
        overwrite: Whether to replace a folder that exists.

    Raises:
        FileExistsError: If the folder exists.
    """
    refuse_existing(folder, overwrite=overwrite)
    with written_whole(folder) as unfinished:
        unfinished.mkdir(parents=True)
        yield unfinished


@contextmanager
def store_written_whole(path: Path) -> Iterator[Path]:
    """`written_whole` for what one run at a time writes: what killed ones left, which may be large, is deleted."""
    for leftover in path.parent.glob(f".writing-*-{glob.escape(path.name)}"):
        remove_path(leftover)
    with written_whole(path) as temporary:
        yield temporary


def error_number(error: OSError | RuntimeError) -> int | None:
    """The system's number; HDF5 gives it in its text only, and as a RuntimeError where a file is closed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"errno = (\d+)", str(error))
    return int(found[1]) if found else None
