"""Where cells are: paths, and URLs, which a path would mangle. Loads nothing, for commands that only name them."""

from pathlib import Path
from typing import Any

CELL_FORMATS = ".h5ad, .zarr, .h5mu, .loom, or Cell Ranger's .h5 or .mtx folder; a path or a URL"
"""What commands say of their inputs."""


def is_url(path: Any) -> bool:
    """Whether a path is a URL, such as `s3://bucket/cells.h5ad`."""
    return isinstance(path, str | Path) and "://" in str(path)


def as_location(text: str | Path) -> str | Path:
    """A path, or a URL as it is."""
    return text if is_url(text) else Path(text)


def stem_of(location: str | Path) -> str:
    """The name of what lies there, without what says how it is stored."""
    name = Path(str(location)).name
    for packed in (".gz", ".zip"):
        name = name.removesuffix(packed)
    return Path(name).stem


__all__ = ["CELL_FORMATS", "as_location", "is_url", "stem_of"]
