"""From the proteins of a species to a State Embedding model that is ready to be pretrained on it.

python examples/compute_gene_embeddings.py --proteins Mus_musculus.GRCm39.pep.all.fa.gz \
    --protein_model facebook/esm2_t12_35M_UR50D --output_dir mouse

`mouse/genes` is the gene table, `mouse/model` an untrained model with it. To add the genes to a trained model instead:
state-hf genes extend MODEL mouse/genes --output MODEL_WITH_MOUSE
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser, set_seed

import state_hf
from state_hf import StateEmbeddingConfig, StateEmbeddingForMaskedExpression, StateEmbeddingTokenizer


@dataclass
class GeneArguments:
    """The proteins, the protein language model, and the size of the new model."""

    proteins: list[str] = field(metadata={"help": "FASTA files of proteins; .gz too."})
    protein_model: str = field(metadata={"help": "Folder or hub id of an ESM-2 or ESMC model, or an esm2_*.pt file."})
    output_dir: str = field(default="genes_and_model", metadata={"help": "Folder for the results."})
    hidden_size: int = field(default=512, metadata={"help": "Width of the new model."})
    num_hidden_layers: int = field(default=8, metadata={"help": "Its layers."})
    num_attention_heads: int = field(default=16, metadata={"help": "Its attention heads."})
    dtype: str = field(default="float32", metadata={"help": "Precision of the protein language model."})
    seed: int = field(default=0, metadata={"help": "Seed of the new model's weights."})


def main() -> None:
    """Compute the table, and put it into a new model."""
    (arguments,) = HfArgumentParser(GeneArguments).parse_args_into_dataclasses()
    set_seed(arguments.seed)
    folder = Path(arguments.output_dir)
    table = state_hf.embed_genes(
        arguments.proteins, arguments.protein_model, output=folder / "genes", dtype=arguments.dtype, resume=True
    )
    config = StateEmbeddingConfig(
        num_genes=len(table),
        gene_embedding_dim=table.width,
        hidden_size=arguments.hidden_size,
        intermediate_size=2 * arguments.hidden_size,
        output_dim=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        use_dataset_token=False,
    )
    model = StateEmbeddingForMaskedExpression(config)
    with torch.no_grad():
        model.state_embedding.gene_table.weight.copy_(table.embeddings)
    model.save_pretrained(folder / "model")
    StateEmbeddingTokenizer(table.genes).save_pretrained(folder / "model")
    print(f"{folder}: {len(table):,} genes x {table.width:,} (genes), and a model that knows them (model)")


if __name__ == "__main__":
    main()
