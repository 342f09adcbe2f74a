"""Turn a checkpoint of arc-state into a model folder, look at it, and push it to the Hub with its card.

python examples/convert_checkpoint.py --source runs/st-hvg --output_dir st-hvg --genes screen.h5ad
python examples/convert_checkpoint.py --source arcinstitute/SE-600M --checkpoint se600m_epoch16.ckpt --output_dir se \
    --repo_id someone/se-600m --private

Nothing of the checkpoint is run. Without --repo_id nothing is pushed. The licence of the weights goes with them.
"""

from dataclasses import dataclass, field

from transformers import AutoModelForPreTraining, HfArgumentParser

import state_hf


@dataclass
class CheckpointArguments:
    """The checkpoint, what it may not tell of itself, and where the model goes."""

    source: str = field(metadata={"help": "A .ckpt file, a run's folder, or the id of a repository on the Hub."})
    output_dir: str = field(metadata={"help": "Folder to make."})
    checkpoint: str | None = field(default=None, metadata={"help": "Which of a folder's checkpoints."})
    subfolder: str | None = field(default=None, metadata={"help": "Folder of the run within the repository."})
    genes: str | None = field(default=None, metadata={"help": "Names of the genes: one a line, or an .h5ad."})
    attention: str | None = field(default=None, metadata={"help": "bidirectional or causal; default: as it was."})
    positions: str | None = field(default=None, metadata={"help": "none or rotary; default: as it was."})
    repo_id: str | None = field(default=None, metadata={"help": "Repository on the Hub to push to."})
    private: bool = field(default=False, metadata={"help": "Whether a new repository is private."})


def main() -> None:
    """Convert, load, and push."""
    (arguments,) = HfArgumentParser(CheckpointArguments).parse_args_into_dataclasses()
    options = {
        name: getattr(arguments, name)
        for name in ("checkpoint", "subfolder", "genes", "attention", "positions")
        if getattr(arguments, name) is not None
    }
    converted = state_hf.convert(arguments.source, arguments.output_dir, **options)
    print("\n".join(converted.notes))
    print(state_hf.inspect(arguments.output_dir))
    model = AutoModelForPreTraining.from_pretrained(arguments.output_dir)
    print(f"{type(model).__name__}: {model.num_parameters():,} parameters, ready in {arguments.output_dir}")
    if arguments.repo_id is not None:
        pushed = state_hf.push_folder(arguments.output_dir, arguments.repo_id, private=arguments.private)
        print(f"pushed: {pushed.commit_url}")


if __name__ == "__main__":
    main()
