"""The metrics as folders for `evaluate.load`, each ready to be pushed as a Space."""

from pathlib import Path


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
