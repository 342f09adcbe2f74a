"""The metrics as folders for `evaluate.load`, each ready to be pushed as a Space."""

from pathlib import Path

from huggingface_hub import CommitInfo, HfApi


def metric_names() -> list[str]:
    """The names that `metric_path` knows."""
    return sorted(folder.name for folder in Path(__file__).parent.iterdir() if (folder / f"{folder.name}.py").is_file())


def metric_path(name: str) -> str:
    """Folder of an `evaluate` module of this package, for `evaluate.load(state_hf.metric_path(name))`.

    Args:
        name: One of `metric_names()`: `virtual_cell_challenge` or a single family of metrics.

    Returns:
        The absolute path.

    Raises:
        ValueError: If there is no such module.
    """
    if name not in metric_names():
        raise ValueError(f"there is no metric module {name!r}; the modules are {', '.join(metric_names())}")
    return str(Path(__file__).parent / name)


def push_metric(
    name: str,
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    commit_message: str | None = None,
) -> CommitInfo:
    """Push a metric to the Hub as a Space, which is a web page and what `evaluate.load("user/name")` loads.

    Args:
        name: One of `metric_names()`.
        repo_id: The Space. The part after "/" has to be the metric's name, by which `evaluate` finds the script.
        private: Whether a new Space is private.
        token: Access token, or whether to use the stored one.
        commit_message: Of the commit.

    Returns:
        The `CommitInfo` of huggingface_hub.

    Raises:
        ValueError: There is no such module, or the Space is called otherwise.
    """
    folder = metric_path(name)
    if repo_id.rpartition("/")[2] != name:
        raise ValueError(f"evaluate looks for {name}.py in a Space called {name}: push to USER/{name}, not {repo_id}.")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True).repo_id
    return api.upload_folder(
        repo_id=repo_id,
        repo_type="space",
        folder_path=folder,
        ignore_patterns=["__pycache__/*"],
        commit_message=commit_message or f"Upload {name}",
    )
