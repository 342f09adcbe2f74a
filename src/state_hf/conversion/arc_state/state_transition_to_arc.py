"""A State Transition model as the folder of an arc-state run."""

# Written here, and read by the restricted reader alone.
import pickle  # noqa: TID251
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils import logging

from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.conversion.arc_state.run_folder import BATCHES_FILES, CELL_TYPES_FILES, PERTURBATIONS_FILE, VARIABLES_FILE
from state_hf.conversion.arc_state.state_embedding_to_arc import LIGHTNING_VERSION
from state_hf.conversion.errors import CheckpointError

logger = logging.get_logger(__name__)

_TABLE = "perturbation_table.weight"
# What predicted profiles start from, and how networks count.
_PROFILES = ("mixed_effects.", "network_effects.")
_LOSSES = {"energy": "energy", "sinkhorn": "sinkhorn", "mse": "mse", "energy_sinkhorn": "se"}


def state_transition_checkpoint(
    config: StateTransitionConfig, weights: dict[str, torch.Tensor], record: dict[str, Any], source: Path
) -> dict[str, Any]:
    """Content of the run's checkpoint.

    Args:
        config: The model's configuration.
        weights: Its weights under the original's names.
        record: What the conversion kept of the source; empty for a model that was trained here.
        source: The model's folder.

    Raises:
        CheckpointError: If arc-state has no such model.
    """
    _check_expressible(config, source)
    if config.gene_decoder is not None and not any(name.startswith("gene_decoder.") for name in weights):
        raise CheckpointError(f"{source} has no weights of its gene decoder: it was saved without its heads.")
    arguments = _arguments(config, record.get("hyper_parameters") or {}, _vocabulary(source))
    if config.mixed_effects_cell_types is not None:
        logger.warning(f"the mixed model of {source}, which its predicted profiles start from, stays behind")
    weights = {name: value for name, value in weights.items() if name != _TABLE and not name.startswith(_PROFILES)}
    return {
        "epoch": 0,
        "global_step": record.get("global_step") or 0,
        "pytorch-lightning_version": record.get("framework_version") or LIGHTNING_VERSION,
        "state_dict": {**weights, **_unused_tables(config, arguments)},
        "hparams_name": "kwargs",
        "hyper_parameters": arguments,
    }


def _check_expressible(config: StateTransitionConfig, source: Path) -> None:
    problem = None
    modes = {(False, "none"), (True, "rotary")} if config.backbone == "llama" else {(False, "none"), (True, "none")}
    if (config.is_causal, config.position_embedding_type) not in modes:
        problem = "is bidirectional with rotary positions" if not config.is_causal else "is causal without positions"
    elif config.gene_decoder not in (None, "mlp", "residual"):
        problem = f"has the gene decoder {config.gene_decoder!r}"
    elif config.nonnegative_output != (config.feature_key in ("X", "X_hvg") or config.gene_decoder is None):
        problem = f"has nonnegative_output={config.nonnegative_output} for the features {config.feature_key!r}"
    elif config.hidden_act != "gelu" or config.layer_norm_eps != 1e-5:
        problem = f"has the activation {config.hidden_act!r} and the epsilon {config.layer_norm_eps}"
    elif config.use_perturbation_offsets:
        problem = (
            "adds offsets to its output (`state-hf train --config use_perturbation_offsets=false` leaves them out)"
        )
    elif config.loss not in _LOSSES:
        problem = f"was trained with the loss {config.loss!r}"
    if problem is not None:
        raise CheckpointError(f"The model {source} {problem}, and arc-state 0.11.1 has no such model.")


def _vocabulary(source: Path) -> PerturbationVocabulary:
    path = source / PerturbationVocabulary.FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{source} has no {path.name}, and a run's folder names perturbations.")
    return PerturbationVocabulary.load(path)


def _arguments(
    config: StateTransitionConfig, recorded: dict[str, Any], vocabulary: PerturbationVocabulary
) -> dict[str, Any]:
    decoder = config.gene_decoder
    derived = {
        "input_dim": config.input_dim,
        "hidden_dim": config.hidden_size,
        "output_dim": config.output_dim,
        "pert_dim": config.perturbation_dim,
        "batch_dim": config.num_batches,
        "dropout": config.dropout,
        "control_pert": vocabulary.control_perturbation or recorded.get("control_pert", "non-targeting"),
        "embed_key": None if config.feature_key == "X" else config.feature_key,
        "output_space": config.output_space,
        "cell_set_len": config.cell_set_length,
        "n_encoder_layers": config.num_encoder_layers,
        "n_decoder_layers": config.num_decoder_layers,
        "predict_residual": config.predict_residual,
        "mask_attn": config.mask_attention,
        "batch_encoder": config.use_batch_encoder,
        "use_batch_token": config.use_batch_token,
        "confidence_token": config.use_confidence_token,
        "mmd_num_chunks": config.num_loss_chunks,
        "randomize_mmd_chunks": config.shuffle_loss_chunks,
        "loss": _LOSSES[config.loss],
        "transformer_backbone_key": "llama" if config.backbone == "llama" else "GPT2",
        "transformer_backbone_kwargs": _backbone_arguments(config, recorded.get("transformer_backbone_kwargs") or {}),
    }
    if vocabulary.genes:
        derived["gene_names"] = list(vocabulary.genes)
    if not config.use_basal_projection:
        derived["use_basal_projection"] = False
    # Without this, the original makes a decoder of sizes that a model without one does not have.
    derived["gene_decoder_bool"] = decoder is not None
    if decoder is not None:
        derived["gene_dim"] = config.gene_dim
        derived["decoder_cfg"] = {
            "latent_dim": config.output_dim,
            "gene_dim": config.gene_dim,
            "hidden_dims": list(config.gene_decoder_hidden_sizes),
            "dropout": config.dropout,
            "residual_decoder": decoder == "residual",
        }
    if config.use_batch_token:
        # The original has no batch token otherwise.
        derived["basal_mapping_strategy"] = "batch"
    # Adapters were merged; the loss and the collator were never data.
    kept = {name: value for name, value in recorded.items() if name not in ("lora", "loss_fn", "init_from")}
    return {**kept, **derived}


def _backbone_arguments(config: StateTransitionConfig, recorded: dict[str, Any]) -> dict[str, Any]:
    arguments = dict(recorded)
    if config.backbone == "gpt2":
        arguments.update(
            n_embd=config.hidden_size,
            n_inner=config.intermediate_size,
            n_layer=config.num_hidden_layers,
            n_head=config.num_attention_heads,
            resid_pdrop=config.backbone_dropout,
            attn_pdrop=config.attention_dropout,
            attn_implementation="sdpa" if config.is_causal else "eager",
        )
        arguments.setdefault("embd_pdrop", config.backbone_dropout)
        arguments.setdefault("n_positions", config.cell_set_length + 2)
        arguments.setdefault("vocab_size", 1)
        return arguments
    arguments.update(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        attention_dropout=config.attention_dropout,
    )
    arguments.setdefault("max_position_embeddings", config.cell_set_length)
    if not recorded:
        arguments.update(vocab_size=3, pad_token_id=0, bos_token_id=1, eos_token_id=2, use_cache=False)
    if config.rms_norm_eps != 1e-6:
        arguments["rms_norm_eps"] = config.rms_norm_eps
    if config.rope_theta != 1e4:
        arguments["rope_theta"] = config.rope_theta
    if bool(arguments.get("bidirectional_attention")) == config.is_causal:
        arguments["bidirectional_attention"] = not config.is_causal
    return arguments


def _unused_tables(config: StateTransitionConfig, arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What arc-state's models hold, and never use: zeros, as in its own checkpoints."""
    backbone = arguments["transformer_backbone_kwargs"]
    width = config.hidden_size
    tables = {}
    if config.backbone == "llama":
        # transformers' default, for checkpoints that do not say.
        tables["transformer_backbone.embed_tokens.weight"] = torch.zeros(backbone.get("vocab_size", 32000), width)
    else:
        tables["transformer_backbone.wte.weight"] = torch.zeros(backbone.get("vocab_size", 50257), width)
        tables["transformer_backbone.wpe.weight"] = torch.zeros(backbone.get("n_positions", 1024), width)
    if config.output_space == "all" and not config.predict_residual:
        size = int(config.output_dim or config.input_dim)
        for number, shape in ((0, (size // 8, size)), (2, (size, size // 8))):
            tables[f"final_down_then_up.{number}.weight"] = torch.zeros(shape)
            tables[f"final_down_then_up.{number}.bias"] = torch.zeros(shape[0])
    return tables


def write_run_files(
    config: StateTransitionConfig, arguments: dict[str, Any], record: dict[str, Any], source: Path, folder: Path
) -> None:
    """Write what lies beside the checkpoint of a run: its configuration, sizes and names."""
    vocabulary = _vocabulary(source)
    names = list(vocabulary.perturbations)
    vectors = _perturbation_vectors(config, source)
    torch.save({name: vector.clone() for name, vector in zip(names, vectors, strict=True)}, folder / PERTURBATIONS_FILE)
    torch.save(_one_hot(vocabulary.batches or ["0"]), folder / BATCHES_FILES[0])
    if vocabulary.cell_types:
        torch.save(_one_hot(vocabulary.cell_types), folder / CELL_TYPES_FILES[0])
    sizes = {
        "input_dim": config.input_dim,
        "output_dim": config.output_dim,
        "gene_dim": config.gene_dim or config.output_dim,
        "hvg_dim": arguments.get("hvg_dim", config.output_dim),
        "pert_dim": config.perturbation_dim,
        "batch_dim": config.num_batches,
        "gene_names": list(vocabulary.genes),
        "pert_names": names,
    }
    (folder / VARIABLES_FILE).write_bytes(pickle.dumps(sizes))
    configuration = record.get("config") or _configuration(config, arguments)
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")


def _perturbation_vectors(config: StateTransitionConfig, source: Path) -> torch.Tensor:
    if config.perturbation_features == "ids":
        return torch.eye(config.perturbation_dim)
    from state_hf.conversion.safetensors_file import read_weights

    found = [tensor for name, tensor in read_weights(source).items() if name.endswith(_TABLE)]
    if not found:
        raise CheckpointError(f"{source} has no table of its perturbations' features, which a run's folder needs.")
    return found[0].load()


def _one_hot(names: Any) -> dict[str, torch.Tensor]:
    return {name: row.clone() for name, row in zip(names, torch.eye(len(names)), strict=True)}


def _configuration(config: StateTransitionConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """What arc-state reads of a run's configuration to predict with its model."""
    skipped = ("input_dim", "output_dim", "pert_dim", "batch_dim", "gene_names", "gene_dim", "decoder_cfg")
    data = {
        "embed_key": arguments["embed_key"],
        "output_space": config.output_space,
        "control_pert": arguments["control_pert"],
        "basal_mapping_strategy": arguments.get("basal_mapping_strategy", "random"),
        "pert_col": "gene",
        "cell_type_key": "cell_type",
        "batch_col": "gem_group",
    }
    return {
        "data": {"name": "PerturbationDataModule", "kwargs": data},
        "model": {"name": "state", "kwargs": {k: v for k, v in arguments.items() if k not in skipped}},
        "training": {"train_seed": 42, "batch_size": 16},
    }


__all__ = ["state_transition_checkpoint", "write_run_files"]
