"""Finds and reads what rank-value models keep apart from their weights: dictionaries of tokens, medians and names."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state_hf.configuration.advice import Advised
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.pickled_types import plain
from state_hf.conversion.stock_checkpoint import read_json_object
from state_hf.conversion.torch_file import read_pickled

_SUFFIXES = (".pkl", ".pickle", ".json")


@dataclass(frozen=True)
class Kind:
    """A kind of dictionary.

    Args:
        stem: What its file's name begins with; what follows, up to the suffix, says the release.
        holds: What its values are, for messages.
        is_value: Whether something is such a value.
    """

    stem: str
    holds: str
    is_value: Callable[[Any], bool]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_median(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


TOKENS = Kind("token_dictionary", "token ids", _is_id)
MEDIANS = Kind("gene_median_dictionary", "medians above 0", _is_median)
NAMES = Kind("gene_name_id_dict", "gene ids", _is_name)
MAPPING = Kind("ensembl_mapping_dict", "gene ids", _is_name)


class GeneDictionaries:
    """The dictionaries of a model: those whose tokens are as many as the model has, and the others of that release.

    Args:
        source: The model's folder. It and the folder above are searched, and in these the folder `geneformer` as the
            original's repository has it.
        folder: Where else they are: this folder and those in it are searched instead.
        vocab_size: Tokens of the model.

    Raises:
        CheckpointError: There is no dictionary of tokens, or none for so many.
    """

    def __init__(self, source: Path, folder: Path | None, *, vocab_size: int) -> None:
        if folder is not None and not folder.is_dir():
            raise CheckpointError(f"{folder}, which is to hold the dictionaries, is no folder.")
        self.folders = _searched(source.resolve(), folder)
        self.files: list[Path] = []
        found = self._candidates(TOKENS)
        if not found:
            raise CheckpointError(self._absence(f"{TOKENS.stem}*"))
        sizes = {path: len(read_dictionary(path, TOKENS)) for path in found}
        fitting = [path for path, size in sizes.items() if size == vocab_size]
        if not fitting:
            listed = ", ".join(f"{path} has {size:,}" for path, size in sizes.items())
            raise CheckpointError(
                Advised(
                    f"{source} has {vocab_size:,} tokens, but {listed}: a dictionary of another release of the model",
                    "give the folder with its own dictionaries (dictionaries=...)",
                )
            )
        self.chosen = fitting[0]
        self.release = self.chosen.stem.removeprefix(TOKENS.stem)
        for other in fitting[1:]:
            if read_dictionary(other, TOKENS) != read_dictionary(self.chosen, TOKENS):
                raise CheckpointError(
                    Advised(
                        f"{self.chosen} and {other} both have {vocab_size:,} tokens, but not the same",
                        "give the folder with the model's own dictionaries (dictionaries=...)",
                    )
                )
        self.tokens: dict[str, int] = self._read(self.chosen, TOKENS)

    def required(self, kind: Kind) -> dict[str, Any]:
        """A dictionary of the tokens' release.

        Raises:
            CheckpointError: There is none.
        """
        path = self._of_release(kind)
        if path is None:
            raise CheckpointError(self._absence(f"{kind.stem}{self.release}"))
        return self._read(path, kind)

    def optional(self, kind: Kind) -> dict[str, Any] | None:
        """A dictionary of the tokens' release; None if there is none."""
        path = self._of_release(kind)
        return None if path is None else self._read(path, kind)

    def _read(self, path: Path, kind: Kind) -> dict[str, Any]:
        self.files.append(path)
        return read_dictionary(path, kind)

    def _candidates(self, kind: Kind) -> list[Path]:
        found = [path for folder in self.folders for path in sorted(folder.glob(f"{kind.stem}*"))]
        return list(dict.fromkeys(path for path in found if path.suffix in _SUFFIXES and path.is_file()))

    def _of_release(self, kind: Kind) -> Path | None:
        same = [path for path in self._candidates(kind) if path.stem == f"{kind.stem}{self.release}"]
        # Beside the tokens first, since two releases may have no word for themselves in their names.
        return min(same, key=lambda path: path.parent != self.chosen.parent, default=None)

    def _absence(self, wanted: str) -> str:
        return Advised(
            f"There is no {wanted}.pkl (or .json) in {', '.join(map(str, self.folders))}",
            "give the folder with the model's dictionaries (dictionaries=...)",
        )


def _searched(source: Path, folder: Path | None) -> list[Path]:
    if folder is not None:
        return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    folders = [source, source.parent]
    for place in (source / "geneformer", source.parent / "geneformer"):
        if place.is_dir():
            folders += [place, *sorted(path for path in place.iterdir() if path.is_dir())]
    return folders


def read_dictionary(path: Path, kind: Kind) -> dict[str, Any]:
    """The content of a dictionary's file, a pickle or JSON.

    Raises:
        CheckpointError: It is none, or another kind.
        UnsafeCheckpointError: If a pickle names code.
    """
    content = read_json_object(path) if path.suffix == ".json" else plain(read_pickled(path), str(path))
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} is no dictionary, but a {type(content).__name__} without entries.")
    wrong = next((key for key, value in content.items() if not isinstance(key, str) or not kind.is_value(value)), None)
    if wrong is not None:
        raise CheckpointError(f"{path} is to hold {kind.holds} by name, but {wrong!r} is {content[wrong]!r}.")
    return content


def ordered_tokens(tokens: Mapping[str, int], source: str) -> tuple[list[str], dict[str, int]]:
    """The genes of a dictionary of tokens in the order of their ids, and its special tokens.

    Raises:
        CheckpointError: Its ids are no numbering from 0 on, or those of the genes are not consecutive.
    """
    by_id = sorted(tokens, key=lambda token: tokens[token])
    if [tokens[token] for token in by_id] != list(range(len(by_id))):
        raise CheckpointError(f"{source}: its {len(by_id):,} ids are not the numbers from 0 to {len(by_id) - 1:,}.")
    special = {token: tokens[token] for token in by_id if token.startswith("<") and token.endswith(">")}
    genes = [token for token in by_id if token not in special]
    if not genes or tokens[genes[-1]] - tokens[genes[0]] != len(genes) - 1:
        raise CheckpointError(f"{source}: the ids of its genes are not consecutive: {', '.join(special)} lie between.")
    return genes, special


__all__ = ["MAPPING", "MEDIANS", "NAMES", "TOKENS", "GeneDictionaries", "Kind", "ordered_tokens", "read_dictionary"]
