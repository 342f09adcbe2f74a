"""Say what a checkpoint or model is: kind, sizes, vocabulary, expected input, attention mode, and what is missing.

No weight is loaded, and no code of a checkpoint is run.

examples:
  state-hf inspect se600m.ckpt
  state-hf inspect runs/st-hvg
  state-hf inspect owner/model
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf inspect`."""
    parser.add_argument("source", metavar="PATH|ID", help="checkpoint, run folder, model folder, or hub id")
    parser.add_argument("--checkpoint", metavar="NAME", help="which of a folder's checkpoints (default: final.ckpt)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")


def run(arguments: argparse.Namespace) -> int:
    """Inspect, and print what was found."""
    from state_hf.conversion.inspection import inspect

    print(inspect(arguments.source, checkpoint=arguments.checkpoint, revision=arguments.revision))
    return 0
