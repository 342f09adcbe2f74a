"""Names the model folder that cannot be loaded, and why, whatever the libraries raise over what lies in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassError
from safetensors import SafetensorError

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
def loading_from(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the errors of loading a model, configuration or tokenizer into one that names where it lies.

    Args:
        folder: The folder or hub id.

    Raises:
        ValueError: What lies there is damaged, or does not belong together.
        OSError: There is no such folder, and the Hub does not give one of that name.
    """
    try:
        yield
    except OSError as error:
        if Path(folder).is_dir() or error.errno is not None or str(folder) in str(error):
            raise
        raise OSError(f"{folder} is no folder here, and cannot be loaded from the Hub: {error}") from error
    except (*_SYMPTOMS, ValueError) as error:
        if isinstance(error, ValueError) and str(folder) in str(error):
            raise
        said: BaseException = error
        if isinstance(error, StrictDataclassClassValidationError) and error.__cause__ is not None:
            # What it adds is the name of the method that checks.
            said = error.__cause__
        reason = str(said).strip("'\"") or type(error).__name__
        raise ValueError(f"{folder} cannot be loaded: {reason}") from error


__all__ = ["loading_from"]
