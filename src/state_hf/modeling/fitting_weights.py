"""Refuses weights that are not those of the configuration, before room is made for what the configuration says."""

from typing import Any

from transformers import PreTrainedModel


class FittingWeightsMixin:
    """Loads weights of the shapes that the configuration says, or stops with both shapes.

    transformers gives weights of other shapes room and random numbers first, and stops then, without saying which they
    are: a damaged size in `config.json` would fill the memory.
    """

    # No public step lies between the reading of the shapes and the making of the weights.
    @staticmethod
    def _load_pretrained_model(
        model: PreTrainedModel, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        loaded = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )
        other = sorted(loaded[0].mismatched_keys)
        if other and not load_config.ignore_mismatched_sizes:
            name, stored, expected = other[0]
            more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
            raise ValueError(
                f"the weights do not fit config.json: {name} is {_words(stored)}, but {_words(expected)} by the "
                f"configuration{more}"
            )
        return loaded


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape) or "a single number"


__all__ = ["FittingWeightsMixin"]
