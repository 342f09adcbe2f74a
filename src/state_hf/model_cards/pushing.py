"""Saves models with a card, and pushes them without losing the card that is on the Hub."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import filter_repo_objects
from transformers.utils.hub import cached_file

from state_hf.configuration.file_permissions import weights_follow_umask
from state_hf.configuration.model_folders import loading_from
from state_hf.model_cards.card import is_written_by_hand, write_model_card
from state_hf.model_cards.facts import conversion_origin, read_json

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_CONVERSION = "conversion.json"
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
# What a training leaves beside its model and nobody else needs.
_NOT_PUSHED = ("checkpoints/*", "*.partial/*", ".*", "*/.*")


class PushWithCardMixin:
    """`push_to_hub` by `push_folder`, for whatever has `save_pretrained`."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = None,
        tags: list[str] | None = None,
    ) -> Any:
        """Save into a temporary folder and upload it. See `PushToHubMixin.push_to_hub`.

        To push a training with its split, scores and baselines, use `push_folder`.
        """
        saving: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **saving)  # type: ignore[attr-defined]
            return push_folder(
                folder,
                repo_id,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                tags=tags or (),
            )


class CardedMixin(PushWithCardMixin):
    """Writes a card with every save, and keeps what others wrote in it.

    Weights that come from a conversion, however often they were trained since, say so in their configuration
    (`converted_from`), because their licence goes with them.
    """

    config: Any

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model. See `PreTrainedModel.from_pretrained`."""
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        # With a cache, token or revision of its own, where to look is for the library to say.
        look = pretrained_model_name_or_path is not None and not hub
        with loading_from(str(pretrained_model_name_or_path), look=look):
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if pretrained_model_name_or_path is not None and getattr(model.config, "converted_from", None) is None:
            record = cached_file(
                pretrained_model_name_or_path, _CONVERSION, _raise_exceptions_for_missing_entries=False, **hub
            )
            if record is not None:
                content = read_json(Path(record))
                model.config.converted_from = conversion_origin(content)
        return loaded

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *args: Any,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Save a model with its card. See `PreTrainedModel.save_pretrained`."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            weights_follow_umask(save_directory)
            write_model_card(Path(save_directory))
            if push_to_hub:
                options = {name: kwargs[name] for name in ("commit_message", "private", "token") if name in kwargs}
                push_folder(save_directory, repo_id or Path(save_directory).resolve().name, **options)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: Iterable[str] = (),
) -> Any:
    """Push a model's folder to the Hub, with its card.

    Whatever the folder holds is uploaded (tokenizer, vocabulary, split, scores, evaluations, baselines), but training
    checkpoints and hidden files. A card on the Hub that somebody else wrote is kept, as is text that was added to one
    of this package; see `write_model_card`.

    Args:
        folder: The folder of a saved model, tokenizer or gene table.
        repo_id: The repository; it is made where it is missing.
        commit_message: Of the commit.
        commit_description: Of the commit.
        private: Whether a new repository is private.
        token: Access token, or whether to use the stored one.
        revision: Branch to push to; it is made where it is missing.
        create_pr: Whether to open a pull request instead.
        tags: More tags for the card.

    Returns:
        The `CommitInfo` of huggingface_hub.

    Raises:
        FileNotFoundError: There is no such folder.
        HfHubHTTPError: The Hub refused; the message says why.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to push.")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as workplace:
        card = _card_to_push(folder, Path(workplace), repo_id, revision=revision, token=token, tags=tags)
        files = {path: folder / path for path in filter_repo_objects(paths, ignore_patterns=list(_NOT_PUSHED))}
        if card is not None:
            files["README.md"] = card
        operations: list[Any] = [CommitOperationAdd(path, file) for path, file in sorted(files.items())]
        if any(map(_WEIGHTS.fullmatch, files)):
            there = api.list_repo_files(repo_id, revision=revision)
            operations += [CommitOperationDelete(path) for path in there if _is_replaced(path, files)]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"Upload {folder.resolve().name}",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def _is_replaced(path: str, files: Iterable[str]) -> bool:
    """Whether a file holds earlier weights: a whole model would be loaded in place of the shards that follow it."""
    return _WEIGHTS.fullmatch(path) is not None and path not in files


def _card_to_push(
    folder: Path,
    workplace: Path,
    repo_id: str,
    *,
    revision: str | None,
    token: bool | str | None,
    tags: Iterable[str],
) -> Path | None:
    """The card of what the repository will hold, made in a folder of links; None if there is none to push."""
    card = workplace / "README.md"
    for path in folder.iterdir():
        if path.name != card.name:
            (workplace / path.name).symlink_to(path.resolve())
    # A tokenizer or gene table changes the card of the model beside it; a model's other files on the Hub tell of the
    # weights that were there before.
    beside = ("genes.txt",) if (folder / "config.json").exists() else ("config.json", "vocabulary.json", _CONVERSION)
    own = folder / card.name
    if own.is_file() and is_written_by_hand(own):
        shutil.copyfile(own, card)
    for name in ("README.md", *beside):
        if not (workplace / name).exists():
            try:
                fetched = hf_hub_download(repo_id, name, revision=revision, token=token)
            except (EntryNotFoundError, RevisionNotFoundError):
                continue
            shutil.copyfile(fetched, workplace / name)
    write_model_card(workplace, name=repo_id, tags=tags)
    return card if card.is_file() else None


__all__ = ["CardedMixin", "PushWithCardMixin", "push_folder"]
