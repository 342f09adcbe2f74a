"""Embed the cells of an .h5ad file with a State Embedding model.

python examples/embed_cells.py --cells cells.h5ad --model_name_or_path model --output embedded.h5ad
accelerate launch examples/embed_cells.py --cells cells.h5ad --model_name_or_path model --output embedded.h5ad
"""

from dataclasses import dataclass, field

import anndata as ad
from transformers import HfArgumentParser

import state_hf


@dataclass
class EmbedArguments:
    """What to embed, and with what."""

    cells: str = field(metadata={"help": "An .h5ad file with raw counts, or log1p-normalised expression."})
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a State Embedding model."})
    output: str = field(default="embedded.h5ad", metadata={"help": "File to write."})
    input_type: str = field(default="counts", metadata={"help": "counts, log1p, or auto: by the values."})


def main() -> None:
    """Embed, and say what came out."""
    (arguments,) = HfArgumentParser(EmbedArguments).parse_args_into_dataclasses()
    path = state_hf.embed(
        arguments.cells,
        arguments.model_name_or_path,
        output=arguments.output,
        input_type=arguments.input_type,
        overwrite=True,
    )
    embedded = ad.read_h5ad(path, backed="r")
    cells, width = embedded.obsm["X_state"].shape
    print(f"{path}: {cells:,} cells x {width:,} in obsm['X_state']; how they were made is in uns['X_state']")


if __name__ == "__main__":
    main()
