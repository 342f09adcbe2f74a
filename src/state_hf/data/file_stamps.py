"""Whether files stay as they are while they are read."""

from pathlib import Path

from state_hf.data.cells.locations import is_url
from state_hf.data.cells.remote import url_fingerprint


def file_stamp(path: Path) -> str:
    """A short text that changes when a file, or one in a folder, is written: sizes and times."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    status = [file.stat() for file in [path, *sorted(path.rglob("*"))]]
    size, changed = sum(entry.st_size for entry in status), max(entry.st_mtime_ns for entry in status)
    return f"{size} bytes, changed at {changed} ns"


def _stamp(source: str | Path) -> str:
    return url_fingerprint(str(source)) if is_url(source) else file_stamp(Path(source))


class FileStamps:
    """The stamps of files when reading them begins.

    Args:
        sources: Paths and URLs; whatever else is among them is in memory, and has no stamp.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, *sources: object) -> None:
        self._stamps = {source: _stamp(source) for source in sources if isinstance(source, str | Path)}

    def check(self) -> None:
        """Refuse what was read.

        Raises:
            ValueError: A file was written or removed since.
        """
        for source, stamp in self._stamps.items():
            try:
                is_same = _stamp(source) == stamp
            except FileNotFoundError:
                is_same = False
            if not is_same:
                raise ValueError(f"{source} changed while it was read: run again when it is complete")


__all__ = ["FileStamps", "file_stamp"]
