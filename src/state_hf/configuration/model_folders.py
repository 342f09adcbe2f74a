"""Names the model folder that cannot be loaded, and why, whatever the libraries raise over what lies in it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassClassValidationError,
    StrictDataclassError,
)
from huggingface_hub.utils import HfHubHTTPError, httpx
from safetensors import SafetensorError

from state_hf.configuration.file_permissions import check_readable
from state_hf.configuration.near_names import near_names

# What the libraries raise over a configuration of wrong types, weights of wrong sizes, and files that are cut off.
_SYMPTOMS = (
    StrictDataclassError,
    SafetensorError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    ZeroDivisionError,
)


@contextmanager
def loading_from(
    folder: str | os.PathLike[str], *, look: bool = True, holds: str | None = "config.json"
) -> Iterator[None]:
    """Turns the errors of loading a model, configuration or tokenizer into one that names where it lies.

    Args:
        folder: The folder or hub id.
        look: Whether it is looked for first, see `require_found`.
        holds: A file that such a folder has; None where it is no folder.

    Raises:
        ValueError: What lies there is damaged, or does not belong together.
        OSError: There is no such folder, and the Hub does not give one of that name.
        PermissionError: The folder, or a file in it, may not be read.
    """
    if look:
        require_found(folder)
    try:
        yield
    except OSError as error:
        _check_permissions(folder, error)
        if holds is not None:
            _check_folder(folder, holds, error)
        if Path(folder).is_dir() or error.errno is not None or str(folder) in str(error):
            raise
        raise OSError(f"{folder} is no folder here, and cannot be loaded from the Hub: {error}") from error
    except (*_SYMPTOMS, ValueError) as error:
        _check_permissions(folder, error)
        if holds is not None:
            _check_folder(folder, holds, error)
        if isinstance(error, ValueError) and str(folder) in str(error):
            raise
        said: BaseException = error
        if isinstance(error, StrictDataclassClassValidationError) and error.__cause__ is not None:
            # What it adds is the name of the method that checks.
            said = error.__cause__
        reason = str(said).strip("'\"") or type(error).__name__
        raise ValueError(f"{folder} cannot be loaded: {reason}") from error


def require_found(name: str | os.PathLike[str], file: str = "config.json", *, revision: str | None = None) -> None:
    """Refuse a name that is neither here nor on the Hub, before the libraries try the network again and again.

    Args:
        name: A folder or file, or a hub id. What is in the cache is found without the network; else the Hub is asked,
            once.
        file: A file that such a repository has.
        revision: Branch, tag or commit.

    Raises:
        OSError: It is not here, and can be no id, or the Hub has no such model, does not give it, or is out of reach.
    """
    if Path(name).exists():
        return
    missing = f"there is no folder {name}{_like(Path(name))}"
    try:
        url = hf_hub_url(str(name), file, revision=revision)
        if try_to_load_from_cache(str(name), file, revision=revision) is not None:
            return
        if constants.HF_HUB_OFFLINE:
            raise OSError(f"{missing}, and no model of that name in the cache; HF_HUB_OFFLINE keeps off the Hub")
        get_hf_file_metadata(url)
    except HFValidationError as error:
        raise FileNotFoundError(f"{missing}, and it can be no id of a model on the Hub, as owner/name") from error
    except GatedRepoError:
        # The library's own message says where to accept the conditions.
        return
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{missing}, and no model of that name on the Hub, or it is private and this login may not see it "
            "(hf auth login, or HF_TOKEN)"
        ) from error
    except (OfflineModeIsEnabled, httpx.TransportError) as error:
        raise OSError(f"{missing}, and the Hub cannot be reached to look for it there ({error})") from error
    except HfHubHTTPError:
        # A model without this file, or a server that is busy for the moment: loading says more.
        return


def _like(path: Path) -> str:
    """A hint at folders beside it with such a name."""
    beside = path.parent
    if not beside.is_dir():
        return ""
    close = near_names(path.name, sorted(entry.name for entry in beside.iterdir() if entry.is_dir()))
    return f" (did you mean {' or '.join(str(beside / name) for name in close)}?)" if close else ""


def _check_permissions(folder: str | os.PathLike[str], error: Exception) -> None:
    """Name what may not be read: the libraries call it missing."""
    try:
        check_readable(folder)
    except PermissionError as denied:
        raise denied from error


def _check_folder(folder: str | os.PathLike[str], file: str, error: Exception) -> None:
    """Name a folder that holds no model, as one of a training that did not end."""
    path = Path(folder)
    if path.is_file() and path.name in ("config.json", "model.safetensors"):
        raise ValueError(f"{folder} is a file: name the model's folder, {path.parent}") from error
    if path.is_dir() and not (path / file).exists():
        names, why = [entry.name for entry in path.iterdir()], ""
        if any(name.startswith("checkpoint") for name in names):
            why = ": its training did not end"
        elif any(name.endswith((".ckpt", ".pt", ".pkl")) for name in names):
            why = ": an original's checkpoint has to be converted first (`state-hf convert`)"
        raise ValueError(f"{folder} holds no model: there is no {file} in it{why}") from error


def refuse_missing_weights(name: str | Path, missing: Iterable[str]) -> None:
    """Refuse a model whose weights are not all there: transformers would fill the gaps with random numbers.

    Args:
        name: The model's folder or hub id.
        missing: Names of the weights that were not found.

    Raises:
        ValueError: A weight is missing.
    """
    gaps = sorted(missing)
    if gaps:
        named = ", ".join(gaps[:3]) + (", ..." if len(gaps) > 3 else "")
        raise ValueError(f"{name} is incomplete: {len(gaps)} of its model's weights are missing ({named})")


__all__ = ["loading_from", "refuse_missing_weights", "require_found"]
