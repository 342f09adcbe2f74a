"""Pretrain a State Embedding model on the files of a manifest, or go on with one.

The manifest is a .csv or .tsv with the column path, and if needed dataset, species, gene_column, scale and layer;
`state-hf corpus` checks it. The folder receives the model, its tokenizer and the checkpoints.

a small model with learnt gene embeddings, on a CPU:
  state-hf pretrain corpus.csv --output model --hidden-size 128 --num-hidden-layers 3 --steps 2000 --device cpu

go on with a converted checkpoint on your own atlas:
  state-hf pretrain atlas.csv --initial-model SE-600M --output model --learning-rate 1e-5 --bf16

eight GPUs; add --config_file for FSDP2:
  accelerate launch --num_processes 8 -m state_hf pretrain corpus.csv --output model --bf16 --workers 4 --lanes 512
"""

import argparse
from pathlib import Path
from typing import Any

from state_hf.data.cells.locations import as_location

_SIZES = {
    "hidden-size": "width (default: 512)",
    "num-hidden-layers": "layers (default: 8)",
    "num-attention-heads": "attention heads (default: 8)",
    "intermediate-size": "width of a layer's feed-forward block (default: 1024)",
    "output-dim": "width of the cell embedding (default: 512)",
    "gene-embedding-dim": "width of learnt gene embeddings (default: 512)",
}
_SMALL = {
    "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1024,
    "output_dim": 512, "gene_embedding_dim": 512,
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf pretrain`."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="table of the files, .csv or .tsv")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace a training in the folder, and start anew")
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint in the folder")
    parser.add_argument("--initial-model", metavar="M", help="model to go on with; it gets classes for new datasets")

    model = parser.add_argument_group("a new model")
    model.add_argument(
        "--genes", type=Path, metavar="TXT", help="vocabulary, a gene a line (default: the files' genes)"
    )
    model.add_argument(
        "--gene-embeddings", type=Path, metavar="FILE", help=".safetensors with 'gene_embeddings' (default: learnt)"
    )
    for name, text in _SIZES.items():
        model.add_argument(f"--{name}", type=int, metavar="N", help=text)
    model.add_argument("--sentence-length", type=int, metavar="N", help="tokens of a sentence (default: 2048)")
    model.add_argument(
        "--dataset-token", action="store_true", help="tell datasets apart, as the original; cell types lie closer then"
    )
    model.add_argument("--dropout", type=float, metavar="F", help="dropout of the layers (default: 0.1)")

    objective = parser.add_argument_group("the objective")
    objective.add_argument(
        "--loss", choices=("mse", "tabular", "energy", "bce", "kl"), help="of expression (default: mse)"
    )
    objective.add_argument("--expressed", type=int, default=512, metavar="N", help="expressed targets a cell (512)")
    objective.add_argument("--unexpressed", type=int, default=512, metavar="N", help="unexpressed targets a cell (512)")
    objective.add_argument("--shared", type=int, default=256, metavar="N", help="targets a step's cells share (256)")
    objective.add_argument(
        "--hidden-share", type=float, nargs=2, default=(0.2, 0.6), metavar=("LOW", "HIGH"),
        help="share of a cell's genes that the model does not see, drawn between (default: 0.2 0.6; original: 0 0)",
    )  # fmt: skip
    objective.add_argument("--views", type=int, default=1, metavar="N", help="views of a cell, downsampled but one (1)")

    training = parser.add_argument_group("how it is trained")
    training.add_argument("--steps", type=int, metavar="N", help="training steps (default: by --epochs)")
    training.add_argument("--epochs", type=float, default=16, metavar="F", help="passes over the cells (default: 16)")
    training.add_argument("--batch-size", type=int, default=128, metavar="N", help="cells a step and process (128)")
    training.add_argument("--gradient-accumulation", type=int, default=1, metavar="N", help="batches a step (1)")
    training.add_argument("--learning-rate", type=float, default=4e-4, metavar="R", help="peak of AdamW's (4e-4)")
    training.add_argument("--average-decay", type=float, metavar="F", help="keep an average of the weights, as 0.999")
    training.add_argument(
        "--held-out", type=float, default=0.02, metavar="F", help="share of cells to evaluate on (0.02)"
    )
    training.add_argument("--evaluate-every", type=int, default=1000, metavar="N", help="steps (default: 1,000)")
    training.add_argument(
        "--probe", type=as_location, metavar="FILE", help="labelled file for a nearest-neighbour probe"
    )
    training.add_argument("--probe-label", default="cell_type", metavar="NAME", help="its column of obs (cell_type)")
    training.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    training.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    training.add_argument("--torch-compile", action="store_true", help="compile the model")
    training.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read ahead (default: 0)")
    training.add_argument("--lanes", type=int, default=32, metavar="N", help="lanes of the corpus, see the docs (32)")
    training.add_argument(
        "--group-by-length", action="store_true", help="batches of cells with like numbers of genes, with less padding"
    )
    training.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu even if there is a GPU")
    training.add_argument("--report-to", default="none", metavar="NAME", help="tensorboard, wandb, ... (default: none)")
    training.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")


def _training(arguments: argparse.Namespace) -> Any:
    from state_hf.training.state_embedding_arguments import StateEmbeddingTrainingArguments

    return StateEmbeddingTrainingArguments(
        output_dir=str(arguments.output / "checkpoints"),
        max_steps=arguments.steps or -1,
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch_size,
        gradient_accumulation_steps=arguments.gradient_accumulation,
        learning_rate=arguments.learning_rate,
        average_decay=arguments.average_decay,
        eval_strategy="steps" if arguments.held_out else "no",
        eval_steps=arguments.evaluate_every,
        save_steps=arguments.evaluate_every,
        save_total_limit=2,
        expressed_targets=arguments.expressed,
        unexpressed_targets=arguments.unexpressed,
        shared_targets=arguments.shared,
        hidden_share=tuple(arguments.hidden_share),
        views=arguments.views,
        bf16=arguments.bf16,
        activation_checkpointing=arguments.gradient_checkpointing,
        torch_compile=arguments.torch_compile,
        dataloader_num_workers=arguments.workers,
        use_cpu=arguments.device == "cpu",
        report_to=arguments.report_to,
        logging_steps=max(1, min(100, arguments.evaluate_every // 10)),
        seed=arguments.seed,
    )


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    chosen = {name: value for name in _SMALL if (value := getattr(arguments, name)) is not None}
    others = {
        "max_position_embeddings": arguments.sentence_length,
        "hidden_dropout_prob": arguments.dropout,
        "expression_loss": arguments.loss,
        "use_dataset_token": arguments.dataset_token or None,
    }
    chosen |= {name: value for name, value in others.items() if value is not None}
    return chosen if arguments.initial_model else {**_SMALL, **chosen}


def _order(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.group_by_length:
        return {"lanes": arguments.lanes}
    # A batch is one run of a lane: cells of like length, out of a window of some batches.
    batch = arguments.batch_size
    return {"lanes": arguments.lanes, "group_by_length": True, "lane_run": batch, "window_cells": 16 * batch}


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the metrics of the held-out cells."""
    from state_hf.pipelines.pretrain import pretrain

    trained = pretrain(
        arguments.manifest,
        arguments.output,
        training=_training(arguments),
        initial_model=arguments.initial_model,
        genes=arguments.genes,
        gene_embeddings=arguments.gene_embeddings,
        config=_config(arguments),
        corpus=_order(arguments),
        held_out=arguments.held_out,
        probe=arguments.probe,
        probe_label=arguments.probe_label,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    for name, value in trained.metrics.items():
        print(f"{name:<28} {value:.4f}")
    print(f"Wrote {arguments.output}: the model, {trained.model.num_parameters():,} parameters, and its tokenizer")
    return 0
