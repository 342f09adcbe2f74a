"""The options of every command that runs a model over cells: what is read, how it is tokenized, how it is computed."""

import argparse
from typing import Any


def batch_size(text: str) -> int | str:
    """The value of --batch-size."""
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'auto' nor a whole number from 1 on")
    return text if text == "auto" else int(text)


def natural(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def chosen_values(conditions: list[str] | None) -> dict[str, list[str]] | None:
    """The conditions KEY=VALUE as column -> values; of one column, any of its values will do.

    Raises:
        ValueError: One is none.
    """
    if conditions is None:
        return None
    chosen: dict[str, list[str]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--where {condition!r} is not KEY=VALUE")
        chosen.setdefault(key, []).append(value)
    return chosen


def add_reading_options(parser: argparse.ArgumentParser) -> Any:
    """Declare which matrix and which genes are read. Returns the group of options."""
    reading = parser.add_argument_group("what is read")
    reading.add_argument("--layer", help="layer to read, or 'raw' (default: X)")
    reading.add_argument(
        "--gene-column", metavar="NAME", help="column of var with the gene names (default: best match)"
    )
    reading.add_argument(
        "--input-type",
        choices=("counts", "log1p", "auto"),
        default="counts",
        help="what the values are; 'auto' decides by a sample and says so (default: counts)",
    )
    return reading


def add_computing_options(parser: argparse.ArgumentParser) -> None:
    """Declare how cells are tokenized, and where and in which batches the model runs."""
    tokens = parser.add_argument_group("how cells become tokens")
    tokens.add_argument(
        "--fill",
        choices=("seeded", "original", "none"),
        help="of State Embedding: what fills a sentence longer than a cell's expressed genes: unexpressed genes in a "
        "fixed order, in a random one for every cell like the original, or nothing, which is faster (default: as the "
        "model was trained)",
    )
    tokens.add_argument("--seed", type=natural, default=0, help="seed of the tokenizer's random choices (default: 0)")

    speed = parser.add_argument_group("how it is computed")
    speed.add_argument(
        "--batch-size", type=batch_size, default="auto", metavar="N", help="cells at once (default: auto, by memory)"
    )
    speed.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision (default: the checkpoint's; on the CPU, float32)",
    )
    speed.add_argument("--device", help="cuda, cuda:1, mps, cpu, ... (default: the first of these that there is)")
    speed.add_argument(
        "--workers", type=natural, default=1, metavar="N", help="threads that tokenize ahead of the model (default: 1)"
    )


__all__ = ["add_computing_options", "add_reading_options", "batch_size", "chosen_values", "natural"]
