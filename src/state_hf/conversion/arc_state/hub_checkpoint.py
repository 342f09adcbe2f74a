"""A checkpoint of arc-state on the Hub: which of a repository's files a conversion needs, and where they were put."""

from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path, PurePosixPath

import huggingface_hub

from state_hf.configuration.advice import Advised
from state_hf.conversion.arc_state.checkpoint import chosen_checkpoint
from state_hf.conversion.arc_state.run_folder import BATCHES_FILES, CELL_TYPES_FILES, PERTURBATIONS_FILE, VARIABLES_FILE
from state_hf.conversion.arc_state.state_embedding import EMBEDDINGS_FILE
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.hub import explained_hub_errors, list_repository
from state_hf.conversion.model_folder import LICENCE_FILES

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
            problem = f"{error} There are some in its folders {_listed(runs)}"
            raise CheckpointError(Advised(problem, "name one (subfolder=...)")) from error
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


__all__ = ["HubCheckpoint", "fetch_checkpoint"]
