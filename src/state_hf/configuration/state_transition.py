"""Configuration of the State Transition model (ST)."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from state_hf.configuration.auto_map import PortableConfigMixin
from state_hf.configuration.number_ranges import check_numbers
from state_hf.configuration.state_embedding import StateEmbeddingConfig


@strict
class StateTransitionConfig(PortableConfigMixin, PreTrainedConfig):
    """Everything that defines a State Transition model.

    The sizes' defaults are those of arc-state's `state` preset on 2,000 highly variable genes. The original's field
    names (`hidden_dim`, `pert_dim`, `batch_dim`, `n_encoder_layers`, `n_decoder_layers`, `cell_set_len`, `embed_key`,
    `batch_encoder`, `confidence_token`, `mask_attn`, ...) are accepted, too.

    Args:
        input_dim: Features of a control cell: genes, or the width of an embedding.
        output_dim: Features of a predicted cell. `input_dim` by default.
        perturbation_dim: Width of a perturbation's features; with `perturbation_features="ids"`, their number.
        num_perturbations: Perturbations of the vocabulary. `perturbation_dim` by default with "ids". With "vectors",
            the model holds a table of this many feature vectors, so that it takes ids too; 0 (default) for no table.
        perturbation_features: What the perturbation encoder reads: "ids" learns a row for each perturbation (a one-hot
            vector times the first layer), "vectors" reads `perturbation_dim` features of it.
        hidden_size: Width of the backbone.
        num_hidden_layers: Layers of the backbone.
        num_attention_heads: Attention heads of a layer.
        num_key_value_heads: Key and value heads of a Llama layer. `num_attention_heads` by default.
        head_dim: Width of a Llama attention head. `hidden_size / num_attention_heads` by default.
        intermediate_size: Width of a layer's feed-forward block.
        backbone: "llama" (RMS norm, SwiGLU, no biases) or "gpt2" (layer norm, GELU, biases).
        is_causal: Whether a cell sees only the cells before it in its set. A set has no order: False for new models.
        position_embedding_type: "none", or "rotary" (Llama only) as some original checkpoints were trained.
        mask_attention: Ablation: each cell attends to itself alone.
        num_encoder_layers: Linear layers of the perturbation encoder and of the control encoder.
        num_decoder_layers: Linear layers of the projection from the backbone to the features.
        use_basal_projection: Whether the control encoder has `num_encoder_layers` layers, or a single one.
        hidden_act: Activation between the layers of encoders, projection and decoders.
        dropout: Dropout after each of these activations.
        attention_dropout: Dropout on the attention weights.
        backbone_dropout: Dropout on the embeddings and on the blocks' outputs of a GPT-2 backbone. Llama has none.
        predict_residual: Whether the output is projected from the backbone's output plus the encoded control cell.
            With `output_space="all"`, the control cell itself is added after the projection, and a bottleneck follows.
        output_space: What is predicted: "gene" (highly variable genes, or an embedding that is decoded to them), "all"
            (all genes) or "embedding".
        use_perturbation_offsets: Whether the output has a constant added for each perturbation and feature, which
            `state_hf.training.perturbation_offsets` fits after training; no gradient changes them.
        mixed_effects_cell_types: Cell types of the mixed model of the training screen that predicted profiles start
            from; None without one.
        mixed_effects_supports: Perturbations whose features say what the mixed model expects of others; 0 without.
        effect_scale: How far predicted profiles go from what the mixed model expects (or from the control cells,
            without one) to what the network says: 0 is not at all. `state_hf.training.effect_scale` fits it to held-out
            cells; `predict(..., emit="tilted")` applies it.
        interaction_scale: How much of what the network says of the context at hand, beyond its mean over the training
            contexts, is added to that; None where one context trained, or none, of which that cannot be told.
        num_networks: Networks whose effects, averaged over the training contexts, are part of the model; 0 for a model
            that has none, where `effect_scale` is of the network's effect in the context at hand.
        error_scale: Factor that held-out cells ask for on the standard errors that the mixed model states; None for a
            model that states none.
        detected_genes: Least and greatest median number of genes that the control cells of a training context have
            values of, which those that are predicted from are held against; None where that is not known.
        nonnegative_output: Whether the output ends in a ReLU. By default, unless the features are an embedding.
        feature_key: Where the features come from in an AnnData: "X", "layers/NAME", or a key of `obsm`.
        feature_scale: Scale of the features: "counts", "log1p" or "embedding". By default, "log1p" where `feature_key`
            is "X_hvg" or a slot of expression ("X", "raw/X", "layers/NAME"), and "embedding" elsewhere.
        target_sum: Counts per cell that they were normalised to, or None if that is not known or not done.
        cell_set_length: Cells of a full set.
        use_batch_encoder: Whether an embedding of the cells' batch is added to them.
        num_batches: Batches of the vocabulary.
        use_batch_token: Whether a batch token begins each set; the batch is classified from its output.
        use_confidence_token: Whether a confidence token ends each set; the set's loss is predicted from its output.
        gene_decoder: Decoder from predicted features to expression: None, "mlp", "residual", "negative_binomial" or
            "state_embedding".
        gene_dim: Genes that the decoder predicts.
        gene_decoder_hidden_sizes: Hidden widths of the decoder.
        gene_decoder_learned_genes: Positions of the genes that the State Embedding model of
            `gene_decoder="state_embedding"` does not know: their encoding is a row of the decoder's own.
        state_embedding_config: Configuration of the State Embedding model whose expression decoder
            `gene_decoder="state_embedding"` reuses.
        loss: Name of the loss between predicted and real cells, see `state_hf.modeling.losses`.
        loss_kwargs: Arguments of the loss, e.g. `{"blur": 0.05}`.
        num_loss_chunks: Chunks of features, over which the loss is averaged.
        shuffle_loss_chunks: Whether the features are dealt to the chunks at random, anew each time.
        decoder_weight: Weight of the loss on decoded expression.
        detach_decoder: Whether the decoder is trained on detached predictions and, one time in ten, on real cells.
        regularization: Weight of the mean absolute difference of prediction and control.
        batch_token_weight: Weight of the batch classifier's loss.
        confidence_weight: Weight of the confidence loss.
        confidence_target_scale: The confidence token predicts the set's loss times this.
        rms_norm_eps: Epsilon of Llama's norms.
        layer_norm_eps: Epsilon of the other layer norms.
        rope_theta: Base of the rotary position embedding.
        initializer_range: Standard deviation of the initial weights.

    Raises:
        ValueError: If sizes or options contradict each other.
    """

    model_type: ClassVar[str] = "state_transition"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_dim": "hidden_size",
        "pert_dim": "perturbation_dim",
        "batch_dim": "num_batches",
        "n_encoder_layers": "num_encoder_layers",
        "n_decoder_layers": "num_decoder_layers",
        "cell_set_len": "cell_set_length",
        "embed_key": "feature_key",
        "activation": "hidden_act",
        "batch_encoder": "use_batch_encoder",
        "confidence_token": "use_confidence_token",
        "mask_attn": "mask_attention",
        "mmd_num_chunks": "num_loss_chunks",
        "randomize_mmd_chunks": "shuffle_loss_chunks",
    }
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {"state_embedding_config": StateEmbeddingConfig}

    input_dim: int = 2000
    output_dim: int | None = None
    perturbation_dim: int = 1000
    num_perturbations: int | None = None
    perturbation_features: Literal["ids", "vectors"] = "ids"
    hidden_size: int = 768
    num_hidden_layers: int = 8
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int = 3072
    backbone: Literal["llama", "gpt2"] = "llama"
    is_causal: bool = False
    position_embedding_type: Literal["none", "rotary"] = "none"
    mask_attention: bool = False
    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    use_basal_projection: bool = True
    hidden_act: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    backbone_dropout: float = 0.0
    predict_residual: bool = True
    output_space: Literal["gene", "all", "embedding"] = "gene"
    use_perturbation_offsets: bool = False
    mixed_effects_cell_types: int | None = None
    mixed_effects_supports: int = 0
    effect_scale: float = 1.0
    interaction_scale: float | None = None
    num_networks: int = 0
    error_scale: float | None = None
    detected_genes: tuple[float, float] | list[float] | None = None
    nonnegative_output: bool | None = None
    feature_key: str = "X_hvg"
    feature_scale: Literal["counts", "log1p", "embedding"] | None = None
    target_sum: float | None = None
    cell_set_length: int = 512
    use_batch_encoder: bool = False
    num_batches: int = 1
    use_batch_token: bool = False
    use_confidence_token: bool = False
    gene_decoder: Literal["mlp", "residual", "negative_binomial", "state_embedding"] | None = None
    gene_dim: int | None = None
    gene_decoder_hidden_sizes: list[int] | tuple[int, ...] = (1024, 1024, 512)
    gene_decoder_learned_genes: list[int] | tuple[int, ...] = ()
    state_embedding_config: StateEmbeddingConfig | dict[str, Any] | None = None
    loss: str = "energy"
    loss_kwargs: dict[str, Any] | None = None
    num_loss_chunks: int = 1
    shuffle_loss_chunks: bool = False
    decoder_weight: float = 1.0
    detach_decoder: bool = False
    regularization: float = 0.0
    batch_token_weight: float = 0.1
    confidence_weight: float = 0.01
    confidence_target_scale: float = 10.0
    rms_norm_eps: float = 1e-6
    layer_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive what was left to be derived."""
        if isinstance(self.state_embedding_config, dict):
            self.state_embedding_config = StateEmbeddingConfig(**self.state_embedding_config)
        # Before the rest, as it sets the fields that were given by the original's names.
        super().__post_init__(**kwargs)
        if self.output_dim is None:
            self.output_dim = self.input_dim
        if self.num_perturbations is None:
            self.num_perturbations = self.perturbation_dim if self.perturbation_features == "ids" else 0
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.feature_scale is None:
            has_genes = self.feature_key in ("X", "raw/X", "X_hvg", "obsm/X_hvg") or self.feature_key[:7] == "layers/"
            self.feature_scale = "log1p" if has_genes else "embedding"
        if self.nonnegative_output is None:
            self.nonnegative_output = self.feature_scale != "embedding"

    @property
    def num_genes(self) -> int | None:
        """Genes of the predicted expression; None if what is predicted is an embedding, and not decoded."""
        if self.gene_decoder is not None:
            return self.gene_dim
        return None if self.output_space == "embedding" or self.feature_scale == "embedding" else self.output_dim

    def validate_architecture(self) -> None:
        """Check sizes and options against each other."""
        sizes = (
            "input_dim",
            "output_dim",
            "perturbation_dim",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "num_encoder_layers",
            "num_decoder_layers",
            "cell_set_length",
            "num_batches",
            "num_loss_chunks",
        )
        check_numbers(self, sizes)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if self.backbone == "gpt2" and self.position_embedding_type == "rotary":
            raise ValueError('backbone="gpt2" has no rotary positions: use position_embedding_type="none"')
        if self.perturbation_features == "ids" and self.num_perturbations != self.perturbation_dim:
            raise ValueError(
                f'With perturbation_features="ids", num_perturbations ({self.num_perturbations}) and perturbation_dim '
                f"({self.perturbation_dim}) are the same number."
            )
        if self.use_perturbation_offsets and not self.num_perturbations:
            raise ValueError("use_perturbation_offsets needs a vocabulary of perturbations (num_perturbations)")
        if self.mixed_effects_cell_types is not None and not (self.num_perturbations and self.num_genes):
            raise ValueError(
                "mixed_effects_cell_types needs a vocabulary of perturbations (num_perturbations) and predicted genes"
            )
        if self.num_networks and self.mixed_effects_cell_types is None:
            raise ValueError("num_networks needs a mixed model (mixed_effects_cell_types), beyond which networks count")
        if self.output_space == "all" and self.output_dim != self.input_dim:
            raise ValueError(
                f'output_space="all" adds the control cell to the output, so output_dim ({self.output_dim}) must be '
                f"input_dim ({self.input_dim})"
            )
        if (self.gene_decoder is None) != (self.gene_dim is None):
            raise ValueError(f"gene_decoder ({self.gene_decoder!r}) and gene_dim ({self.gene_dim}) belong together")
        se = self.state_embedding_config
        if (self.gene_decoder == "state_embedding") != (se is not None):
            raise ValueError('gene_decoder="state_embedding" and state_embedding_config belong together')
        learned = self.gene_decoder_learned_genes
        if learned and (se is None or len({*learned} & {*range(self.gene_dim or 0)}) < len(learned)):
            raise ValueError(
                'gene_decoder_learned_genes are different positions among the genes of gene_decoder="state_embedding"'
            )
        if isinstance(se, StateEmbeddingConfig) and self.output_dim != se.embedding_dim:
            raise ValueError(
                f"The State Embedding decoder reads embeddings of width {se.embedding_dim}, but output_dim is "
                f"{self.output_dim}"
            )
        if self.regularization and self.output_dim != self.input_dim:
            raise ValueError(
                f"regularization compares prediction and control, so output_dim ({self.output_dim}) must be input_dim "
                f"({self.input_dim})"
            )


__all__ = ["StateTransitionConfig"]
