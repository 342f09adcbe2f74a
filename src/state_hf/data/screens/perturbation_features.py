"""Features of perturbations, such as protein or gene embeddings, by name, from a file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers.utils.hub import cached_file

from state_hf.configuration.file_permissions import check_readable
from state_hf.configuration.labels import as_label, label_text
from state_hf.configuration.model_folders import loading_from
from state_hf.configuration.near_names import nearest
from state_hf.configuration.perturbation_labels import Perturbation, PerturbationNames
from state_hf.data.cells.damage import open_hdf5
from state_hf.data.whole_files import written_whole

FEATURES_FILE = "perturbation_features.safetensors"


def read_perturbation_features(path: str | Path) -> dict[str, np.ndarray]:
    """Read features of perturbations.

    Args:
        path: A .safetensors file with a vector for each name; a table (.parquet, .csv or .tsv) with the names in the
            first column (of a parquet file: in the index) and a feature in each other; or an .h5ad file with the names
            in `obs_names` and the features in X.

    Returns:
        Vectors (features,) float32 by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, a name comes twice, lengths differ, or a value is not finite.
    """
    path = Path(path)
    check_readable(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of perturbation features {path}")
    readers = {".safetensors": _vectors, ".parquet": _table, ".csv": _table, ".tsv": _table, ".h5ad": _cells}
    if path.suffix not in readers:
        raise ValueError(f"{path} has perturbation features of an unknown kind: expected {', '.join(readers)}")
    with loading_from(path, holds=None):
        names, values = readers[path.suffix](path)
    if not names:
        raise ValueError(f"{path} has no features")
    if len(set(names)) != len(names):
        twice = pd.Index(names)[pd.Index(names).duplicated()][0]
        raise ValueError(f"{path} has features of {twice!r} twice")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(f"{path} has a feature of {names[int(np.argmin(finite))]!r} that is not finite")
    return dict(zip(names, values.astype(np.float32), strict=True))


def save_perturbation_features(features: Mapping[str, np.ndarray], folder: str | Path) -> None:
    """Keep features beside a model, so that it can be asked for any perturbation that they name.

    Args:
        features: Vectors (features,) by name.
        folder: The model's folder; it receives `perturbation_features.safetensors`.
    """
    vectors = {name: np.ascontiguousarray(vector, dtype=np.float32) for name, vector in features.items()}
    with written_whole(Path(folder, FEATURES_FILE)) as temporary:
        save_file(vectors, temporary)


def kept_perturbation_features(model: str | Path) -> dict[str, np.ndarray]:
    """The features that are kept beside a model: in its folder or repository, or a baseline's in that of its model.

    Args:
        model: A folder, or a hub id.

    Returns:
        Vectors (features,) by name; empty where none are kept.
    """
    folder = Path(model)
    if folder.parent.name == "baselines":
        folder = folder.parent.parent
    path = cached_file(str(folder), FEATURES_FILE, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else read_perturbation_features(path)


def features_of(features: Mapping[str, np.ndarray], labels: Iterable[str], *, control: str) -> dict[str, np.ndarray]:
    """Those of the perturbations that labels name, whatever the spelling, and of the members of combinations."""
    known = PerturbationNames(features, control=control)
    named = {name for label in labels for name in known.members(label) or ()}
    return {name: vector for name, vector in features.items() if name in named}


def _vectors(path: Path) -> tuple[list[str], np.ndarray]:
    with safe_open(path, framework="np") as file:
        vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if len({vector.shape for vector in vectors.values()}) != 1 or next(iter(vectors.values())).ndim != 1:
        raise ValueError(f"{path} must hold a vector for each perturbation, all of one length")
    return list(vectors), np.stack(list(vectors.values()))


def _table(path: Path) -> tuple[list[str], np.ndarray]:
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", dtype={0: str}, keep_default_na=False)
        table = table.set_index(table.columns[0])
    try:
        return _names(table), table.to_numpy(dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path} has a feature that is no number: {error}") from error


def _cells(path: Path) -> tuple[list[str], np.ndarray]:
    open_hdf5(path).close()  # Looks for what would keep a reader busy without end.
    table = anndata.read_h5ad(path).to_df()
    return _names(table), table.to_numpy()


def _names(table: pd.DataFrame) -> list[str]:
    """The index as labels; a perturbation may be called NA."""
    return [label_text(name) or str(name) for name in table.index]


def feature_table(
    features: Mapping[str, np.ndarray], names: Iterable[str | float], *, control: str | float
) -> np.ndarray:
    """Arrange features in the order of perturbations.

    A perturbation has the features of its name, whatever the spelling ("B+A" those of "A+B", "A+ctrl" those of "A"). A
    combination that has none of its own has the sum of its members'; the control, if it has none, zeros.

    Args:
        features: Vectors (features,) by name.
        names: The perturbations.
        control: The control among them.

    Returns:
        (perturbations, features) float32.

    Raises:
        ValueError: Perturbations have no features; the message has the nearest names that do.
    """
    width = len(next(iter(features.values())))
    control = as_label(control, "control")
    known = PerturbationNames(features, control=control)
    rows: list[np.ndarray] = []
    missing: list[str] = []
    for name in names:
        label = as_label(name, "a perturbation")
        members = known.members(label)
        if members is not None:
            rows.append(np.stack([features[member] for member in members]).sum(axis=0, dtype=np.float32))
        elif Perturbation.of(label, control=control).is_control:
            rows.append(np.zeros(width, dtype=np.float32))
        else:
            missing += known.unknown_members(label)
    if missing:
        unique = list(dict.fromkeys(missing))
        shown = ", ".join(map(repr, unique[:5]))
        raise ValueError(
            f"{len(unique)} perturbations have no features: {shown}{', ...' if len(unique) > 5 else ''}; "
            f"{nearest(unique[0], list(features))} Add them, or leave their cells out."
        )
    return np.stack(rows)


__all__ = [
    "FEATURES_FILE",
    "feature_table",
    "features_of",
    "kept_perturbation_features",
    "read_perturbation_features",
    "save_perturbation_features",
]
