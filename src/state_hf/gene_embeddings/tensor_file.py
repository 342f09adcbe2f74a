"""Files of `torch.save` in the formats of others: tensors and plain containers are read, and nothing is run."""

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - to catch what weights_only raises
from typing import Any

import torch

# What the reader meets in a file that is cut off, or is something else.
_DAMAGE = (RuntimeError, EOFError, KeyError, IndexError, TypeError, AttributeError, ValueError, struct.error)


def load_tensors(path: Path, *, containers: Sequence[type] = ()) -> Any:
    """Read a file of tensors.

    Args:
        path: The file.
        containers: Foreign classes that it may hold: plain data, whose code is harmless.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it holds anything else, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with torch.serialization.safe_globals(list(containers)), warnings.catch_warnings():
            # It warns of formats that it may not know, of which it then says so.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - the original's format
    except UnpicklingError:
        # Its own message advises to run what is in the file.
        raise ValueError(f"{path} holds more than tensors and names, so it was not read.") from None
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged, or no file of torch.save: download it again.") from error


__all__ = ["load_tensors"]
