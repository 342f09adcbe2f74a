"""Pretrain a model on the files of a manifest, or go on with one.

A new model is a State Embedding, or of the family of the tokenizer that it is made for (as of `state-hf medians`).

The manifest is a .csv or .tsv with the column path, and if needed dataset, species, gene_column, scale and layer;
`state-hf corpus` checks it. The folder receives the model, its tokenizer and the checkpoints.

a small model with learnt gene embeddings, on a CPU:
  state-hf pretrain corpus.csv --output model --hidden-size 128 --num-hidden-layers 3 --steps 2000 --device cpu

a Geneformer, for a tokenizer with the medians of the files:
  state-hf pretrain corpus.csv --tokenizer tokenizer --output model --group-by-length --bf16

go on with a converted checkpoint on your own atlas:
  state-hf pretrain atlas.csv --initial-model SE-600M --output model --learning-rate 1e-5 --bf16

eight GPUs; add --config_file for FSDP2:
  accelerate launch --num_processes 8 -m state_hf pretrain corpus.csv --output model --bf16 --workers 4 --lanes 512
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from state_hf.data.cells.locations import as_location

_SIZES = {
    "hidden-size": "width (default: 512; of masked genes 256)",
    "num-hidden-layers": "layers (default: 8; 6)",
    "num-attention-heads": "attention heads (default: 8; 4)",
    "intermediate-size": "width of a layer's feed-forward block (default: 1024; 512)",
    "output-dim": "width of the cell embedding of masked expression (default: 512)",
    "gene-embedding-dim": "width of its learnt gene embeddings (default: 512)",
}
_SMALL = {
    "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1024,
    "output_dim": 512, "gene_embedding_dim": 512,
}  # fmt: skip
# Option -> field of the training's arguments; a family's arguments have those of its own objective.
_OBJECTIVE = {
    "expressed": "expressed_targets", "unexpressed": "unexpressed_targets", "shared": "shared_targets",
    "hidden_share": "hidden_share", "views": "views", "mask_share": "mask_share",
    "batch_size": "per_device_train_batch_size", "learning_rate": "learning_rate",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf pretrain`."""
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="table of the files, .csv or .tsv")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace a training in the folder, and start anew")
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint in the folder")
    parser.add_argument("--initial-model", metavar="M", help="model to go on with; it gets classes for new datasets")

    model = parser.add_argument_group("a new model")
    model.add_argument("--tokenizer", metavar="M", help="tokenizer that it is made for, whose family is the model's")
    model.add_argument(
        "--genes", type=Path, metavar="TXT", help="vocabulary, a gene a line (default: the files' genes)"
    )
    model.add_argument(
        "--gene-embeddings", type=Path, metavar="FILE", help=".safetensors with 'gene_embeddings' (default: learnt)"
    )
    for name, text in _SIZES.items():
        model.add_argument(f"--{name}", type=int, metavar="N", help=text)
    model.add_argument(
        "--sentence-length", type=int, metavar="N", help="tokens of a cell (default: the tokenizer's, or 2048)"
    )
    model.add_argument(
        "--dataset-token", action="store_true", help="tell datasets apart, as the original; cell types lie closer then"
    )
    model.add_argument("--dropout", type=float, metavar="F", help="dropout of the layers (default: 0.1)")

    expression = parser.add_argument_group("the objective: masked expression (State Embedding)")
    expression.add_argument(
        "--loss", choices=("mse", "tabular", "energy", "bce", "kl"), help="of expression (default: mse)"
    )
    expression.add_argument("--expressed", type=int, metavar="N", help="expressed targets a cell (default: 512)")
    expression.add_argument("--unexpressed", type=int, metavar="N", help="unexpressed targets a cell (default: 512)")
    expression.add_argument("--shared", type=int, metavar="N", help="targets a step's cells share (default: 256)")
    expression.add_argument(
        "--hidden-share", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="share of a cell's genes that the model does not see, drawn between (default: 0.2 0.6; original: 0 0)",
    )  # fmt: skip
    expression.add_argument("--views", type=int, metavar="N", help="views of a cell, downsampled but one (default: 1)")

    masked = parser.add_argument_group("the objective: masked genes (Geneformer)")
    masked.add_argument("--mask-share", type=float, metavar="F", help="share of a cell's genes to predict (0.15)")

    training = parser.add_argument_group("how it is trained")
    training.add_argument("--steps", type=int, metavar="N", help="training steps (default: by --epochs)")
    training.add_argument(
        "--epochs", type=float, metavar="F", help="passes over the cells (default: 16; of masked genes 3)"
    )
    training.add_argument(
        "--batch-size", type=int, metavar="N", help="cells a step and process (128; of masked genes 12)"
    )
    training.add_argument("--gradient-accumulation", type=int, default=1, metavar="N", help="batches a step (1)")
    training.add_argument(
        "--learning-rate", type=float, metavar="R", help="peak of AdamW's (4e-4; of masked genes 1e-3)"
    )
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


def _training(arguments: argparse.Namespace, objective: Any) -> Any:
    fields = {field.name for field in dataclasses.fields(objective.arguments)}
    given = {name: value for name in _OBJECTIVE if (value := getattr(arguments, name)) is not None}
    foreign = [f"--{name.replace('_', '-')}" for name in given if _OBJECTIVE[name] not in fields]
    if foreign:
        raise ValueError(f"{', '.join(foreign)} is of another family's objective: leave it out")
    return objective.arguments(
        output_dir=str(arguments.output / "checkpoints"),
        max_steps=arguments.steps or -1,
        num_train_epochs=objective.epochs if arguments.epochs is None else arguments.epochs,
        gradient_accumulation_steps=arguments.gradient_accumulation,
        average_decay=arguments.average_decay,
        eval_strategy="steps" if arguments.held_out else "no",
        eval_steps=arguments.evaluate_every,
        save_steps=arguments.evaluate_every,
        save_total_limit=2,
        bf16=arguments.bf16,
        activation_checkpointing=arguments.gradient_checkpointing,
        torch_compile=arguments.torch_compile,
        dataloader_num_workers=arguments.workers,
        use_cpu=arguments.device == "cpu",
        report_to=arguments.report_to,
        logging_steps=max(1, min(100, arguments.evaluate_every // 10)),
        seed=arguments.seed,
        **{_OBJECTIVE[name]: tuple(value) if isinstance(value, list) else value for name, value in given.items()},
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
    # A family that is named by its model or tokenizer has sizes of its own.
    return chosen if arguments.initial_model or arguments.tokenizer else {**_SMALL, **chosen}


def _order(arguments: argparse.Namespace, training: Any) -> dict[str, Any]:
    if not arguments.group_by_length:
        return {"lanes": arguments.lanes}
    # A batch is one run of a lane: cells of like length, out of a window of some batches.
    batch = training.per_device_train_batch_size
    return {"lanes": arguments.lanes, "group_by_length": True, "lane_run": batch, "window_cells": 16 * batch}


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the metrics of the held-out cells."""
    from state_hf.pipelines.pretrain import pretrain
    from state_hf.training.pretraining_objective import objective_for

    objective, _ = objective_for(arguments.initial_model or arguments.tokenizer)
    training = _training(arguments, objective)
    trained = pretrain(
        arguments.manifest,
        arguments.output,
        training=training,
        initial_model=arguments.initial_model,
        tokenizer=arguments.tokenizer,
        genes=arguments.genes,
        gene_embeddings=arguments.gene_embeddings,
        config=_config(arguments),
        corpus=_order(arguments, training),
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
