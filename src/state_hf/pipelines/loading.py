"""Loads a State Embedding model and its tokenizer for inference, checked against each other."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from state_hf.configuration.model_folders import loading_from
from state_hf.modeling.state_embedding import StateEmbeddingModel
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer

DTYPES = ("float32", "bfloat16", "float16")


def load_model(
    model: str | Path | PreTrainedModel, *, dtype: str | None = None, device: torch.device | None = None
) -> StateEmbeddingModel:
    """Load a model for inference.

    Args:
        model: A folder, a hub id, or a loaded model (with or without heads), which stays as and where it is.
        dtype: One of `DTYPES`. Default: the checkpoint's; float32 on the CPU, which is slow in most others.
        device: Where the model goes. Default: it stays on the CPU.

    Raises:
        ValueError: Not a State Embedding model, one without a gene table, or a dtype that does not fit.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}")
    if isinstance(model, PreTrainedModel):
        loaded = model.base_model
        name = model.config.name_or_path or type(model).__name__
        if dtype is not None and loaded.dtype != getattr(torch, dtype):
            raise ValueError(f"the model {name} is loaded as {loaded.dtype}: convert it with model.to(torch.{dtype})")
    else:
        name = str(model)
        on_cpu = device is None or device.type == "cpu"
        with loading_from(name):
            loaded, info = AutoModel.from_pretrained(
                name,
                dtype=dtype or ("float32" if on_cpu else "auto"),
                output_loading_info=True,
                trust_remote_code=False,
            )
        refuse_missing_weights(name, info["missing_keys"], optional="gene_table.weight")
        loaded = loaded.to(device or "cpu").eval()
    if not isinstance(loaded, StateEmbeddingModel):
        raise ValueError(f"{name} is a {type(loaded).__name__}, not a State Embedding model")
    if not loaded.has_gene_table:
        raise ValueError(f"{name} has no gene table, so it cannot embed cells: add `gene_table.weight` to it")
    return loaded


def refuse_missing_weights(name: str | Path, missing: Iterable[str], *, optional: str = "") -> None:
    """Refuse a model whose weights are not all there: transformers would fill the gaps with random numbers.

    Args:
        name: The model's folder or hub id.
        missing: Names of the weights that were not found.
        optional: What may be missing.

    Raises:
        ValueError: A weight is missing.
    """
    gaps = sorted(key for key in missing if not optional or not key.endswith(optional))
    if gaps:
        named = ", ".join(gaps[:3]) + (", ..." if len(gaps) > 3 else "")
        raise ValueError(f"{name} is incomplete: {len(gaps)} of its model's weights are missing ({named})")


def load_tokenizer(
    tokenizer: str | Path | StateEmbeddingTokenizer | None, model: StateEmbeddingModel
) -> StateEmbeddingTokenizer:
    """Load the tokenizer of a model.

    Args:
        tokenizer: A folder, a hub id, or a loaded tokenizer. Default: the one beside the model's weights.
        model: The model that it has to fit.

    Raises:
        ValueError: There is none, or its vocabulary is not the model's gene table.
    """
    if isinstance(tokenizer, str | Path | None):
        name = str(tokenizer or model.config.name_or_path)
        if not name:
            raise ValueError("The model was not loaded from a folder: pass its tokenizer (tokenizer=...).")
        with loading_from(name):
            loaded: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    else:
        loaded = tokenizer
    if not isinstance(loaded, StateEmbeddingTokenizer):
        raise ValueError(f"The tokenizer is a {type(loaded).__name__}, not a StateEmbeddingTokenizer.")
    if loaded.vocab_size != model.config.num_genes:
        raise ValueError(
            f"The tokenizer knows {loaded.vocab_size:,} genes, but the model's gene table has "
            f"{model.config.num_genes:,}: they do not belong together."
        )
    return loaded


def model_digest(model: torch.nn.Module) -> str:
    """SHA-256 of a model's configuration (where it has one) and weights, whatever folder or device they are in."""
    ignored = ("_name_or_path", "transformers_version", "auto_map", "architectures", "dtype")
    fields: Any = model.config.to_dict() if isinstance(model, PreTrainedModel) else {}
    config = {name: value for name, value in fields.items() if name not in ignored}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
