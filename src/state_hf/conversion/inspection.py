"""What a checkpoint or model is, told from its configuration, names and headers: no weight is read."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import CONFIG_NAME

from state_hf.configuration.model_folders import loading_from
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.conversion.arc_state.hub_checkpoint import fetch_checkpoint
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.hub import explained_hub_errors, is_hub_id, list_repository, refuse_hub_options
from state_hf.conversion.model_folder import RECORD_FILE, read_conversion_record
from state_hf.conversion.safetensors_file import read_weights
from state_hf.conversion.weight_accounting import original_shapes
from state_hf.families import auto_classes
from state_hf.model_cards.facts import family_in, family_words

_MODEL_TYPE = re.compile(r'"model_type"\s*:\s*"([^"]*)"')


class _Shaped(Protocol):
    @property
    def shape(self) -> Any: ...


@dataclass
class Inspection:
    """What was found. `str()` is the text that `state-hf inspect` prints.

    Args:
        facts: What is known, by topic.
        missing: What a user would need and is not there.
    """

    facts: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = {**self.facts, "missing": "; ".join(self.missing) or "nothing"}
        width = max(map(len, lines))
        return "\n".join(f"{topic:<{width}}  {text}" for topic, text in lines.items())


def inspect(
    source: str | Path,
    *,
    checkpoint: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
) -> Inspection:
    """Say what a checkpoint or model is.

    Args:
        source: A checkpoint of arc-state, the folder of one of its runs, a model folder, or a hub id. Of a model on the
            Hub, names and headers are read; a checkpoint of arc-state is downloaded, and `convert` finds it in the
            cache.
        checkpoint: Which of a folder's checkpoints, by its file name.
        revision: Branch, tag or commit of a repository on the Hub.
        subfolder: Folder of the run or model within a repository on the Hub.

    Raises:
        CheckpointError: If it is broken, or not of a kind that is known.
        UnsafeCheckpointError: If it names code. None of it is run.
        FileNotFoundError: If it is neither a file nor a hub id.
        OSError: If the hub does not have it, or cannot be reached.
    """
    path = Path(source)
    if not path.exists() and is_hub_id(str(source)):
        return _of_hub(str(source), revision, subfolder, checkpoint)
    refuse_hub_options(source, revision=revision, subfolder=subfolder)
    if checkpoint is None and _is_model_folder(path):
        return _of_folder(path)
    return _of_checkpoint(path, checkpoint)


def _is_model_folder(folder: Path) -> bool:
    """Whether it is a saved model of this package, or of transformers; the originals' configurations name others."""
    config = folder / CONFIG_NAME
    found = _MODEL_TYPE.search(config.read_text(encoding="utf-8")) if config.is_file() else None
    if found is None or found[1] not in CONFIG_MAPPING:
        return False
    # On a stock model the tokenizer names the family; without one it may be what an original was saved as.
    from state_hf.conversion.converters import converters

    return family_in(folder) is not None or not any(converter.recognises(folder) for converter in converters())


def _of_folder(folder: Path) -> Inspection:
    with loading_from(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    found = Inspection()
    try:
        weights: Mapping[str, _Shaped] = read_weights(folder)
    except CheckpointError as error:
        weights = {}
        found.missing.append(str(error))
    return _of_model(found, config, weights, folder, str(folder))


def _of_hub(repository: str, revision: str | None, subfolder: str | None, checkpoint: str | None) -> Inspection:
    at = "" if subfolder is None else f"{subfolder.strip('/')}/"
    with explained_hub_errors(repository, revision):
        files = list_repository(repository, revision)
        names = (CONFIG_NAME, "tokenizer_config.json", "genes.txt", PerturbationVocabulary.FILE_NAME, RECORD_FILE)
        wanted = [at + name for name in names if at + name in files] if checkpoint is None else []
        local = [Path(huggingface_hub.hf_hub_download(repository, name, revision=revision)) for name in wanted]
        if not local or not _is_model_folder(local[0].parent):
            fetched = fetch_checkpoint(repository, revision=revision, subfolder=subfolder, checkpoint=checkpoint)
            return _of_checkpoint(fetched.folder, fetched.checkpoint)
        found, weights = Inspection(), _headers(repository, revision, at, files)
    if not weights:
        found.missing.append("weights: the repository has no model.safetensors")
    folder = local[0].parent
    return _of_model(found, AutoConfig.from_pretrained(folder, trust_remote_code=False), weights, folder, repository)


def _headers(repository: str, revision: str | None, at: str, files: list[str]) -> dict[str, _Shaped]:
    """Names and shapes of a model's weights, from the first bytes of their files."""
    shapes: dict[str, _Shaped] = {}
    for name in files:
        if fnmatch(name, f"{at}model*.safetensors") and "/" not in name.removeprefix(at):
            header = huggingface_hub.HfApi().parse_safetensors_file_metadata(repository, name, revision=revision)
            shapes.update(header.tensors)
    return shapes


def _of_checkpoint(path: Path, checkpoint: str | None) -> Inspection:
    # Converters say what they find by this module's words.
    from state_hf.conversion.converters import converter_of

    return converter_of(path).inspect(path, checkpoint=checkpoint)


def _of_model(
    found: Inspection, config: PreTrainedConfig, weights: Mapping[str, _Shaped], folder: Path, name: str
) -> Inspection:
    family = family_in(folder)
    if family is None:
        raise CheckpointError(f"{name} is a {config.model_type} model, which is not of this package.")
    classes = ", ".join(config.architectures or [])
    found.facts["kind"] = f"{family.replace('_', ' ').title()} model ({classes or 'no architecture recorded'})"
    found.facts["weights"] = weights_text(weights)
    absent = _absent_weights(family, config, weights)
    if absent:
        found.missing.append(f"{len(absent)} weights: {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}")
    vocabulary, genes = folder / PerturbationVocabulary.FILE_NAME, folder / "genes.txt"
    describe(
        found,
        config,
        family=family,
        vocabulary=PerturbationVocabulary.load(vocabulary) if vocabulary.is_file() else None,
        genes=genes.read_text(encoding="utf-8").split() if genes.is_file() else None,
    )
    record = read_conversion_record(folder)
    if record:
        files = ", ".join(record.get("licence", {}).get("files", [])) or "no licence file"
        found.facts["converted from"] = f"{record.get('original', {}).get('file')} ({files})"
    return found


def _absent_weights(family: str, config: PreTrainedConfig, weights: Mapping[str, _Shaped]) -> list[str]:
    """Names of weights that the recorded class needs and the files do not have."""
    known = {name: module for role, (module, name) in auto_classes(family).items() if role.startswith("AutoModel")}
    name = next((name for name in config.architectures or [] if name in known), next(iter(known), None))
    if not weights or name is None:
        return []
    model_class = getattr(importlib.import_module(known[name]), name)
    prefix = f"{model_class.base_model_prefix}."
    stored = {key.removeprefix(prefix) for key in weights}
    return [key for key in original_shapes(model_class, config) if key.removeprefix(prefix) not in stored]


def describe(
    found: Inspection,
    config: Any,
    *,
    family: str | None = None,
    genes: list[str] | None,
    vocabulary: PerturbationVocabulary | None,
) -> None:
    """Add what a configuration and the names beside it say, in the words of the family.

    Args:
        found: What is added to.
        config: The configuration.
        family: The model's family; by default the one that the configuration names.
        genes: Genes of a tokenizer's vocabulary, if there is one.
        vocabulary: Names of perturbations, if there are any.
    """
    words = family_words(family or config.model_type)
    facts, missing = words.inspection(config, genes=genes, vocabulary=vocabulary)
    found.facts |= facts
    found.missing += missing


def weights_text(weights: Mapping[str, _Shaped]) -> str:
    """How many tensors and numbers there are, and of which types."""
    count = 0
    for tensor in weights.values():
        size = 1
        for length in tensor.shape:
            size *= length
        count += size
    dtypes = sorted({str(getattr(tensor, "dtype", "")).removeprefix("torch.") for tensor in weights.values()})
    return f"{len(weights)} tensors, {count:,} numbers ({', '.join(dtypes)})"


__all__ = ["Inspection", "describe", "inspect", "weights_text"]
