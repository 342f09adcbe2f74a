"""Reads text that others wrote: what is no text, damaged, or endless is an error that names the file."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GZIP_MAGIC = b"\x1f\x8b"
# The longest lines are those of whole proteins and of annotations, of some ten thousand letters.
_LONGEST_LINE = 2**24
_SYMPTOMS = (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error, csv.Error)


class TextLines:
    """The lines of an open file, from its beginning or again from there.

    Args:
        path: The file's path, for messages.
        file: The open file.
    """

    def __init__(self, path: Path, file: io.TextIOBase) -> None:
        self._path, self._file = path, file

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        # A few kilobytes may unpack to a line of gigabytes.
        while line := self._file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"{self._path} has a line of more than {_LONGEST_LINE:,} letters: it is refused.")
            yield line


@contextmanager
def text_lines(path: Path) -> Iterator[TextLines]:
    """Open a text file, gzip-compressed or not.

    Raises:
        ValueError: It is not text in UTF-8, or damaged.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
            yield TextLines(path, file)
    except _SYMPTOMS as error:
        raise ValueError(f"{path} is not a text file in UTF-8, or a damaged one: {error}") from error


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        ValueError: It is not text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error


__all__ = ["TextLines", "read_text", "text_lines"]
