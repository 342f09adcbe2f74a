"""A checkpoint of arc-state on the Hub: which of a repository's files a conversion needs, and where they were put."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

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
        root: The folder that stands for the repository.
        folder: That of the run or model within it.
        checkpoint: File name of the checkpoint; None for shards.
    """

    repository: str
    commit: str
    root: Path
    folder: Path
    checkpoint: str | None


def is_hub_id(source: str) -> bool:
    """Whether a source that is no file has the form owner/name."""
    owner, _, name = source.partition("/")
    return bool(owner and name) and "/" not in name and not source.startswith((".", "~"))


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
    try:
        commit, files = _listed(repository, revision)
        wanted, chosen = _needed(files, at, checkpoint, repository)
        for name in wanted:
            fetched = Path(huggingface_hub.hf_hub_download(repository, name, revision=commit))
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
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"{repository} could not be downloaded whole: the Hub cannot be reached, or HF_HUB_OFFLINE is set, and the "
            "cache does not have all of its files."
        ) from error
    root = fetched.parents[len(PurePosixPath(name).parts) - 1]
    return HubCheckpoint(repository, commit, root, root / at, chosen)


def _listed(repository: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit and its files: the Hub's, or offline those of the cache."""
    try:
        info = huggingface_hub.HfApi().model_info(repository, revision=revision)
    except OfflineModeIsEnabled:
        root = Path(huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True))
        return root.name, sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return str(info.sha), sorted(file.rfilename for file in info.siblings or [])


def _needed(
    files: list[str], at: PurePosixPath, checkpoint: str | None, repository: str
) -> tuple[list[str], str | None]:
    """Paths to download, the checkpoint last; and its file name, None for shards."""
    paths = [PurePosixPath(name) for name in files]
    places = (at, at / "checkpoints")
    here = [path for path in paths if path.parent in places]
    if not here:
        raise CheckpointError(f"{repository} has no folder {at}.")
    shards = [path for path in here if path.parent == at and fnmatch(path.name, "model-*-of-*.safetensors")]
    chosen = None
    if at / _SHARDS in here and checkpoint is None:
        weights = [*shards, at / _SHARDS]
    else:
        try:
            weights = [chosen_checkpoint(here, checkpoint, f"{repository}{'' if str(at) == '.' else f'/{at}'}")]
        except CheckpointError as error:
            inside = sorted({str(_run_of(path)) for path in paths if path.suffix == ".ckpt"} - {".", str(at)})
            if not inside or checkpoint is not None:
                raise
            raise CheckpointError(f"{error} Folders with checkpoints, for --subfolder: {', '.join(inside)}.") from error
        chosen = weights[0].name
    beside = [path for path in here if path.parent == at and path.name in _BESIDE]
    licences = [path for path in paths if path.parent in (at, PurePosixPath()) and _is_licence(path.name)]
    return list(dict.fromkeys(map(str, [*licences, *beside, *weights]))), chosen


def _run_of(path: PurePosixPath) -> PurePosixPath:
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _is_licence(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in LICENCE_FILES)


__all__ = ["HubCheckpoint", "fetch_checkpoint", "is_hub_id"]
