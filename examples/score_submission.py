"""Score predicted cells against measured ones by the rules of the Virtual Cell Challenge, and write a report.

python examples/score_submission.py --predicted predicted.h5ad --measured measured.h5ad --output_dir scores

With --output_dir MODEL/evaluation, the scores become part of the model's card.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

import state_hf


@dataclass
class ScoreArguments:
    """What to score, and how."""

    predicted: str = field(metadata={"help": "An .h5ad file of predicted cells."})
    measured: str = field(metadata={"help": "An .h5ad file of measured cells."})
    profile: str = field(default="vcc2026", metadata={"help": "The rule: vcc2025, vcc2025-primer, vcc2026 or full."})
    perturbation_key: str = field(default="perturbation", metadata={"help": "Column of obs with the perturbations."})
    control: str = field(default="non-targeting", metadata={"help": "Label of control cells."})
    baseline: str = field(default="mean", metadata={"help": "What 0 stands for: 'mean', 'control', or an .h5ad file."})
    output_dir: str = field(default="scores", metadata={"help": "Folder for the tables and the report."})


def main() -> None:
    """Score, save, and print the table."""
    (arguments,) = HfArgumentParser(ScoreArguments).parse_args_into_dataclasses()
    result = state_hf.evaluate_predictions(
        arguments.predicted,
        arguments.measured,
        profile=arguments.profile,
        perturbation_key=arguments.perturbation_key,
        control=arguments.control,
        baseline=arguments.baseline,
    )
    folder = Path(arguments.output_dir)
    result.save(folder)
    state_hf.write_evaluation_report(result, folder / "report.html")
    if folder.name == "evaluation":
        state_hf.write_model_card(folder.parent)
    print(result.scores.round(4).to_string())
    print(f"\nLook at {folder / 'report.html'}.")


if __name__ == "__main__":
    main()
