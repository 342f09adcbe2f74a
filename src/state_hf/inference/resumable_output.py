"""An output that appears whole, and the folder of finished blocks beside it that an interrupted run goes on from."""

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state_hf.configuration.advice import Advised, refuse_existing
from state_hf.data.partial_results import PartialResults, different_settings


@dataclass(frozen=True)
class ResumableOutput:
    """One output of a long job.

    Args:
        path: The file, store or folder to make.
        resume: Whether to go on with what an earlier run with the same settings left, and to keep a complete output.
        overwrite: Whether to replace an output that exists, and to throw away an unfinished run.

    Raises:
        ValueError: Both are asked for.
    """

    path: Path
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("resume goes on with what is there, and overwrite throws it away: choose one of them.")

    @property
    def partial(self) -> Path:
        """The folder of finished blocks."""
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing to do."""
        return self.resume and self.path.exists()

    def refuse_existing(self) -> None:
        """Refuse to touch what is there, unless the user said what to do with it. To be called before any work.

        Raises:
            FileExistsError: The output exists, or an unfinished run.
        """
        if self.resume or self.overwrite:
            return
        refuse_existing(self.path, overwrite=False)
        if self.partial.exists():
            raise FileExistsError(
                Advised(
                    f"an unfinished run lies in {self.partial}",
                    "go on with it (resume=True)",
                    "start over (overwrite=True)",
                )
            )

    def check_complete(self, settings: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
        """Refuse to keep a complete output that was made otherwise.

        Args:
            settings: Those of this run.
            made_with: Those that the output says it was made with.

        Raises:
            ValueError: They differ (the message names where).
        """
        changed = different_settings(dict(made_with), dict(settings)) if self.is_complete else ""
        if changed:
            raise ValueError(
                Advised(
                    f"{self.path} is complete, but was made with other settings: {changed}",
                    "choose another name",
                    "replace it (overwrite=True)",
                )
            )

    def take_up(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Find out whether an earlier run can be continued, or throw it away. For one process.

        Args:
            parts: The settings of every part of the work, by its folder within `partial` ("" for `partial` itself).

        Raises:
            ValueError: An unfinished run was made with other settings.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Killed at its very end, a run leaves both its output and its blocks.
        if self.partial.exists() and (self.overwrite or self.path.exists()):
            shutil.rmtree(self.partial)
        for part, settings in parts.items():
            if self.resume and (self.partial / part).exists():
                PartialResults.resume(self.partial / part, dict(settings))

    def start(self, settings: Mapping[str, Any], *, num_rows: int, block_rows: int, part: str = "") -> None:
        """Make the folder of a part, unless there is one to go on with. For one process."""
        folder = self.partial / part
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            PartialResults.start(folder, dict(settings), num_rows=num_rows, block_rows=block_rows)

    def delete_partial(self) -> None:
        """Remove the finished blocks, when the output is made of them."""
        if self.partial.exists():
            shutil.rmtree(self.partial)

    @contextmanager
    def disk_full_explained(self) -> Iterator[None]:
        """Say, where the disk is full, that finished blocks are kept."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            problem = f"The disk is full; finished blocks are kept in {self.partial}"
            message = Advised(problem, "make room, then go on (resume=True)")
            raise OSError(error.errno, message, str(self.path)) from error


__all__ = ["ResumableOutput"]
