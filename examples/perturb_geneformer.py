"""Convert a Geneformer checkpoint, embed cells with it, and see how far deleting a gene moves a cell.

python examples/perturb_geneformer.py --checkpoint Geneformer-V1-10M --dictionaries dictionaries --cells cells.h5ad
"""

from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import torch
from transformers import HfArgumentParser

import state_hf
from state_hf.inference.cell_encoder import CellEncoder


@dataclass
class PerturbArguments:
    """What to convert, and which cell to look at."""

    checkpoint: str = field(metadata={"help": "Folder of the original: config.json and weights."})
    cells: str = field(metadata={"help": "An .h5ad file with raw counts."})
    dictionaries: str | None = field(default=None, metadata={"help": "Folder with its dictionaries, if elsewhere."})
    model: str = field(default="geneformer", metadata={"help": "Folder for the converted model."})
    output: str = field(default="embedded.h5ad", metadata={"help": "File for the embedded cells."})
    cell: int = field(default=0, metadata={"help": "Number of the cell."})
    genes: int = field(default=5, metadata={"help": "How many of its first genes are deleted, one at a time."})


def main() -> None:
    """Convert, embed, delete, and print the cosine of the cell's embedding before and after."""
    (arguments,) = HfArgumentParser(PerturbArguments).parse_args_into_dataclasses()
    if not Path(arguments.model).exists():
        state_hf.convert(arguments.checkpoint, arguments.model, dictionaries=arguments.dictionaries)
    print(state_hf.embed(arguments.cells, arguments.model, output=arguments.output, overwrite=True))

    encoder = CellEncoder.from_pretrained(arguments.model)
    tokenizer = encoder.tokenizer
    cell = tokenizer.encode_cells(ad.read_h5ad(arguments.cells)[[arguments.cell]].copy())
    rows = tokenizer.gene_rows(cell)[0]
    rows = rows[rows >= 0][: arguments.genes]
    # One copy of the cell a gene, in each of which another gene is taken out.
    copies = {name: values.expand(len(rows), -1) for name, values in cell.items()}
    with encoder.evaluating(), torch.inference_mode():
        before = encoder.states(cell).cell
        after = encoder.states(tokenizer.set_genes(copies, rows[:, None], "delete")).cell
    for row, cosine in zip(rows.tolist(), torch.cosine_similarity(before, after).tolist(), strict=True):
        print(f"without {tokenizer.genes[row]}: cosine {cosine:.4f}")


if __name__ == "__main__":
    main()
