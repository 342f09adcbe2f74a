"""The `state-hf` command: one file a sub-command, each with `configure(parser)` and `run(arguments)`."""

import argparse
import gc
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from state_hf._version import __version__
from state_hf.configuration.advice import told
from state_hf.configuration.near_names import near_names

_COMMANDS = {
    "embed": "embed the cells of .h5ad files with a State Embedding model",
    "preprocess": "normalise counts, choose variable genes, check knock-downs",
    "train": "train a State Transition model on a screen, with baselines",
    "predict": "predict perturbed cells from control cells",
    "corpus": "check the files that a model is to be pretrained on",
    "pretrain": "pretrain a model on a corpus, or go on with one",
    "tokenize": "write a tokenised Parquet copy of a corpus",
    "medians": "take the medians that genes are ranked by over a corpus, and write the tokenizer",
    "perturb": "perturb genes in silico, beside random genes of like expression",
    "annotate": "label cells by a labelled reference, a trained classifier, or what a model writes",
    "generate": "let a language model write cells of given types",
    "network": "make a network of genes from embeddings, states or attentions",
    "finetune": "fine-tune a model on labelled cells, beside simple baselines",
    "finetune-genes": "fine-tune a model to tell classes of genes apart, held out gene by gene",
    "convert": "turn a checkpoint of arc-state into a model folder, or back",
    "inspect": "say what a checkpoint or model is, without loading its weights",
    "embed-genes": "compute a gene table from protein sequences",
    "genes": "make the gene alias table of a model folder, or give a model more genes",
    "push": "push a model's folder to the Hugging Face Hub, with its card",
    "evaluate": "score a prediction against measured cells",
    "prep": "make or check a submission file of the Virtual Cell Challenge",
    "doctor": "print versions, devices and optional parts, and how to get what is missing",
}


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in _COMMANDS.items())
    return (
        "usage: state-hf COMMAND ...\n\nThe virtual cell in the Hugging Face ecosystem.\n\n"
        f"commands:\n{commands}\n\n'state-hf COMMAND --help' describes one; 'state-hf --version' prints the version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command. Returns the exit status: 0, 2 (wrong usage or input), or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"state-hf {__version__}")
        return 0
    name = arguments[0]
    if name not in _COMMANDS:
        close = near_names(name, _COMMANDS)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        print(f"state-hf: there is no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"state_hf.cli.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"state-hf {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.configure(parser)
    parsed = parser.parse_args(arguments[1:])
    was_in_group = _in_group()
    try:
        with _first_process_prints():
            return command.run(parsed) or 0
    except KeyboardInterrupt:
        print(f"state-hf {name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"state-hf {name}: {told(error, options_of(parser, parsed))}", file=sys.stderr)
        return 2
    finally:
        # A process that ends while threads of its group still let go of tensors is aborted, with all its work done.
        # The threads end with the group, and the group with the last object that holds it.
        if not was_in_group and _in_group():
            gc.collect()
            sys.modules["torch"].distributed.destroy_process_group()


@contextmanager
def _first_process_prints() -> Iterator[None]:
    """Of the processes that a command is launched in, all have its results, and one says them."""
    if int(os.environ.get("RANK", "0")) == 0:
        yield
        return
    with redirect_stdout(io.StringIO()):
        yield


def _in_group() -> bool:
    """Whether this process has joined those that were launched with it. torch is not loaded for the question."""
    distributed = sys.modules["torch"].distributed if "torch" in sys.modules else None
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def options_of(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> dict[str, str]:
    """What the arguments of the library are called here: argument -> option, of those that the command has."""
    # argparse tells nowhere else what it was given.
    actions = list(parser._actions)
    for action in parser._actions:
        if isinstance(action.choices, dict):
            actions += [inner for command in action.choices.values() for inner in command._actions]
    return {
        action.dest: max(action.option_strings, key=len)
        for action in actions
        if action.option_strings and hasattr(parsed, action.dest)
    }
