"""What a model says of cells, whatever its family: the output of `get_cell_features`, CLIP's convention."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class CellFeatures(ModelOutput):
    """Features of cells.

    Args:
        pooler_output: (cells, width). The cell: what cells are compared by.
        context: (cells, context width). What the model says of where the cell comes from rather than of the cell, or
            None. It is part of the embedding that users keep, and never of a comparison.
        last_hidden_state: (cells, tokens, width). The state of every token of the input, on request.
    """

    pooler_output: torch.Tensor | None = None
    context: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


__all__ = ["CellFeatures"]
