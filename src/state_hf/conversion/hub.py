"""Repositories on the Hub that a conversion or inspection reads: what they list, and why they cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx


def is_hub_id(source: str) -> bool:
    """Whether a source that is no file has the form owner/name."""
    owner, _, name = source.partition("/")
    return bool(owner and name) and "/" not in name and not source.startswith((".", "~"))


def refuse_hub_options(source: object, **options: str | None) -> None:
    """Refuse what is only for a repository.

    Raises:
        ValueError: If one of the options is set.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name}={value!r} is for a repository on the Hub, owner/name, which {source} is not.")


@contextmanager
def explained_hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Says what is wrong with a repository, or the way to it, and what to do, in a sentence.

    Raises:
        OSError: With that sentence.
    """
    try:
        yield
    except GatedRepoError as error:
        raise OSError(
            f"{repository} is gated: accept its conditions at {huggingface_hub.constants.ENDPOINT}/{repository} and "
            "log in (`hf auth login`, or HF_TOKEN)."
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no file or folder {repository}, and no such repository on the Hub, or it is private and this "
            "login may not see it (`hf auth login`, or HF_TOKEN)."
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(f"{repository} has no revision {revision!r}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError) as error:
        raise OSError(
            f"{repository} could not be read whole: the Hub cannot be reached, or HF_HUB_OFFLINE is set, and the cache "
            "does not have all of its files."
        ) from error


def list_repository(repository: str, revision: str | None) -> list[str]:
    """Paths of a repository's files: the Hub's, or those of the cache where it cannot be reached."""
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision)
    except (OfflineModeIsEnabled, httpx.ConnectError, httpx.TimeoutException):
        # No pattern: what is cached may be a part of the repository.
        cached = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=[], local_files_only=True
        )
        return sorted(path.relative_to(cached).as_posix() for path in Path(cached).rglob("*") if path.is_file())
    return sorted(file.rfilename for file in info.siblings or [])


__all__ = ["explained_hub_errors", "is_hub_id", "list_repository", "refuse_hub_options"]
