"""Makes a saved checkpoint tell transformers where its classes are."""

import os
from pathlib import Path
from typing import Any, ClassVar

from state_hf.families import READERS, auto_classes, family_of

_MODULE = "state_hf_classes"

_SOURCE = '''\
"""This checkpoint's classes live in the package state-hf. This file only finds them."""

try:
    from state_hf import {names}
except ImportError as error:
    raise ImportError(
        "This checkpoint needs the package state-hf. Install it with `pip install state-hf`."
    ) from error
'''


def write_class_finder(directory: str | os.PathLike[str], model_type: str) -> None:
    """Write into a checkpoint of a family the file that its `auto_map` points to."""
    names = ", ".join(sorted({name for _, name in auto_classes(model_type).values()}))
    Path(directory, f"{_MODULE}.py").write_text(_SOURCE.format(names=names), encoding="utf-8")


def auto_map_of(model_type: str) -> dict[str, str]:
    """The `auto_map` of a family's checkpoints: its configuration and models by their Auto classes."""
    classes = {role: name for role, (_, name) in auto_classes(model_type).items() if role not in READERS}
    return {auto_class: f"{_MODULE}.{name}" for auto_class, name in classes.items()}


class PortableConfigMixin:
    """Saves, with the configuration, an `auto_map` to the installed state-hf.

    `AutoModel.from_pretrained(..., trust_remote_code=True)` then works without `import state_hf` where the package is
    installed, and says what to install where it is not. No code of the package is copied into a checkpoint.
    """

    model_type: ClassVar[str]

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002 - transformers' signature
        """Save the configuration as `config.json`. See `PreTrainedConfig.save_pretrained`."""
        self.auto_map = auto_map_of(self.model_type)
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_class_finder(save_directory, self.model_type)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)  # type: ignore[misc]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: `auto_map` already names the class, and its code is not to be copied into checkpoints."""


class PortableTokenizerMixin:
    """The same for a tokenizer: on a stock model, whose configuration names none of this package's classes."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save the tokenizer. See `PreTrainedTokenizer.save_pretrained`."""
        name = type(self).__name__
        family = family_of({}, {"tokenizer_class": name})
        if family is not None:
            self._auto_map = {"AutoTokenizer": [f"{_MODULE}.{name}", None]}
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            write_class_finder(save_directory, family)
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoTokenizer") -> None:
        """Do nothing: `auto_map` already names the class, and its code is not to be copied into checkpoints."""


class PortableProcessorMixin:
    """The same for a processor, whose own file holds the `auto_map`."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[str]:
        """Save the processor. See `ProcessorMixin.save_pretrained`."""
        name = type(self).__name__
        family = family_of({}, {"processor_class": name})
        if family is not None:
            self.auto_map = {"AutoProcessor": f"{_MODULE}.{name}"}
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            write_class_finder(save_directory, family)
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Do nothing: `auto_map` already names the class, and its code is not to be copied into checkpoints."""
