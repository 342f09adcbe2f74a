"""Pretrain a Geneformer on your own cells: medians, masked genes, embeddings, and classes of genes if you have some.

python examples/pretrain_geneformer.py --manifest corpus.csv --cells cells.h5ad --folder mine --steps 2000
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

import state_hf
from state_hf.training.masked_genes import MaskedGeneTrainingArguments


@dataclass
class PretrainArguments:
    """What is learnt from, and how large the model is."""

    manifest: str = field(metadata={"help": "Table of the files, see docs/pretraining.md."})
    cells: str = field(metadata={"help": "An .h5ad file with raw counts, to embed."})
    folder: str = field(default="geneformer", metadata={"help": "Folder for tokenizer, model and embeddings."})
    gene_labels: str | None = field(default=None, metadata={"help": "Table of genes and their classes."})
    steps: int = field(default=2000, metadata={"help": "Training steps."})
    batch_size: int = field(default=12, metadata={"help": "Cells a step."})
    hidden_size: int = field(default=256, metadata={"help": "Width; the published models have 256 to 1,152."})
    layers: int = field(default=6, metadata={"help": "Layers."})
    tokens: int = field(default=2048, metadata={"help": "Most tokens of a cell."})
    use_cpu: bool = field(default=False, metadata={"help": "The processor, even if there is a GPU."})


def main() -> None:
    """Run the example."""
    (arguments,) = HfArgumentParser(PretrainArguments).parse_args_into_dataclasses()
    folder = Path(arguments.folder)
    fitted = state_hf.fit_medians(
        arguments.manifest, folder / "tokenizer", family="geneformer", max_length=arguments.tokens
    )
    print(fitted)
    trained = state_hf.pretrain(
        arguments.manifest,
        folder / "model",
        tokenizer=folder / "tokenizer",
        training=MaskedGeneTrainingArguments(
            output_dir=str(folder),
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            use_cpu=arguments.use_cpu,
            report_to="none",
        ),
        config={
            "hidden_size": arguments.hidden_size,
            "num_hidden_layers": arguments.layers,
            "num_attention_heads": max(1, arguments.hidden_size // 64),
            "intermediate_size": 2 * arguments.hidden_size,
        },
        held_out=0.1,
    )
    print(f"loss of hidden genes of held-out cells: {trained.metrics['eval_loss']:.3f}")
    state_hf.embed(arguments.cells, trained.folder, output=folder / "embedded.h5ad")
    if arguments.gene_labels is not None:
        device = "cpu" if arguments.use_cpu else "auto"
        options = {"model": trained.folder, "gene_labels": arguments.gene_labels, "device": device}
        print(state_hf.finetune_genes(arguments.cells, folder / "genes", folds=2, **options))


if __name__ == "__main__":
    main()
