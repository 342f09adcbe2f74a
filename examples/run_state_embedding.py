"""Pretrain a State Embedding model with transformers' own argument parser.

on a CPU, a small model:
  python examples/run_state_embedding.py --manifest corpus.csv --output_dir model --use_cpu --max_steps 500 \
      --per_device_train_batch_size 32 --learning_rate 2e-3 --hidden_size 64 --num_hidden_layers 2

eight GPUs of one machine, FSDP2 by an `accelerate config` file:
  accelerate launch --config_file fsdp2.yaml examples/run_state_embedding.py --manifest corpus.csv \
      --output_dir model --bf16

go on with a checkpoint:
  python examples/run_state_embedding.py --manifest atlas.csv --initial_model SE-600M --output_dir model --bf16
"""

import gc
from dataclasses import dataclass, field

from accelerate import PartialState
from transformers import HfArgumentParser

import state_hf
from state_hf import StateEmbeddingTrainingArguments


@dataclass
class ModelArguments:
    """The corpus and the model."""

    manifest: str = field(metadata={"help": "Table of the files, see docs/pretraining.md."})
    initial_model: str | None = field(default=None, metadata={"help": "Model to go on with."})
    genes: str | None = field(default=None, metadata={"help": "Vocabulary. Default: the files' genes."})
    gene_embeddings: str | None = field(default=None, metadata={"help": "Embeddings of these genes. Default: learnt."})
    hidden_size: int = field(default=512, metadata={"help": "Width of a new model."})
    num_hidden_layers: int = field(default=8, metadata={"help": "Layers of a new model."})
    num_attention_heads: int = field(default=8, metadata={"help": "Attention heads of a new model."})
    max_position_embeddings: int = field(default=2048, metadata={"help": "Tokens of a sentence."})
    expression_loss: str = field(default="mse", metadata={"help": "mse, tabular, energy, bce or kl."})
    held_out: float = field(default=0.02, metadata={"help": "Share of the cells to evaluate on."})
    probe: str | None = field(default=None, metadata={"help": "Labelled file for a nearest-neighbour probe."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last complete checkpoint."})


def main() -> None:
    """Pretrain, and print the metrics of the held-out cells."""
    parser = HfArgumentParser((ModelArguments, StateEmbeddingTrainingArguments))
    chosen, training = parser.parse_args_into_dataclasses()
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "expression_loss")
    config = {name: getattr(chosen, name) for name in sizes}
    width = chosen.hidden_size
    config |= {"intermediate_size": 2 * width, "output_dim": width, "gene_embedding_dim": width}
    trained = state_hf.pretrain(
        chosen.manifest,
        training.output_dir,
        training=training,
        initial_model=chosen.initial_model,
        genes=chosen.genes,
        gene_embeddings=chosen.gene_embeddings,
        config=None if chosen.initial_model else config,
        held_out=chosen.held_out,
        probe=chosen.probe,
        resume=chosen.resume,
    )
    for name, value in trained.metrics.items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
    # Threads of a process group end with it, if nothing holds it. Those that outlive the interpreter abort the process.
    gc.collect()
    PartialState().destroy_process_group()
