"""Say what a checkpoint or model is: kind, sizes, vocabulary, expected input, attention mode, and what is missing.

No weight is loaded, and no code of a checkpoint is run. A checkpoint of arc-state on the Hub is downloaded into the
cache, where `state-hf convert` finds it; of a model there, names and headers are read.

examples:
  state-hf inspect se600m.ckpt
  state-hf inspect runs/st-hvg
  state-hf inspect owner/model
  state-hf inspect owner/runs --subfolder fewshot/k562 --checkpoint final.ckpt
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf inspect`."""
    parser.add_argument("source", metavar="PATH|ID", help="checkpoint, run folder, model folder, or hub id")
    parser.add_argument("--checkpoint", metavar="NAME", help="which of a folder's checkpoints (default: final.ckpt)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a repository on the Hub")
    parser.add_argument("--subfolder", metavar="FOLDER", help="folder of the run within a repository on the Hub")


def run(arguments: argparse.Namespace) -> int:
    """Inspect, and print what was found."""
    from state_hf.cli import convert, options_of
    from state_hf.configuration.advice import in_options
    from state_hf.conversion.inspection import inspect

    # What is missing is to be given to the command that comes next.
    parser = argparse.ArgumentParser()
    convert.configure(parser)
    print(in_options(str(inspect(**vars(arguments))), options_of(parser, parser.parse_args(["source", "output"]))))
    return 0
