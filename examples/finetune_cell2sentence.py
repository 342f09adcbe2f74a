"""Teach a causal language model to say the type of a cell, by low-rank changes (LoRA) or as a whole.

python examples/finetune_cell2sentence.py --cells cells.h5ad --model_name_or_path gpt2 --output_dir c2s \
    --num_train_epochs 3 --learning_rate 3e-4 --bf16

`c2s/model` is the language model with a processor of cells beside it: for `state-hf embed`, and for plain transformers.
Held-out cells, and what the model calls them, are in `c2s/labels.csv`, scored beside the most frequent type.
"""

from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

import state_hf
from state_hf import Cell2SentenceProcessor, RankExpressionModel

TASK = "cell_type_prediction"


@dataclass
class CellTypeArguments:
    """The cells, the model, and the size of the changes."""

    cells: str = field(metadata={"help": "An .h5ad file with raw counts."})
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a causal language model."})
    label_key: str = field(default="cell_type", metadata={"help": "Column of obs."})
    num_genes: int = field(default=100, metadata={"help": "Genes of a sentence."})
    test_share: float = field(default=0.2, metadata={"help": "Share of the cells that are held out."})
    lora_rank: int = field(default=16, metadata={"help": "Rank of the changes, scaled by 2; 0 trains all weights."})


def main() -> None:
    """Train, save, and say how many held-out cells are called by their name."""
    parser = HfArgumentParser((CellTypeArguments, TrainingArguments))
    arguments, training = parser.parse_args_into_dataclasses()
    cells = ad.read_h5ad(arguments.cells)
    labels = cells.obs[arguments.label_key].astype(str).to_numpy()
    processor = Cell2SentenceProcessor(
        AutoTokenizer.from_pretrained(arguments.model_name_or_path),
        list(cells.var_names),
        num_genes=arguments.num_genes,
        labels=sorted(set(labels)),
        task=TASK,
    )
    model = AutoModelForCausalLM.from_pretrained(arguments.model_name_or_path)
    model.config.pad_token_id = processor.tokenizer.pad_token_id
    length = model.config.get_text_config().max_position_embeddings

    sentences = np.array(processor.sentences(cells, seed=training.seed))
    order = np.random.default_rng(training.seed).permutation(len(labels))
    test, train = np.split(order, [round(arguments.test_share * len(labels))])
    processor.expression = RankExpressionModel.fit(cells.X[np.sort(train)], seed=training.seed)
    pairs = processor.examples(TASK, sentences[train].tolist(), seed=training.seed, cell_type=labels[train])
    if arguments.lora_rank:
        from peft import LoraConfig, TaskType, get_peft_model

        changes = LoraConfig(TaskType.CAUSAL_LM, r=arguments.lora_rank, lora_alpha=2 * arguments.lora_rank)
        model = get_peft_model(model, changes)
        model.print_trainable_parameters()
    folder = Path(str(training.output_dir))
    training.output_dir = str(folder / "checkpoints")
    trainer = Trainer(
        model,
        training,
        train_dataset=processor.encode_training(pairs, max_length=length),
        data_collator=DataCollatorForSeq2Seq(processor.tokenizer),
    )
    trainer.train()
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if arguments.lora_rank:
            trained.save_pretrained(folder / "adapter")
            trained = trained.merge_and_unload()
        trained.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        cells[np.sort(test)].copy().write_h5ad(folder / "held_out.h5ad")
    # All processes label the cells together.
    trainer.accelerator.wait_for_everyone()
    table = state_hf.annotate(
        folder / "held_out.h5ad",
        folder / "labels.csv",
        model=folder / "model",
        label_key=arguments.label_key,
        overwrite=True,
    )
    if not trainer.is_world_process_zero():
        return
    found, truth = table.iloc[:, 0].to_numpy(), labels[np.sort(test)]
    names, counts = np.unique(labels[train], return_counts=True)
    right, majority = (found == truth).mean(), (names[counts.argmax()] == truth).mean()
    print(f"{folder / 'model'}: {right:.1%} of {len(test):,} held-out cells are called by their name,")
    unknown = (found == "unknown").mean()
    print(f"{unknown:.1%} by none of the {len(names)}; the most frequent type is {majority:.1%} of them")


if __name__ == "__main__":
    main()
