"""State Transition checkpoints of arc-state become `StateTransitionForPerturbation` models."""

import re
from pathlib import Path
from typing import Any

from state_hf.configuration.advice import Advised
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.configuration.state_transition import StateTransitionConfig
from state_hf.conversion.arc_state.attention_mode import Attention, AttentionMode, Positions, attention_mode
from state_hf.conversion.arc_state.checkpoint import ArcCheckpoint
from state_hf.conversion.arc_state.low_rank_weights import has_adapters, merge_adapters
from state_hf.conversion.arc_state.run_folder import PERTURBATIONS_FILE, Labels, RunFolder, read_run_folder
from state_hf.conversion.arc_state.state_embedding_decoder import (
    add_state_embedding_decoder,
    num_decoded_genes,
    reuses_state_embedding,
)
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.lazy_tensor import LoadedTensor
from state_hf.conversion.model_folder import ConvertedModel
from state_hf.conversion.name_lists import read_gene_names, read_names
from state_hf.conversion.weight_accounting import IgnoreRule, account_for, original_shapes
from state_hf.modeling.state_transition import StateTransitionForPerturbation

_RULES = (
    IgnoreRule(r"transformer_backbone\.(embed_tokens|wte|wpe)\.weight", "the backbone's token and position tables"),
    IgnoreRule(r"transformer_backbone\..*\.(attn\.(bias|masked_bias)|rotary_emb\.inv_freq)", "buffers of the backbone"),
    IgnoreRule(r"final_down_then_up\..*", "the bottleneck, which this output space does not use"),
    IgnoreRule(r"loss(_fn)?\..*", "parts of the original's loss"),
    IgnoreRule(
        r"gene_decoder\.finetune\..*", "the State Embedding model of the gene decoder, but its gene encoder and decoder"
    ),
)
_FIELDS = {
    "input_dim": "input_dim",
    "output_dim": "output_dim",
    "perturbation_dim": "pert_dim",
    "hidden_size": "hidden_dim",
    "dropout": "dropout",
    "num_encoder_layers": "n_encoder_layers",
    "num_decoder_layers": "n_decoder_layers",
    "predict_residual": "predict_residual",
    "output_space": "output_space",
    "use_basal_projection": "use_basal_projection",
    "hidden_act": "activation",
    "mask_attention": "mask_attn",
    "cell_set_length": "cell_set_len",
    "num_loss_chunks": "mmd_num_chunks",
    "shuffle_loss_chunks": "randomize_mmd_chunks",
    "decoder_weight": "decoder_weight",
    "detach_decoder": "detach_decoder",
    "regularization": "regularization",
}
_LLAMA_FIELDS = {
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "attention_dropout": "attention_dropout",
    "rms_norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
_GPT2_FIELDS = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "attention_dropout": "attn_pdrop",
    "backbone_dropout": "resid_pdrop",
}
# What LlamaConfig and GPT2Config take when an argument is not given.
_LLAMA_DEFAULTS = {"num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
_GPT2_DEFAULTS = {"num_hidden_layers": 12, "num_attention_heads": 12, "attention_dropout": 0.1, "backbone_dropout": 0.1}
_LOSSES = {"energy": "energy", "sinkhorn": "sinkhorn", "mse": "mse", "se": "energy_sinkhorn"}
_TABLE = "perturbation_table.weight"


def convert_state_transition(
    checkpoint: ArcCheckpoint,
    *,
    genes: Path | None = None,
    perturbations: Path | None = None,
    state_embedding: str | Path | None = None,
    unnamed_genes: bool = False,
    attention: Attention | None = None,
    positions: Positions | None = None,
) -> ConvertedModel:
    """Make a model of a State Transition checkpoint.

    Args:
        checkpoint: The checkpoint.
        genes: File with the names of the genes that the model predicts, where the run has none.
        perturbations: File with the names of the perturbations, in the order of their ones, where the run has none.
        state_embedding: State Embedding model whose decoder the run reuses, for one that does: a checkpoint, a folder,
            or a repository on the Hub.
        unnamed_genes: Whether to go without names of genes.
        attention: Attention mode; by default that in which arc-state 0.11.1 loads the checkpoint.
        positions: Position mode; by default likewise.

    Raises:
        CheckpointError: If something is missing, or does not fit.
    """
    run = read_run_folder(checkpoint.folder)
    arguments = original_arguments(checkpoint, run)
    backbone = _backbone(arguments, checkpoint)
    backbone_arguments = arguments.get("transformer_backbone_kwargs") or {}
    mode = attention_mode(backbone, backbone_arguments, attention=attention, positions=positions)
    notes = [str(mode)]
    labels = _perturbations(checkpoint, run, perturbations, arguments)

    weights = dict(checkpoint.weights)
    if has_adapters(weights):
        lora = arguments.get("lora") or {}
        weights = merge_adapters(weights, lora, transposed=backbone == "gpt2", source=str(checkpoint.path))
        notes.append("The backbone's adapters (LoRA) are merged into its weights.")
    if state_embedding is not None and not reuses_state_embedding(weights):
        raise ValueError(f"{checkpoint.path} does not decode genes by a State Embedding model, so none can be named.")
    if labels.features is not None:
        weights[_TABLE] = LoadedTensor(labels.features)
        notes.append(f"Perturbations are read as feature vectors, those of {PERTURBATIONS_FILE}.")
    fields = {
        **_plain_fields(arguments),
        **_backbone_fields(backbone, backbone_arguments, arguments),
        **_parts(weights, arguments),
        **_loss(arguments, notes),
    }
    notes.extend(_unequal_dropouts(fields, backbone_arguments if backbone == "gpt2" else {}, arguments))
    if reuses_state_embedding(weights):
        count = num_decoded_genes(weights, checkpoint)
        decoded = _genes(checkpoint, run, arguments, count, genes, unnamed=False)
        fields.update(add_state_embedding_decoder(weights, decoded, checkpoint, state_embedding))
        notes.append(f"The embeddings of the {count} decoded genes are from {state_embedding}.")
    else:
        fields.update(_gene_decoder(weights, arguments))
    expression = arguments.get("embed_key") in (None, "X_hvg")
    fields["nonnegative_output"] = expression or "gene_decoder" not in fields
    fields.update(is_causal=mode.attention == "causal", position_embedding_type=mode.positions, backbone=backbone)
    if labels.features is not None:
        fields.update(perturbation_features="vectors", num_perturbations=len(labels.names))
    config = StateTransitionConfig(**fields)
    account = account_for(
        weights, original_shapes(StateTransitionForPerturbation, config), _RULES, str(checkpoint.path)
    )
    genes_named = _genes(checkpoint, run, arguments, config.num_genes, genes, unnamed=unnamed_genes)
    vocabulary = _vocabulary(config, labels, run, arguments, genes_named, notes)
    return ConvertedModel(StateTransitionForPerturbation, config, account, vocabulary=vocabulary, notes=notes)


def original_arguments(checkpoint: ArcCheckpoint, run: RunFolder) -> dict[str, Any]:
    """The arguments of the original model: those in the checkpoint, else in the run's configuration, else its sizes."""
    configured = checkpoint.config.get("model")
    configured = configured.get("kwargs") if isinstance(configured, dict) else None
    sizes = {name: value for name, value in run.sizes.items() if name.endswith("_dim") or name == "gene_names"}
    data = checkpoint.config.get("data")
    data = data.get("kwargs") if isinstance(data, dict) else None
    known = ("embed_key", "output_space", "control_pert", "basal_mapping_strategy")
    described = {name: data[name] for name in known if isinstance(data, dict) and name in data}
    if not configured and not checkpoint.hyper_parameters:
        raise CheckpointError(
            f"{checkpoint.path} holds weights alone, as a plain state_dict does: neither it (hyper_parameters) nor a "
            f"config.yaml in {checkpoint.folder} says what model they are of. Put the run's config.yaml there, or "
            "convert the checkpoint that Lightning saved."
        )
    return {**sizes, **described, **(configured or {}), **checkpoint.hyper_parameters}


def _backbone(arguments: dict[str, Any], checkpoint: ArcCheckpoint) -> str:
    key = str(arguments.get("transformer_backbone_key", "GPT2")).lower()
    if key not in ("llama", "gpt2"):
        raise CheckpointError(f"{checkpoint.path} has a {key!r} backbone; known are llama and gpt2.")
    return key


def _plain_fields(arguments: dict[str, Any]) -> dict[str, Any]:
    fields = {ours: arguments[theirs] for ours, theirs in _FIELDS.items() if arguments.get(theirs) is not None}
    return {**fields, "feature_key": arguments.get("embed_key") or "X"}


def _backbone_fields(backbone: str, kwargs: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    names, defaults = (_LLAMA_FIELDS, _LLAMA_DEFAULTS) if backbone == "llama" else (_GPT2_FIELDS, _GPT2_DEFAULTS)
    fields: dict[str, Any] = {**defaults}
    fields.update({ours: kwargs[theirs] for ours, theirs in names.items() if kwargs.get(theirs) is not None})
    if "intermediate_size" not in fields:
        fields["intermediate_size"] = 4 * arguments["hidden_dim"]
    rope = kwargs.get("rope_parameters")
    if backbone == "llama" and isinstance(rope, dict) and "rope_theta" in rope:
        fields["rope_theta"] = rope["rope_theta"]
    return fields


def _unequal_dropouts(fields: dict[str, Any], gpt2: dict[str, Any], arguments: dict[str, Any]) -> list[str]:
    """Where the original has two dropouts and these models one: it matters to further training alone."""
    decoder = (arguments.get("decoder_cfg") or {}).get("dropout")
    ours = fields.get("dropout")
    notes = []
    if decoder is not None and ours is not None and decoder != ours:
        notes.append(
            f"Dropout of the gene decoder, {decoder:g} in the checkpoint, is that of the model here: {ours:g}."
        )
    residual = fields.get("backbone_dropout")
    if gpt2 and (embedding := gpt2.get("embd_pdrop", 0.1)) != residual:
        notes.append(
            f"Dropout of the backbone's input (embd_pdrop), {embedding:g} in the checkpoint, is resid_pdrop here: "
            f"{residual:g}."
        )
    return notes


def _parts(weights: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Which tokens and encoders the model has, as its weights tell: the original unsets some of its own options."""
    fields: dict[str, Any] = {
        "use_batch_encoder": "batch_encoder.weight" in weights,
        "use_batch_token": "batch_token" in weights,
        "use_confidence_token": "confidence_token.confidence_token" in weights,
    }
    classifier = weights.get("batch_classifier.0.weight")
    batches = weights["batch_encoder.weight"] if fields["use_batch_encoder"] else classifier
    fields["num_batches"] = batches.shape[0] if batches is not None else int(arguments.get("batch_dim") or 1)
    return fields


def _gene_decoder(weights: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The fields of a decoder of its own; none for a model without one."""
    kinds = {"gene_decoder.decoder.": "mlp", "gene_decoder.blocks.": "residual"}
    kind = next((kinds[prefix] for prefix in kinds if any(name.startswith(prefix) for name in weights)), None)
    if kind is None:
        return {}
    decoder = arguments.get("decoder_cfg")
    if decoder:
        sizes = [*(decoder.get("hidden_dims") or (512, 1024)), decoder["gene_dim"]]
    else:
        # As in a plain state_dict. Its linear layers, in the order of their numbers; norms have one dimension.
        place = re.compile(r"gene_decoder\.(decoder|blocks|final_layer)\.([\d.]+)\.weight")
        layers = [
            (found[1] == "final_layer", [*map(int, found[2].split("."))], weights[name].shape)
            for name in weights
            if (found := place.fullmatch(name)) and len(weights[name].shape) == 2
        ]
        sizes = [shape[0] for _, _, shape in sorted(layers)]
    return {"gene_decoder": kind, "gene_dim": sizes[-1], "gene_decoder_hidden_sizes": sizes[:-1]}


def _loss(arguments: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    name = arguments.get("loss") or arguments.get("distributional_loss") or "energy"
    if name not in _LOSSES:
        notes.append(f"The loss {name!r} is not known: further training takes the energy distance.")
    loss = _LOSSES.get(name, "energy")
    blur = arguments.get("blur")
    return {"loss": loss, "loss_kwargs": {"blur": blur} if blur is not None and "sinkhorn" in loss else None}


def _perturbations(checkpoint: ArcCheckpoint, run: RunFolder, given: Path | None, arguments: dict[str, Any]) -> Labels:
    if given is not None:
        return Labels(read_names(given, "perturbations"))
    if run.perturbations is not None:
        return run.perturbations
    named = run.sizes.get("pert_names")
    if isinstance(named, list) and len(named) == arguments.get("pert_dim"):
        return Labels([str(name) for name in named])
    raise CheckpointError(
        Advised(
            f"{checkpoint.folder} has no {PERTURBATIONS_FILE}, so the {arguments.get('pert_dim')} perturbations of "
            f"{checkpoint.path.name} have no names",
            "convert the run's folder",
            "give a file with the names, one a line, in the order of their ones (perturbations=...)",
        )
    )


def _genes(
    checkpoint: ArcCheckpoint,
    run: RunFolder,
    arguments: dict[str, Any],
    count: int | None,
    given: Path | None,
    *,
    unnamed: bool,
) -> list[str]:
    if count is None:
        return []
    if given is not None:
        return read_gene_names(given, count)
    for named in (arguments.get("gene_names"), run.sizes.get("gene_names")):
        if isinstance(named, list) and len(named) == count:
            return [str(name) for name in named]
    if unnamed:
        return []
    raise CheckpointError(
        Advised(
            f"{checkpoint.path} predicts {count} genes, and neither it nor the files beside it name these",
            "give a file with their names in order, one a line, or the .h5ad that it was trained on (genes=...)",
            "go without names (unnamed_genes=True)",
        )
    )


def _vocabulary(
    config: StateTransitionConfig,
    labels: Labels,
    run: RunFolder,
    arguments: dict[str, Any],
    genes: list[str],
    notes: list[str],
) -> PerturbationVocabulary:
    if len(labels.names) != config.num_perturbations:
        raise CheckpointError(
            f"The run names {len(labels.names)} perturbations, but the model has {config.num_perturbations}."
        )
    control = arguments.get("control_pert")
    if control not in labels.names:
        notes.append(f"The control {control!r} is not one of the perturbations' names, so no control is recorded.")
        control = None
    batches = run.batches.names if run.batches is not None else []
    uses_batches = config.use_batch_encoder or config.use_batch_token
    if uses_batches and len(batches) != config.num_batches:
        raise CheckpointError(
            f"The model knows {config.num_batches} batches, but the run's folder names {len(batches)} "
            "(batch_onehot_map.torch)."
        )
    cell_types = run.cell_types.names if run.cell_types is not None else []
    return PerturbationVocabulary(labels.names, control, batches, cell_types, genes)


__all__ = ["AttentionMode", "convert_state_transition", "original_arguments"]
