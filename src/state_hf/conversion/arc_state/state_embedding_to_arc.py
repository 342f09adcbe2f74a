"""A State Embedding model as arc-state's Lightning checkpoint."""

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils import logging

from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.conversion.arc_state.state_embedding import GENE_TABLE
from state_hf.conversion.errors import CheckpointError

logger = logging.get_logger(__name__)
# Lightning checks that a checkpoint is of a version that it knows.
LIGHTNING_VERSION = "2.5.0"
_NO_HEADS = "has no expression decoder, which arc-state's models have: convert a model with its pretraining heads"


def state_embedding_checkpoint(
    config: StateEmbeddingConfig, weights: dict[str, torch.Tensor], record: dict[str, Any], source: Path
) -> dict[str, Any]:
    """Content of the checkpoint.

    Args:
        config: The model's configuration.
        weights: Its weights under the original's names.
        record: What the conversion kept of the source; empty for a model that was trained here.
        source: The model's folder, which has the genes' names.

    Raises:
        CheckpointError: If the model has no names of genes, no gene table or no decoder.
    """
    names = source / "genes.txt"
    if not names.is_file():
        raise CheckpointError(f"{source} has no genes.txt, and arc-state finds genes by name.")
    if GENE_TABLE not in weights or "binary_decoder.0.dense.weight" not in weights:
        what = "has no gene table" if GENE_TABLE not in weights else _NO_HEADS
        raise CheckpointError(f"{source} {what}.")
    genes = names.read_text(encoding="utf-8").split()
    table = weights.pop(GENE_TABLE)
    state = dict(weights)
    if record.get("has_gene_table"):
        state[GENE_TABLE] = table
    # The original registers its gene encoder twice.
    state.update(
        {
            name.replace("encoder", "gene_embedding_layer", 1): value
            for name, value in weights.items()
            if name.startswith("encoder.")
        }
    )
    dropout = _dropout(config, source)
    arguments = {
        "token_dim": config.gene_embedding_dim,
        "d_model": config.hidden_size,
        "nhead": config.num_attention_heads,
        "d_hid": config.intermediate_size,
        "nlayers": config.num_hidden_layers,
        "output_dim": config.output_dim,
        "dropout": dropout,
        "compiled": False,
        "emb_cnt": config.num_genes,
        "emb_size": config.gene_embedding_dim,
    }
    original = record.get("config") or _configuration(config)
    if isinstance(original.get("model"), dict):
        original["model"]["dropout"] = dropout
    return {
        "epoch": 0,
        "global_step": record.get("global_step") or 0,
        "pytorch-lightning_version": record.get("framework_version") or LIGHTNING_VERSION,
        "state_dict": state,
        "hparams_name": "kwargs",
        "hyper_parameters": {**_recorded_arguments(record), **arguments},
        "cfg_yaml": yaml.safe_dump(original, sort_keys=False),
        # Rows of their own: a view would be stored with the whole table.
        "protein_embeds_dict": {gene: row.clone() for gene, row in zip(genes, table, strict=True)},
    }


def _dropout(config: StateEmbeddingConfig, source: Path) -> float:
    """The one dropout that the original has: it can apply that to the attention in inference, too."""
    if config.attention_dropout != config.hidden_dropout_prob:
        logger.warning(
            f"arc-state has one dropout for both: {source} is written with its attention_dropout, "
            f"{config.attention_dropout:g}, which can change embeddings there, and not with its hidden_dropout_prob, "
            f"{config.hidden_dropout_prob:g}."
        )
    return config.attention_dropout


def _recorded_arguments(record: dict[str, Any]) -> dict[str, Any]:
    arguments = record.get("hyper_parameters") or {}
    known = ("warmup_steps", "max_lr")
    return {name: arguments[name] for name in known if name in arguments}


def _configuration(config: StateEmbeddingConfig) -> dict[str, Any]:
    """What arc-state reads of its configuration to make the model and to embed with it."""
    name = "state_hf"
    return {
        "embeddings": {
            "current": name,
            name: {
                "all_embeddings": None,
                "ds_emb_mapping": None,
                "valid_genes_masks": None,
                "size": config.gene_embedding_dim,
                "num": config.num_genes,
            },
        },
        "dataset": {
            "current": name,
            name: {"ds_type": "h5ad", "num_datasets": config.num_datasets},
            "pad_length": config.max_position_embeddings,
            "pad_token_idx": 0,
            "cls_token_idx": 3,
            "chrom_token_right_idx": 2,
            "P": 512,
            "N": 512,
            "S": 512,
            "num_train_workers": 0,
            "num_val_workers": 0,
        },
        "tokenizer": {"token_dim": config.gene_embedding_dim},
        "model": {
            "name": name,
            "batch_size": 128,
            "emsize": config.hidden_size,
            "d_hid": config.intermediate_size,
            "nhead": config.num_attention_heads,
            "nlayers": config.num_hidden_layers,
            "dropout": config.attention_dropout,
            "output_dim": config.output_dim,
            "use_flash_attention": True,
            "rda": config.use_read_depth,
            "counts": True,
            "dataset_correction": config.use_dataset_token,
            "ema": False,
            "sample_rda": False,
            "batch_tabular_loss": False,
            "num_downsample": 1,
            "variable_masking": True,
        },
        "task": {"mask": 0.2},
        "loss": {"name": "tabular", "apply_normalization": False, "kernel": "energy", "uniformity": False},
        "optimizer": {"max_lr": 1e-5, "weight_decay": 0.01, "start": 0.33, "end": 1.0, "zclip": False},
        "experiment": {"num_epochs": 16, "compiled": False},
    }


__all__ = ["LIGHTNING_VERSION", "state_embedding_checkpoint"]
