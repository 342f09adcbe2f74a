"""A checkpoint of arc-state as it lies on the disk: its weights unread, and what is recorded beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, cast

import yaml

from state_hf.configuration.advice import Advised
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.foreign_files import foreign_file
from state_hf.conversion.lazy_tensor import LazyTensor, SourceTensor
from state_hf.conversion.pickled_types import plain, resolve_references
from state_hf.conversion.safetensors_file import read_safetensors, read_weights
from state_hf.conversion.torch_file import read_pickled
from state_hf.conversion.weight_accounting import without_compiled_prefixes

_CHECKPOINT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
# What a run's folder calls its checkpoints, in the order in which arc-state and then its users take them.
_USUAL_CHECKPOINTS = ("final.ckpt", "last.ckpt", "model.safetensors")
_MAX_CONFIG_BYTES = 2**24
# What the configurations of this package's models name.
_OUR_CODE = "state_hf_classes."

Kind = Literal["state_embedding", "state_transition"]
Location = TypeVar("Location", bound=PurePath)


@dataclass(frozen=True)
class ArcCheckpoint:
    """A checkpoint of arc-state.

    Args:
        path: The file (or, for shards, the folder) with the weights.
        folder: The folder of the run or model, in which the files beside it are.
        kind: Which family it is.
        weights: Weights by name, unread, without the prefixes of `torch.compile`.
        hyper_parameters: Arguments that the original model was made with.
        config: The run's configuration (`cfg_yaml`, `config.yaml`, or an OmegaConf object in the checkpoint).
        gene_embeddings: The gene table's rows by gene, if the checkpoint has them.
        version: Version of the framework that wrote it, if it says.
        global_step: Training steps, if it says.
    """

    path: Path
    folder: Path
    kind: Kind
    weights: dict[str, SourceTensor]
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    gene_embeddings: dict[str, LazyTensor] | None = None
    version: str | None = None
    global_step: int | None = None


def open_arc_checkpoint(source: Path, *, checkpoint: str | None = None) -> ArcCheckpoint:
    """Open a checkpoint of arc-state.

    Args:
        source: A `.ckpt` file, a `.safetensors` file with the original's names, or the folder of a run or model.
        checkpoint: Which of a folder's checkpoints, by its file name.

    Raises:
        CheckpointError: If there is none, several could be meant, or it is not one of arc-state.
        UnsafeCheckpointError: If a file names code.
        FileNotFoundError: If there is no such file.
    """
    if not source.exists():
        raise FileNotFoundError(f"There is no file or folder {source}, and an id on the Hub has the form owner/name.")
    path = _checkpoint_in(source, checkpoint) if source.is_dir() else source
    if path.is_file() and path.suffix not in _CHECKPOINT_SUFFIXES:
        raise CheckpointError(
            f"{path} is not a checkpoint, which ends in {', '.join(_CHECKPOINT_SUFFIXES)}: give one, or the folder of "
            "a run or model."
        )
    folder = source if source.is_dir() else _folder_of(path)
    beside = _config_beside(folder)
    if path.is_dir() or path.suffix == ".safetensors":
        stored = read_weights(path) if path.is_dir() else read_safetensors(path)
        weights = without_compiled_prefixes(stored, str(path))
        parameters = _json_beside(path if path.is_dir() else path.parent)
        if _OUR_CODE in str(parameters.get("auto_map")):
            raise CheckpointError(
                f"{source} is a model of this package already: `from_pretrained` loads it, and `state-hf convert --to "
                "arc` takes it back."
            )
        return ArcCheckpoint(path, folder, _kind_of(weights, path), weights, parameters, beside)
    return _open_lightning(path, folder, beside)


def _open_lightning(path: Path, folder: Path, beside: dict[str, Any]) -> ArcCheckpoint:
    content = read_pickled(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint: it holds a {type(content).__name__}.")
    state = content.get("state_dict", content)
    tensors = isinstance(state, dict) and {
        name: value for name, value in state.items() if isinstance(value, LazyTensor)
    }
    if not tensors:
        raise CheckpointError(f"{path} is not a checkpoint: it holds no weights (`state_dict`).")
    if len(tensors) != len(state):
        other = next(name for name in state if name not in tensors)
        raise CheckpointError(f"{path} is not a checkpoint: its weight {other!r} is no tensor.")
    weights = without_compiled_prefixes(tensors, str(path))
    hyper = plain(content.get("hyper_parameters") or {}, str(path))
    hyper = hyper if isinstance(hyper, dict) else {}
    within = hyper.pop("cfg", None)
    text = content.get("cfg_yaml")
    if isinstance(text, str):
        config = _parsed(text, f"{path}, cfg_yaml")
    else:
        config = resolve_references(within) if isinstance(within, dict) and within else beside
    embeddings = content.get("protein_embeds_dict")
    step = content.get("global_step")
    version = content.get("pytorch-lightning_version")
    return ArcCheckpoint(
        path=path,
        folder=folder,
        kind=_kind_of(weights, path),
        weights=weights,
        hyper_parameters=resolve_references(hyper),
        config=config,
        gene_embeddings=None if embeddings is None else gene_rows(embeddings, f"{path}, protein_embeds_dict"),
        version=version if isinstance(version, str) else None,
        global_step=step if isinstance(step, int) else None,
    )


def _kind_of(weights: Mapping[str, Any], path: Path) -> Kind:
    if "cls_token" in weights and "encoder.0.weight" in weights:
        return "state_embedding"
    if any(name.startswith("pert_encoder.") for name in weights) and "transformer_backbone." in "".join(weights):
        return "state_transition"
    first = ", ".join(list(weights)[:3])
    raise CheckpointError(
        f"{path} is neither a State Embedding nor a State Transition model of arc-state: its weights are {first}, ..."
    )


def gene_rows(content: Any, source: str) -> dict[str, LazyTensor]:
    """{gene: vector} of `protein_embeds_dict` or `protein_embeddings.pt`, in its order.

    Raises:
        CheckpointError: If it is anything else.
    """
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{source} is not a dictionary of gene names and vectors.")
    first = next(iter(content.values()))
    for gene, row in content.items():
        if not isinstance(gene, str) or not isinstance(row, LazyTensor) or len(row.shape) != 1:
            raise CheckpointError(f"{source} is not a dictionary of gene names and vectors: see its entry {gene!r}.")
        if row.shape != first.shape or row.dtype != first.dtype:
            raise CheckpointError(f"{source}: the vector of {gene} has another width or type than the first.")
    return cast(dict[str, LazyTensor], content)


def _checkpoint_in(folder: Path, name: str | None) -> Path:
    if name is None and (folder / "model.safetensors.index.json").is_file():
        return folder
    places = [folder, folder / "checkpoints"]
    try:
        return chosen_checkpoint(
            [path for place in places if place.is_dir() for path in sorted(place.iterdir())], name, folder
        )
    except CheckpointError as error:
        # A repository's folder, or that of several models.
        deeper = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _holds_model(path)]
        if not deeper or name is not None:
            raise
        raise CheckpointError(f"{error} There are some in its folders {', '.join(deeper)}: name one of them.") from None


def _holds_model(folder: Path) -> bool:
    kinds = {path.suffix for path in folder.iterdir()}
    return ".ckpt" in kinds or ((folder / "config.json").is_file() and not kinds.isdisjoint({".safetensors", ".bin"}))


def chosen_checkpoint(paths: Iterable[Location], name: str | None, folder: object) -> Location:
    """The checkpoint that is meant among the files of a run or model.

    Args:
        paths: The folder's files and those of its `checkpoints`.
        name: File name of the checkpoint; by default the usual one, or the only one.
        folder: What the folder is called in messages.

    Raises:
        CheckpointError: If there is none, or several could be meant.
    """
    found = {path.name: path for path in paths}
    if name is not None:
        if name not in found:
            raise CheckpointError(f"{folder} has no checkpoint {name!r}.")
        return found[name]
    suffixes = (".ckpt", ".safetensors")
    candidates = [path for path in found.values() if path.suffix in suffixes and not path.name.startswith("model-0")]
    usual = [found[name] for name in _USUAL_CHECKPOINTS if name in found and found[name] in candidates]
    if usual or len(candidates) == 1:
        return (usual or candidates)[0]
    if not candidates:
        raise CheckpointError(f"{folder} has no checkpoint: no .ckpt or .safetensors in it or in its `checkpoints`.")
    names = ", ".join(path.name for path in candidates)
    raise CheckpointError(Advised(f"{folder} has several checkpoints ({names})", "choose one (checkpoint=...)"))


def _folder_of(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _config_beside(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    return _parsed(_text(path), str(path)) if path.is_file() else {}


def _json_beside(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    content = yaml.safe_load(_text(path)) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path} is refused: a configuration of {path.stat().st_size} bytes.")
    if (foreign := foreign_file(path)) is not None:
        raise CheckpointError(foreign)
    return path.read_text(encoding="utf-8")


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        # An alias repeats a part without writing it out: a few lines could unfold to gigabytes.
        if len(text) > _MAX_CONFIG_BYTES or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise CheckpointError(f"{source} is refused: it is too long, or refers to its own parts (`*name`).")
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CheckpointError(f"{source} is not YAML of plain values: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} is not a configuration.")
    return resolve_references(content)


__all__ = ["ArcCheckpoint", "Kind", "chosen_checkpoint", "gene_rows", "open_arc_checkpoint"]
