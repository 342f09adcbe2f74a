"""Turn a checkpoint of arc-state into a model folder of safetensors, configuration and names; or back.

No code of a checkpoint is run: what is not data is refused. Every weight is accounted for, and every decision said.

examples:
  state-hf convert se600m.ckpt se-600m
  state-hf convert arcinstitute/SE-600M se-600m --checkpoint se600m_epoch16.ckpt
  state-hf convert runs/st-hvg st-hvg --genes screen.h5ad
  state-hf convert runs/old st-old --attention bidirectional --positions none
  state-hf convert st-hvg run-for-arc --to arc
"""

import argparse
from pathlib import Path

_SIZES = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def _bytes(text: str) -> int:
    unit = next((unit for unit in _SIZES if text.upper().endswith(unit)), None)
    if unit is None or not text[:-2].strip().isdigit() or int(text[:-2]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 5GB or 500MB")
    return int(text[:-2]) * _SIZES[unit]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `state-hf convert`."""
    parser.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        help="checkpoint (.ckpt, .safetensors), folder of a run or model, or id of a repository on the Hub",
    )
    parser.add_argument(
        "output", metavar="DST", type=Path, help="what to write: a folder, or with --to arc a .ckpt (SE)"
    )
    parser.add_argument("--to", choices=("hf", "arc"), default="hf", help="arc: back into a checkpoint of arc-state")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a repository on the Hub")
    parser.add_argument("--subfolder", metavar="FOLDER", help="folder of the run within a repository on the Hub")
    parser.add_argument("--checkpoint", metavar="NAME", help="which of a folder's checkpoints (default: final.ckpt)")
    parser.add_argument(
        "--genes",
        type=Path,
        metavar="FILE",
        help="names of the genes (where weights go by them, in order), where SRC has none: one a line, or an .h5ad",
    )
    parser.add_argument("--unnamed-genes", action="store_true", help="go without names of genes")
    parser.add_argument(
        "--dictionaries",
        type=Path,
        metavar="FOLDER",
        help="where the original keeps what is not in its weights: vocabularies, medians, names (default: beside SRC)",
    )
    parser.add_argument("--max-shard-size", type=_bytes, metavar="SIZE", help="most of a weight file (default: 5GB)")

    embedding = parser.add_argument_group("State Embedding")
    embedding.add_argument(
        "--gene-embeddings", type=Path, metavar="FILE", help="gene table, where SRC has none: a protein_embeddings.pt"
    )
    sentences = parser.add_argument_group("Cell2Sentence")
    sentences.add_argument("--templates", type=Path, metavar="FILE", help="JSON of prompts by task (default: ours)")
    sentences.add_argument(
        "--labels", type=Path, metavar="FILE", help="cell types that the model answers with, one a line"
    )
    transition = parser.add_argument_group("State Transition")
    transition.add_argument(
        "--perturbations", type=Path, metavar="FILE", help="names of the perturbations in order, where SRC has none"
    )
    transition.add_argument(
        "--state-embedding",
        metavar="SE",
        help="model whose decoder a run reuses (finetune_vci_decoder): checkpoint, folder, or hub id",
    )
    transition.add_argument(
        "--attention", choices=("bidirectional", "causal"), help="default: as arc-state 0.11.1 loads the checkpoint"
    )
    transition.add_argument(
        "--positions", choices=("none", "rotary"), help="default: as arc-state 0.11.1 loads the checkpoint"
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say what was decided and written."""
    from state_hf.conversion.arc_state.to_arc import convert_to_arc
    from state_hf.conversion.convert import convert

    options = vars(arguments).copy()
    source, output, target = options.pop("source"), options.pop("output"), options.pop("to")
    options = {name: value for name, value in options.items() if value not in (None, False)}
    if target == "arc":
        overwrite = options.pop("overwrite", False)
        if options:
            raise ValueError(f"--{next(iter(options)).replace('_', '-')} has no meaning with --to arc.")
        path = convert_to_arc(source, output, overwrite=overwrite)
        print(f"Wrote {path}, a checkpoint for arc-state 0.11.1")
        return 0
    if "max_shard_size" in options:
        options["max_shard_bytes"] = options.pop("max_shard_size")
    model = convert(source, output, **options)
    for note in model.notes:
        print(note)
    for reason, names in model.account.ignored.items():
        print(f"ignored {len(names)} weights: {reason} ({names[0]}{', ...' if len(names) > 1 else ''})")
    count = sum(_count(tensor.shape) for tensor in model.account.used.values())
    print(f"Wrote {output}: {model.model_class.__name__}, {len(model.account.used)} weights, {count:,} parameters")
    return 0


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
