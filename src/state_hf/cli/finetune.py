"""Fine-tune a model on labelled cells: classes or numbers, the whole model, its last layers, a head, or LoRA.

The folder receives the classifier, the scores of the held-out cells beside those of simple baselines, the confusion
matrix, the predictions, and how all of it was made. `state-hf annotate --model DIR` uses it on other files.

examples:
  state-hf finetune reference.h5ad --model SE-600M --label-key cell_type --output classifier
  state-hf finetune reference.h5ad --model SE-600M --group-key donor --trained lora --output classifier
  state-hf finetune reference.h5ad --model SE-600M --task regression --label-key age --output clock
"""

import argparse
from pathlib import Path

from state_hf.cli.cell_options import add_reading_options, natural
from state_hf.cli.library_log import told_on_stderr
from state_hf.configuration.advice import refuse_existing
from state_hf.data.cells.locations import CELL_FORMATS, as_location


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf finetune`."""
    parser.add_argument("reference", type=as_location, metavar="REFERENCE", help=f"labelled cells: {CELL_FORMATS}")
    parser.add_argument("--model", required=True, metavar="M", help="folder or hub id of the model to start from")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the fine-tuned model")
    parser.add_argument("--report", type=Path, metavar="FILE", help="HTML file for a page of the scores")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists, and drop an unfinished run")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run; keep a complete output")

    labels = parser.add_argument_group("what is learnt, and from which cells")
    labels.add_argument("--label-key", default="cell_type", metavar="NAME", help="column of obs (default: cell_type)")
    labels.add_argument(
        "--task", choices=("classification", "regression"), default="classification", help="(default: classification)"
    )
    labels.add_argument(
        "--group-key",
        metavar="NAME",
        help="column of obs, such as donor, whose groups stay on one side of the split (default: cells at random)",
    )
    labels.add_argument(
        "--val-share", type=float, default=0.1, metavar="F", help="share that chooses the checkpoint (default: 0.1)"
    )
    labels.add_argument("--test-share", type=float, default=0.2, metavar="F", help="share to score (default: 0.2)")
    labels.add_argument(
        "--no-class-weights",
        dest="class_weights",
        action="store_false",
        help="let large classes weigh more (default: every class weighs the same)",
    )

    training = parser.add_argument_group("how it is trained")
    training.add_argument(
        "--trained",
        choices=("all", "last", "head", "lora"),
        default="all",
        help="all weights, the last layers and the head, the head alone, or low-rank changes (default: all)",
    )
    training.add_argument("--layers", type=int, default=2, metavar="N", help="how many last layers (default: 2)")
    training.add_argument("--lora-rank", type=int, default=8, metavar="R", help="rank of the changes (default: 8)")
    training.add_argument(
        "--trials",
        type=natural,
        default=0,
        metavar="N",
        help="search for the training's settings in N others (needs optuna)",
    )
    training.add_argument("--epochs", type=float, default=10, metavar="N", help="most passes (default: 10)")
    training.add_argument(
        "--learning-rate",
        type=float,
        metavar="R",
        help="of AdamW (default: 5e-5 for all weights, 1e-4 last, 1e-3 head, 3e-4 lora)",
    )
    training.add_argument("--batch-size", type=int, default=16, metavar="N", help="cells a step (default: 16)")
    training.add_argument(
        "--patience", type=int, default=3, metavar="N", help="stop after N epochs without improvement (default: 3)"
    )
    training.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    training.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu even if there is a GPU")
    training.add_argument("--seed", type=natural, default=0, help="of the split, the head and the order (default: 0)")
    add_reading_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, and print the split and the scores."""
    from state_hf.pipelines.finetune import finetune
    from state_hf.reporting.finetuning_report import write_finetuning_report

    options = vars(arguments).copy()
    reference, output, report = (options.pop(name) for name in ("reference", "output", "report"))
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report names an .html file, not {report.name!r}")
    if report is not None:
        refuse_existing(report, overwrite=arguments.overwrite or arguments.resume)
    with told_on_stderr():
        tuned = finetune(reference, output, **options)
    print(tuned)
    written = f"Wrote {output}"
    if report is not None:
        written += f", report {write_finetuning_report(tuned, report)}"
    print(written)
    return 0
