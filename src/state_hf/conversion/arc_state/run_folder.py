"""What lies beside the checkpoint of an arc-state run: the names behind its one-hot vectors, and its sizes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.lazy_tensor import LazyTensor
from state_hf.conversion.pickled_types import plain
from state_hf.conversion.torch_file import read_pickled

VARIABLES_FILE = "var_dims.pkl"
PERTURBATIONS_FILE = "pert_onehot_map.pt"
BATCHES_FILES = ("batch_onehot_map.torch", "batch_onehot_map.pkl")
CELL_TYPES_FILES = ("cell_type_onehot_map.torch", "cell_type_onehot_map.pkl")


@dataclass(frozen=True)
class Labels:
    """Labels in the order of their one-hot vectors, or with the feature vectors that they have instead.

    Args:
        names: The labels. In the order of the ones, or that of the file.
        features: (labels, width) feature vectors; None for one-hot vectors.
    """

    names: list[str] = field(default_factory=list)
    features: torch.Tensor | None = None


@dataclass(frozen=True)
class RunFolder:
    """The files beside a checkpoint, of which any may be missing.

    Args:
        sizes: Content of `var_dims.pkl`.
        perturbations: Labels of the perturbations.
        batches: Labels of the batches.
        cell_types: Labels of the cell types.
        missing: Names of the files that are not there.
    """

    sizes: dict[str, Any]
    perturbations: Labels | None
    batches: Labels | None
    cell_types: Labels | None
    missing: tuple[str, ...]


def read_run_folder(folder: Path) -> RunFolder:
    """Read the files beside a checkpoint.

    Raises:
        CheckpointError: If one of them is broken.
        UnsafeCheckpointError: If one of them names code.
    """
    found: dict[str, Labels | None] = {}
    missing = []
    for what, files in (
        ("perturbations", (PERTURBATIONS_FILE,)),
        ("batches", BATCHES_FILES),
        ("cell_types", CELL_TYPES_FILES),
    ):
        path = next((folder / name for name in files if (folder / name).is_file()), None)
        found[what] = None if path is None else _labels(path)
        if path is None:
            missing.append(files[0])
    path = folder / VARIABLES_FILE
    sizes = plain(read_pickled(path), str(path)) if path.is_file() else {}
    if not isinstance(sizes, dict):
        raise CheckpointError(f"{path} is not a dictionary of sizes.")
    if not path.is_file():
        missing.append(VARIABLES_FILE)
    return RunFolder(sizes=sizes, missing=tuple(missing), **found)


def _labels(path: Path) -> Labels:
    content = read_pickled(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} is not a dictionary of labels and vectors.")
    names = [str(plain(label, str(path))) for label in content]
    vectors = [_vector(value, path) for value in content.values()]
    if len({len(vector) for vector in vectors}) != 1:
        raise CheckpointError(f"{path} is broken: its vectors have different widths.")
    features = torch.stack(vectors)
    one_hot = torch.equal(features.sum(dim=1), torch.ones(len(names), dtype=features.dtype))
    one_hot = one_hot and bool(((features == 0) | (features == 1)).all())
    if not one_hot:
        return Labels(names, features.float())
    positions = features.argmax(dim=1).tolist()
    if sorted(positions) != list(range(features.shape[1])):
        raise CheckpointError(
            f"{path} is broken: {len(names)} labels do not have each its own of {features.shape[1]} places."
        )
    return Labels([name for _, name in sorted(zip(positions, names, strict=True))])


def _vector(value: Any, path: Path) -> torch.Tensor:
    if isinstance(value, LazyTensor):
        vector = value.load()
    else:
        value = plain(value, str(path))
        if not isinstance(value, list) or not all(isinstance(number, int | float) for number in value):
            raise CheckpointError(f"{path} is not a dictionary of labels and vectors.")
        vector = torch.tensor(value)
    if vector.dim() != 1:
        raise CheckpointError(f"{path} holds a {vector.dim()}-dimensional array in the place of a vector.")
    return vector


__all__ = [
    "BATCHES_FILES",
    "CELL_TYPES_FILES",
    "PERTURBATIONS_FILE",
    "VARIABLES_FILE",
    "Labels",
    "RunFolder",
    "read_run_folder",
]
