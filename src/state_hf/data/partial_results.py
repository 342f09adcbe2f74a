"""Finished blocks of a long computation on disk, so that a killed run goes on where it stopped."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from state_hf.configuration.advice import Advised

_SETTINGS = "settings.json"


def different_settings(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The entries of `new` that `old` holds otherwise, in words; empty if there are none."""
    changed = [name for name, value in new.items() if str(old.get(name)) != str(value)]
    return "; ".join(f"{name} was {old.get(name)!r} and is {new[name]!r}" for name in changed)


class PartialResults:
    """A folder of blocks of rows, one .npy file each, with the settings that they were made with.

    Processes that share the folder write different blocks, so they need no lock.

    Args:
        folder: Where the blocks lie.
        num_rows: Rows of the whole result.
        block_rows: Rows of a block; the last may have fewer.
    """

    def __init__(self, folder: Path, num_rows: int, block_rows: int) -> None:
        self.folder, self.num_rows, self.block_rows = folder, num_rows, block_rows

    @property
    def num_blocks(self) -> int:
        """Number of blocks, finished or not."""
        return -(-self.num_rows // self.block_rows)

    @classmethod
    def start(cls, folder: Path, settings: dict[str, Any], *, num_rows: int, block_rows: int) -> "PartialResults":
        """Make a new folder; `settings` is what a later run is compared with."""
        temporary = folder.with_name(f".starting-{folder.name}")
        temporary.mkdir(exist_ok=True)
        content = {"num_rows": num_rows, "block_rows": block_rows, "settings": settings}
        (temporary / _SETTINGS).write_text(json.dumps(content, indent=2))
        temporary.rename(folder)
        return cls(folder, num_rows, block_rows)

    @classmethod
    def open(cls, folder: Path) -> "PartialResults":
        """Open a folder that another process made."""
        content = cls._read(folder)
        num_rows, block_rows = content.get("num_rows"), content.get("block_rows")
        if not (isinstance(num_rows, int) and isinstance(block_rows, int) and num_rows >= 0 and block_rows > 0):
            raise ValueError(Advised(f"{folder / _SETTINGS} is damaged", "start over (overwrite=True)"))
        return cls(folder, num_rows, block_rows)

    @classmethod
    def resume(cls, folder: Path, settings: dict[str, Any]) -> "PartialResults":
        """Open what an earlier run left.

        Raises:
            ValueError: It was made with other settings (named in the message).
        """
        changed = different_settings(cls._read(folder)["settings"], settings)
        if changed:
            raise ValueError(
                Advised(
                    f"cannot go on with the unfinished run in {folder} ({changed})",
                    "use the same settings",
                    "start over (overwrite=True)",
                )
            )
        return cls.open(folder)

    @staticmethod
    def _read(folder: Path) -> dict[str, Any]:
        if not (folder / _SETTINGS).exists():
            raise ValueError(f"{folder} is not the folder of an unfinished run: it has no {_SETTINGS}")
        try:
            content = json.loads((folder / _SETTINGS).read_text())
        except (ValueError, RecursionError) as error:
            raise ValueError(
                Advised(f"{folder / _SETTINGS} is damaged ({error})", "start over (overwrite=True)")
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
            raise ValueError(Advised(f"{folder / _SETTINGS} is damaged", "start over (overwrite=True)"))
        return content

    def bounds(self, block: int) -> tuple[int, int]:
        """First row and end of a block."""
        return block * self.block_rows, min((block + 1) * self.block_rows, self.num_rows)

    def _path(self, block: int) -> Path:
        return self.folder / f"block_{block:08d}.npy"

    def missing(self) -> list[int]:
        """The blocks that are still to be computed, in order."""
        return [block for block in range(self.num_blocks) if not self._path(block).exists()]

    def write(self, block: int, rows: np.ndarray) -> None:
        """Store a finished block (rows, dimensions); it is there whole or not at all."""
        path = self._path(block)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.save(file, rows)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row and rows of every block, in order."""
        for block in range(self.num_blocks):
            start, stop = self.bounds(block)
            try:
                # A header that NumPy can only read by guessing, with a warning, is damaged, too.
                with warnings.catch_warnings(action="error", category=UserWarning):
                    rows = np.load(self._path(block))
            except (ValueError, EOFError, TokenError, SyntaxError, MemoryError, UserWarning) as error:
                raise ValueError(f"{self._path(block)} is damaged: delete it, and resume ({error})") from error
            if rows.ndim != 2 or len(rows) != stop - start or rows.dtype != np.float32:
                raise ValueError(f"{self._path(block)} is damaged: delete it, and resume")
            yield start, rows

    def delete(self) -> None:
        """Remove the folder with all its blocks."""
        shutil.rmtree(self.folder)
