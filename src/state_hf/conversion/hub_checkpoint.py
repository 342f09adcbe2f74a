"""A checkpoint of arc-state on the Hub: which of a repository's files a conversion needs, and where they were put."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from state_hf.conversion.arc_checkpoint import chosen_checkpoint
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.model_folder import LICENCE_FILES
from state_hf.conversion.run_folder import BATCHES_FILES, CELL_TYPES_FILES, PERTURBATIONS_FILE, VARIABLES_FILE
from state_hf.conversion.state_embedding import EMBEDDINGS_FILE

_BESIDE = (
    "config.yaml",
    "config.json",
    "genes.txt",
    EMBEDDINGS_FILE,
    VARIABLES_FILE,
    PERTURBATIONS_FILE,
    *BATCHES_FILES,
    *CELL_TYPES_FILES,
)
_SHARDS = "model.safetensors.index.json"


@dataclass(frozen=True)
class HubCheckpoint:
    """The files of a repository that a conversion needs, in the cache.

    Args:
        repository: Its id.
        commit: The commit that they are of.
        subfolder: Folder of the run or model within the repository; None for the repository itself.
        root: The folder that stands for the repository.
        folder: That of the run or model within it.
        checkpoint: File name of the checkpoint; None for shards.
    """

    repository: str
    commit: str
    subfolder: str | None
    root: Path
    folder: Path
    checkpoint: str | None


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
            raise ValueError(f"--{name} is for a repository on the Hub, owner/name, which {source} is not.")


def fetch_checkpoint(
    repository: str, *, revision: str | None = None, subfolder: str | None = None, checkpoint: str | None = None
) -> HubCheckpoint:
    """Download a checkpoint, the files beside it and the licence; other checkpoints of the repository stay there.

    Args:
        repository: Its id, owner/name.
        revision: Branch, tag or commit; by default main.
        subfolder: Folder of the run or model within the repository; by default the repository itself.
        checkpoint: Which of the folder's checkpoints, by its file name.

    Raises:
        CheckpointError: If it has no checkpoint, or several could be meant.
        OSError: If the Hub does not have or give it, or cannot be reached.
    """
    at = PurePosixPath(subfolder or ".")
    with explained_hub_errors(repository, revision):
        wanted, chosen = _needed(list_repository(repository, revision), at, checkpoint, repository)
        # By the revision and not its commit, so that offline the cache knows what the revision was.
        root = Path(
            huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(map(escape, wanted)))
        )
    return HubCheckpoint(repository, root.name, subfolder, root, root / at, chosen)


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


def _needed(
    files: list[str], at: PurePosixPath, checkpoint: str | None, repository: str
) -> tuple[list[str], str | None]:
    """Paths to download, and the checkpoint's file name; None for shards."""
    paths = [PurePosixPath(name) for name in files]
    here = [path for path in paths if path.parent in (at, at / "checkpoints")]
    chosen = None
    if at / _SHARDS in here and checkpoint is None:
        shards = [path for path in here if path.parent == at and fnmatch(path.name, "model-*-of-*.safetensors")]
        weights = [*shards, at / _SHARDS]
    else:
        folder = repository if at == PurePosixPath() else f"{repository}/{at}"
        try:
            weights = [chosen_checkpoint(here, checkpoint, folder)]
        except CheckpointError as error:
            runs = {str(_run_of(path)) for path in paths if path.suffix == ".ckpt"} - {str(at)}
            if not runs:
                raise
            raise CheckpointError(f"{error} Folders with checkpoints, for --subfolder: {_listed(runs)}.") from error
        chosen = weights[0].name
    beside = [path for path in here if path.parent == at and path.name in _BESIDE]
    licences = [path for path in paths if path.parent in (at, PurePosixPath()) and _is_licence(path.name)]
    return list(dict.fromkeys(map(str, [*licences, *beside, *weights]))), chosen


def _listed(names: set[str], most: int = 12) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _run_of(path: PurePosixPath) -> PurePosixPath:
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _is_licence(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in LICENCE_FILES)


__all__ = [
    "HubCheckpoint",
    "explained_hub_errors",
    "fetch_checkpoint",
    "is_hub_id",
    "list_repository",
    "refuse_hub_options",
]
