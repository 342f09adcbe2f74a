"""Fine-tune a State Transition model on a perturbation screen, compare it with the baselines, and push it to the Hub.

python examples/finetune_and_push.py --screen screen.h5ad --model_name_or_path model --test_cell_types K562 \
    --output_dir tuned --max_steps 2000 --repo_id someone/tuned --private

Without --repo_id nothing is pushed. Without --model_name_or_path a new model is trained. The repository gets the
model, its names, the split, the table of scores and the baselines, and a card that tells of all of them.
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

import state_hf
from state_hf import StateTransitionTrainingArguments, open_screens
from state_hf.data.screens.split_definition import zeroshot_split


@dataclass
class ScreenArguments:
    """The screen, the model to start from, and where the result goes."""

    screen: str = field(metadata={"help": "An .h5ad file of log1p-normalised expression (state-hf preprocess)."})
    test_cell_types: list[str] = field(metadata={"help": "Cell types that are held out and scored."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or hub id of a trained model."})
    feature_key: str = field(default="X", metadata={"help": "X, a key of obsm, or layers/NAME."})
    perturbation_key: str = field(default="perturbation", metadata={"help": "Column of obs."})
    control: str = field(default="non-targeting", metadata={"help": "Label of control cells."})
    cell_type_key: str = field(default="cell_type", metadata={"help": "Column of obs."})
    hidden_size: int = field(default=256, metadata={"help": "Width of a new model."})
    repo_id: str | None = field(default=None, metadata={"help": "Repository on the Hub to push to."})
    private: bool = field(default=False, metadata={"help": "Whether a new repository is private."})


def main() -> None:
    """Train, score, and push."""
    parser = HfArgumentParser((ScreenArguments, StateTransitionTrainingArguments))
    arguments, training = parser.parse_args_into_dataclasses()
    labels = {name: getattr(arguments, name) for name in ("perturbation_key", "control", "cell_type_key")}
    split = zeroshot_split(open_screens(arguments.screen, **labels), test=arguments.test_cell_types)
    hidden = arguments.hidden_size
    sizes = {"hidden_size": hidden, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 4 * hidden}
    trained = state_hf.train(
        arguments.screen,
        str(training.output_dir),
        split=split,
        training=training,
        config=None if arguments.model_name_or_path else sizes,
        initial_model=arguments.model_name_or_path,
        feature_key=arguments.feature_key,
        **labels,
    )
    print(trained)
    if arguments.repo_id is not None:
        pushed = state_hf.push_folder(trained.folder, arguments.repo_id, private=arguments.private)
        print(f"pushed: {pushed.commit_url}")


if __name__ == "__main__":
    main()
