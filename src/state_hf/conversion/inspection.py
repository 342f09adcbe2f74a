"""What a checkpoint or model is, told from its configuration, names and headers: no weight is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import CONFIG_NAME

from state_hf.configuration.model_folders import loading_from
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.configuration.state_transition_vocabulary import StateTransitionVocabulary
from state_hf.conversion.arc_checkpoint import ArcCheckpoint, open_arc_checkpoint
from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.hub_checkpoint import (
    explained_hub_errors,
    fetch_checkpoint,
    is_hub_id,
    list_repository,
    refuse_hub_options,
)
from state_hf.conversion.model_folder import RECORD_FILE, ConvertedModel, read_record
from state_hf.conversion.safetensors_file import read_weights
from state_hf.conversion.state_embedding import convert_state_embedding
from state_hf.conversion.state_transition import convert_state_transition
from state_hf.conversion.weight_accounting import original_shapes
from state_hf.modeling.state_embedding import StateEmbeddingModel
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression
from state_hf.modeling.state_transition import StateTransitionForPerturbation, StateTransitionModel

_MODEL_TYPE = re.compile(r'"model_type"\s*:\s*"([^"]*)"')
_CLASSES: dict[str, tuple[type[PreTrainedModel], type[PreTrainedModel]]] = {
    "state_embedding": (StateEmbeddingModel, StateEmbeddingForMaskedExpression),
    "state_transition": (StateTransitionModel, StateTransitionForPerturbation),
}


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
    return _of_arc(open_arc_checkpoint(path, checkpoint=checkpoint))


def _is_model_folder(folder: Path) -> bool:
    """Whether transformers knows the model; the originals' configurations name others."""
    config = folder / CONFIG_NAME
    found = _MODEL_TYPE.search(config.read_text(encoding="utf-8")) if config.is_file() else None
    return found is not None and found[1] in CONFIG_MAPPING


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
        names = (CONFIG_NAME, "genes.txt", StateTransitionVocabulary.FILE_NAME, RECORD_FILE)
        wanted = [at + name for name in names if at + name in files] if checkpoint is None else []
        local = [Path(huggingface_hub.hf_hub_download(repository, name, revision=revision)) for name in wanted]
        if not local or not _is_model_folder(local[0].parent):
            fetched = fetch_checkpoint(repository, revision=revision, subfolder=subfolder, checkpoint=checkpoint)
            return _of_arc(open_arc_checkpoint(fetched.folder, checkpoint=fetched.checkpoint))
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


def _of_arc(opened: ArcCheckpoint) -> Inspection:
    found = Inspection()
    kind = opened.kind.replace("_", " ").title()
    trained = "" if opened.global_step is None else f", after {opened.global_step:,} steps"
    found.facts["kind"] = f"{kind} checkpoint of arc-state ({opened.path.name}{trained})"
    found.facts["weights"] = _weights_text(opened.weights)
    try:
        model = _plan(opened)
    except UnsafeCheckpointError:
        raise
    except CheckpointError as error:
        found.missing.append(str(error))
        return found
    _add_config(found, model.config)
    genes = None if model.tokenizer is None else list(model.tokenizer.genes)
    _add_names(found, model.config, model.vocabulary, genes)
    for note in model.notes:
        if note.startswith("attention: "):
            found.facts["attention"] = note.removeprefix("attention: ")
    return found


def _plan(opened: ArcCheckpoint) -> ConvertedModel:
    if opened.kind == "state_embedding":
        return convert_state_embedding(opened, unnamed_genes=True, compare_tables=False)
    return convert_state_transition(opened, unnamed_genes=True)


def _of_model(
    found: Inspection, config: PreTrainedConfig, weights: Mapping[str, _Shaped], folder: Path, name: str
) -> Inspection:
    kind = config.model_type.replace("_", " ").title()
    classes = ", ".join(config.architectures or [])
    found.facts["kind"] = f"{kind} model ({classes or 'no architecture recorded'})"
    found.facts["weights"] = _weights_text(weights)
    if not isinstance(config, StateEmbeddingConfig | StateTransitionConfig):
        if config.model_type != "perturbation_baseline":
            raise CheckpointError(f"{name} is a {config.model_type} model, which is not of this package.")
        return found
    base, full = _CLASSES[config.model_type]
    stored = {key.removeprefix(f"{base.base_model_prefix}.") for key in weights}
    needed = original_shapes(full if full.__name__ in classes else base, config)
    absent = [key for key in needed if key not in stored]
    if weights and absent:
        found.missing.append(f"{len(absent)} weights: {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}")
    _add_config(found, config)
    vocabulary = folder / StateTransitionVocabulary.FILE_NAME
    genes = folder / "genes.txt"
    _add_names(
        found,
        config,
        StateTransitionVocabulary.load(vocabulary) if vocabulary.is_file() else None,
        genes.read_text(encoding="utf-8").split() if genes.is_file() else None,
    )
    record = read_record(folder)
    if record:
        files = ", ".join(record.get("licence", {}).get("files", [])) or "no licence file"
        found.facts["converted from"] = f"{record.get('original', {}).get('file')} ({files})"
    return found


def _weights_text(weights: Mapping[str, _Shaped]) -> str:
    count = 0
    for tensor in weights.values():
        size = 1
        for length in tensor.shape:
            size *= length
        count += size
    dtypes = sorted({str(getattr(tensor, "dtype", "")).removeprefix("torch.") for tensor in weights.values()})
    return f"{len(weights)} tensors, {count:,} numbers ({', '.join(dtypes)})"


def _add_config(found: Inspection, config: Any) -> None:
    if isinstance(config, StateEmbeddingConfig):
        found.facts["sizes"] = (
            f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.num_attention_heads} heads; "
            f"gene table {config.num_genes:,} x {config.gene_embedding_dim}"
        )
        found.facts["input"] = (
            f"counts (or log1p values), as sentences of {config.max_position_embeddings} tokens; "
            f"[CLS] has the expression {config.cls_expression!r}"
        )
        dataset = f" and {config.dataset_embedding_dim} of its dataset" if config.use_dataset_token else ""
        found.facts["output"] = f"{config.embedding_dim} numbers a cell: {config.output_dim} of the cell{dataset}"
        found.facts["attention"] = "bidirectional, without positions"
        return
    found.facts["sizes"] = (
        f"{config.backbone} backbone, {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{config.num_attention_heads} heads"
    )
    total = "" if config.target_sum is None else f", {config.target_sum:g} counts a cell"
    found.facts["input"] = (
        f"{config.input_dim} features of {config.feature_key!r} ({config.feature_scale}{total}), in sets of "
        f"{config.cell_set_length} cells"
    )
    decoded = "" if config.gene_decoder is None else f", decoded to {config.gene_dim} genes ({config.gene_decoder})"
    found.facts["output"] = f"{config.output_dim} features, space {config.output_space!r}{decoded}"
    direction = "causal" if config.is_causal else "bidirectional"
    found.facts["attention"] = f"{direction}, positions: {config.position_embedding_type}"


def _add_names(
    found: Inspection, config: Any, vocabulary: StateTransitionVocabulary | None, genes: list[str] | None
) -> None:
    if isinstance(config, StateEmbeddingConfig):
        if genes is None:
            found.missing.append("names of the gene table's rows (genes.txt)")
        else:
            found.facts["vocabulary"] = f"{len(genes):,} genes: {_first(genes)}"
        return
    if vocabulary is None:
        found.missing.append("names of perturbations (vocabulary.json)")
        return
    control = vocabulary.control_perturbation
    found.facts["vocabulary"] = (
        f"{len(vocabulary.perturbations):,} perturbations ({_first(vocabulary.perturbations)}; control {control!r}), "
        f"{len(vocabulary.batches)} batches, {len(vocabulary.cell_types)} cell types ({_first(vocabulary.cell_types)})"
    )
    if vocabulary.genes:
        found.facts["genes"] = f"{len(vocabulary.genes):,}: {_first(vocabulary.genes)}"
    elif config.num_genes is not None:
        found.missing.append(f"names of the {config.num_genes:,} predicted genes")


def _first(names: Any, most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


__all__ = ["Inspection", "inspect"]
