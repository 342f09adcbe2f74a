"""Encodings of some cells of a data set, as those of all of its cells would have them."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from state_hf.data.cells.stored_matrix import CellMatrix
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.tokenization.gene_names import GeneReport
from state_hf.tokenization.input_scale import InputType


def encode_chosen(
    encoder: CellEncoder, cells: CellMatrix, genes: GeneReport, positions: np.ndarray, *, input_type: InputType
) -> dict[str, torch.Tensor]:
    """Read and encode some cells.

    Args:
        encoder: Its tokenizer, seed and options encode.
        cells: The expression of the data.
        genes: How its genes map to the vocabulary.
        positions: (cells,) of the cells, ascending.
        input_type: "counts" or "log1p".

    Returns:
        (cells, tokens) inputs of the model, padded to the longest. What a cell draws depends on its position in the
        data alone.

    Raises:
        ValueError: A cell cannot be encoded (the message names the cells).
    """
    tokenizer: Any = encoder.tokenizer
    parts: list[dict[str, torch.Tensor]] = []
    for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
        start = int(run[0])
        block = cells.block(start, int(run[-1]) + 1)
        parts.append(encoder.encode(block, genes, input_type=input_type, first_cell=start, name=cells.name))
    longest = max(part["input_ids"].shape[1] for part in parts)

    def padded(name: str, tensor: torch.Tensor) -> torch.Tensor:
        fill = tokenizer.pad_token_id if name == "input_ids" else 0
        return F.pad(tensor, (0, longest - tensor.shape[1]), value=fill)

    return {name: torch.cat([padded(name, part[name]) for part in parts]) for name in parts[0]}


__all__ = ["encode_chosen"]
