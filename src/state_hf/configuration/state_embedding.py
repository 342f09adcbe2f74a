"""Configuration of the State Embedding model (SE)."""

from dataclasses import field
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from state_hf.configuration.auto_map import PortableConfigMixin
from state_hf.configuration.number_ranges import check_numbers


@strict
class StateEmbeddingConfig(PortableConfigMixin, PreTrainedConfig):
    """Everything that defines a State Embedding model. The defaults are those of the released SE-600M.

    The original's field names (`token_dim`, `emsize`, `d_model`, `nhead`, `d_hid`, `nlayers`, `bins`, `pad_length`,
    `dropout`) are accepted, too.

    Args:
        num_genes: Rows of the gene table. Row i is the gene in line i of the tokenizer's `genes.txt`.
        gene_embedding_dim: Width of a gene's protein language model embedding (5120 for ESM2 15B).
        hidden_size: Width of the encoder.
        num_hidden_layers: Number of encoder layers.
        num_attention_heads: Attention heads of a layer.
        intermediate_size: Width of a layer's feed-forward block.
        output_dim: Width of the cell embedding.
        num_expression_bins: Number of soft expression bins.
        count_encoder_dim: Hidden width of the network that assigns an expression value to the bins.
        max_position_embeddings: Tokens of a full cell sentence, `[CLS]` included and the dataset token not. The model
            has no positions; this is the length that the tokenizer fills.
        use_dataset_token: Whether a dataset token ends each sentence, from whose output the dataset embedding comes.
        num_datasets: Classes of the dataset classifier.
        dataset_embedding_dim: Width of the dataset embedding.
        use_read_depth: Whether the expression decoder is told the read depth.
        cls_expression: Expression value that the tokenizer gives to `[CLS]`: "zero", or "gene_3", the value of the
            cell's kept gene number 3 (from 0), which is what the original models were trained with.
        expression_loss: What pretraining compares predicted and true expression by: "mse", "tabular" (the released
            code's), "energy", "bce" or "kl"; see `state_hf.modeling.losses.expression`.
        dataset_loss_weight: Weight of the dataset classifier's cross-entropy beside it.
        dataset_classes: Class of the dataset classifier for the name of each dataset that is known by name.
        class_weights: Weights of the classes' losses in cell-type annotation, None for equal ones.
        unknown_threshold: Probability below which an annotated cell is unknown.
        train_gene_table: Whether training updates the gene table. Protein language model embeddings stay fixed.
        hidden_act: Activation of the feed-forward blocks.
        hidden_dropout_prob: Dropout on the output of each block.
        attention_dropout: Dropout on the attention weights.
        classifier_dropout: Dropout before the last layer of the dataset classifier.
        layer_norm_eps: Epsilon of the layer norms.
        initializer_range: Standard deviation of the initial weights.

    Raises:
        ValueError: If `hidden_size` is not a multiple of `num_attention_heads`, or a size is not positive.
    """

    model_type: ClassVar[str] = "state_embedding"
    attribute_map: ClassVar[dict[str, str]] = {
        "token_dim": "gene_embedding_dim",
        "d_model": "hidden_size",
        "emsize": "hidden_size",
        "nhead": "num_attention_heads",
        "d_hid": "intermediate_size",
        "nlayers": "num_hidden_layers",
        "bins": "num_expression_bins",
        "pad_length": "max_position_embeddings",
        "dropout": "hidden_dropout_prob",
    }

    num_genes: int = 19790
    gene_embedding_dim: int = 5120
    hidden_size: int = 2048
    num_hidden_layers: int = 16
    num_attention_heads: int = 16
    intermediate_size: int = 2048
    output_dim: int = 2048
    num_expression_bins: int = 10
    count_encoder_dim: int = 512
    max_position_embeddings: int = 2048
    use_dataset_token: bool = True
    num_datasets: int = 14420
    dataset_embedding_dim: int = 10
    use_read_depth: bool = True
    cls_expression: Literal["zero", "gene_3"] = "zero"
    expression_loss: Literal["mse", "tabular", "energy", "bce", "kl"] = "mse"
    dataset_loss_weight: float = 1.0
    dataset_classes: dict[str, int] = field(default_factory=dict)
    class_weights: list[float] | None = None
    unknown_threshold: float = 0.5
    train_gene_table: bool = False
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_dropout: float = 0.0
    classifier_dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    @property
    def cls_token_id(self) -> int:
        """Id of `[CLS]`: the first after the genes."""
        return self.num_genes

    @property
    def pad_token_id(self) -> int:
        """Id of `[PAD]`: the second after the genes."""
        return self.num_genes + 1

    @property
    def embedding_dim(self) -> int:
        """Width of what users get for a cell: the cell embedding, then the dataset embedding."""
        return self.output_dim + (self.dataset_embedding_dim if self.use_dataset_token else 0)

    def validate_architecture(self) -> None:
        """Check the sizes against each other."""
        sizes = (
            "num_genes",
            "gene_embedding_dim",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "output_dim",
            "num_expression_bins",
            "count_encoder_dim",
            "max_position_embeddings",
            "num_datasets",
            "dataset_embedding_dim",
        )
        check_numbers(self, sizes)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )


__all__ = ["StateEmbeddingConfig"]
