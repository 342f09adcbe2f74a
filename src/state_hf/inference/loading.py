"""Loads a model that embeds cells, and its tokenizer, for inference, checked against each other."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from logging import Filter, LogRecord
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device
from transformers import AutoConfig, AutoModel, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils import PROCESSOR_NAME, logging
from transformers.utils.hub import cached_file

from state_hf.configuration.advice import Advised
from state_hf.configuration.model_folders import loading_from, refuse_missing_weights
from state_hf.families import FAMILIES, READERS
from state_hf.tokenization.cell_tokenizer import CellTokenizer

DTYPES = ("float32", "bfloat16", "float16")


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """No dropout and no gradients; the mode of before afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def load_model(
    model: str | Path | PreTrainedModel, *, dtype: str | None = None, device: torch.device | None = None
) -> PreTrainedModel:
    """Load a model that embeds cells, without the heads that it may have.

    Args:
        model: A folder, a hub id, or a loaded model (with or without heads), which stays as and where it is.
        dtype: One of `DTYPES`. Default: the checkpoint's; float32 on the CPU, which is slow in most others.
        device: Where the model goes. Default: it stays on the CPU.

    Raises:
        ValueError: A model that does not embed cells, one that is incomplete, or a dtype that does not fit.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}")
    if isinstance(model, PreTrainedModel):
        loaded: Any = model.base_model
        name = model.config.name_or_path or type(model).__name__
        _refuse_other_models(name, loaded.config.model_type)
        if dtype is not None and loaded.dtype != getattr(torch, dtype):
            raise ValueError(f"the model {name} is loaded as {loaded.dtype}: convert it with model.to(torch.{dtype})")
        return loaded
    name = str(model)
    on_cpu = device is None or device.type == "cpu"
    with loading_from(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    _refuse_other_models(name, config.model_type)
    with loading_from(name), without_load_report():
        loaded, info = AutoModel.from_pretrained(
            name,
            config=config,
            dtype=dtype or ("float32" if on_cpu else "auto"),
            output_loading_info=True,
            trust_remote_code=False,
            **placement(config, device),
        )
    missing = set(info["missing_keys"])
    if not hasattr(loaded, "get_cell_features"):
        # A stock model's own pooler, which its checkpoint may lack, is not what makes a cell of its states.
        without = {key for key in missing if key.startswith("pooler.")}
        if without:
            loaded.pooler = None
        missing -= without
    refuse_missing_weights(name, missing)
    return loaded.eval() if is_quantised(config) else loaded.to(device or "cpu").eval()


def is_quantised(config: Any) -> bool:
    """Whether a checkpoint's weights are quantised: its model is placed when it is loaded, and stays there."""
    return getattr(config, "quantization_config", None) is not None


def placement(config: Any, device: torch.device | None) -> dict[str, Any]:
    """What `from_pretrained` has to be told of the device, where a model cannot be moved later."""
    return {"device_map": {"": device or torch.device("cpu")}} if is_quantised(config) else {}


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keep transformers from reporting heads that are left out: what is missing is checked, and said, here."""
    logger = logging.get_logger("transformers.modeling_utils")
    errors_alone = _ErrorsAlone()
    logger.addFilter(errors_alone)
    try:
        yield
    finally:
        logger.removeFilter(errors_alone)


class _ErrorsAlone(Filter):
    def filter(self, record: LogRecord) -> bool:
        return record.levelno >= logging.ERROR


def _refuse_other_models(name: str, model_type: str) -> None:
    """Refuse a family of this package that has no tokenizer of cells."""
    if model_type in FAMILIES and not any(role in FAMILIES[model_type] for role in READERS):
        raise ValueError(f"{name} is a {model_type.replace('_', ' ')} model, which does not embed cells")


def load_tokenizer(tokenizer: str | Path | CellTokenizer | None, model: PreTrainedModel) -> CellTokenizer:
    """Load the tokenizer of a model.

    Args:
        tokenizer: A folder, a hub id, or a loaded tokenizer. Default: the one beside the model's weights.
        model: The model that it has to fit.

    Raises:
        ValueError: There is none, it is none of cells, or its vocabulary is not the model's.
    """
    if isinstance(tokenizer, str | Path | None):
        name = str(tokenizer or model.config.name_or_path)
        if not name:
            raise ValueError(Advised("The model was not loaded from a folder", "pass its tokenizer (tokenizer=...)"))
        with loading_from(name):
            # A processor of ours is around a stock tokenizer, which would be found in its place.
            processor = cached_file(name, PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False)
            reader: Any = AutoTokenizer if processor is None else AutoProcessor
            loaded: Any = reader.from_pretrained(name, trust_remote_code=False)
    else:
        loaded = tokenizer
    if not isinstance(loaded, CellTokenizer):
        raise ValueError(
            f"The tokenizer is a {type(loaded).__name__}, which does not read cells. A checkpoint in an original's "
            "format has to be converted first (`state-hf convert`)."
        )
    loaded.check_model(model.config)
    if getattr(model.config, "pad_token_id", 0) is None:
        # A classifier on a language model finds a text's last token by it, and many checkpoints do not say it.
        model.config.pad_token_id = getattr(loaded, "pad_token_id", None)
    return loaded


def model_digest(model: torch.nn.Module) -> str:
    """SHA-256 of a model's configuration (where it has one) and weights, whatever folder or device they are in."""
    ignored = ("_name_or_path", "transformers_version", "auto_map", "architectures", "dtype")
    fields: Any = model.config.to_dict() if isinstance(model, PreTrainedModel) else {}
    config = {name: value for name, value in fields.items() if name not in ignored}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if tensor.is_meta:
            # What accelerate keeps on the disk, or in memory beside an accelerator, is fetched one module at a time.
            owner, _, own = name.rpartition(".")
            with align_module_device(model.get_submodule(owner), "cpu"):
                tensor = getattr(model.get_submodule(owner), own).clone()
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
