"""Take a trained State Transition model to a new screen by training low-rank changes of its attention (LoRA).

python examples/lora_state_transition.py --screen screen.h5ad --model_name_or_path model --output_dir lora \
    --max_steps 1000 --rank 16

`lora/adapter` holds the changes alone (a few per cent of the weights), `lora/model` the model with the changes merged
in, which loads like any other.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from state_hf import (
    PerturbationDataset,
    PerturbationVocabulary,
    StateTransitionForPerturbation,
    StateTransitionTrainer,
    StateTransitionTrainingArguments,
    open_screens,
)
from state_hf.training.transfer import add_lora, replace_perturbations


@dataclass
class LoraArguments:
    """The screen, the model, and the size of the changes."""

    screen: str = field(metadata={"help": "An .h5ad file with the features that the model reads."})
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a trained model."})
    perturbation_key: str = field(default="perturbation", metadata={"help": "Column of obs."})
    control: str = field(default="non-targeting", metadata={"help": "Label of control cells."})
    cell_type_key: str = field(default="cell_type", metadata={"help": "Column of obs."})
    rank: int = field(default=16, metadata={"help": "Rank of the changes; they are scaled by 2."})


def main() -> None:
    """Train the changes, and save them alone and merged."""
    parser = HfArgumentParser((LoraArguments, StateTransitionTrainingArguments))
    arguments, training = parser.parse_args_into_dataclasses()
    model = StateTransitionForPerturbation.from_pretrained(arguments.model_name_or_path)
    screens = open_screens(
        arguments.screen,
        perturbation_key=arguments.perturbation_key,
        control=arguments.control,
        cell_type_key=arguments.cell_type_key,
    )
    key = model.config.feature_key
    slot = key if key == "X" or "/" in key else f"obsm/{key}"
    sets = PerturbationDataset(screens, features=slot, set_size=model.config.cell_set_length, seed=training.seed)
    # The perturbations are the screen's: those that the model knows keep what it learnt of them.
    names = (screens.perturbations, screens.control, screens.batches, screens.cell_types, sets.target_names or ())
    replace_perturbations(model, PerturbationVocabulary(*names))
    adapted = add_lora(model, rank=arguments.rank, alpha=2 * arguments.rank)
    adapted.print_trainable_parameters()

    folder = Path(str(training.output_dir))
    training.output_dir = str(folder / "checkpoints")
    trainer = StateTransitionTrainer(adapted, training, train_dataset=sets)
    trainer.train()
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        trained.save_pretrained(folder / "adapter")
        trained.merge_and_unload().save_pretrained(folder / "model")
        print(f"{folder}: the changes are in adapter, the whole model is in model")


if __name__ == "__main__":
    main()
