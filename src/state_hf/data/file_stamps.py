"""Whether files stay as they are while they are read."""

from pathlib import Path


def file_stamp(path: Path) -> str:
    """A short text that changes when a file, or one in a folder, is written: sizes and times."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    status = [file.stat() for file in files]
    size, changed = sum(entry.st_size for entry in status), max(entry.st_mtime_ns for entry in status)
    return f"{size} bytes, changed at {changed} ns"


class FileStamps:
    """The stamps of files when reading them begins.

    Args:
        sources: Paths; whatever else is among them is in memory, and has no stamp.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, *sources: object) -> None:
        paths = [Path(source) for source in sources if isinstance(source, str | Path)]
        self._stamps = {path: file_stamp(path) for path in paths}

    def check(self) -> None:
        """Refuse what was read.

        Raises:
            ValueError: A file was written or removed since.
        """
        for path, stamp in self._stamps.items():
            if not path.exists() or file_stamp(path) != stamp:
                raise ValueError(f"{path} changed while it was read: run again when it is complete")


__all__ = ["FileStamps", "file_stamp"]
