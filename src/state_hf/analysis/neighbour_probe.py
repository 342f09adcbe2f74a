"""Accuracy of labels by nearest neighbours, which says during a training how well an embedding tells cells apart."""

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from state_hf.analysis.nearest_cells import nearest_neighbours, vote
from state_hf.data.cells.anndata_files import read_labels
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.embedding_task import embed_whole
from state_hf.tokenization.cell_tokenizer import CellTokenizer


class NeighbourProbe:
    """Accuracy of labels by nearest neighbours: how well an embedding tells cell types apart.

    Every other labelled cell is the reference for those between.

    Args:
        path: A labelled file.
        tokenizer: The model's.
        label_key: Column of obs with the labels; cells without one are left out.
        neighbours: Neighbours that vote.
    """

    def __init__(
        self,
        path: str | Path,
        tokenizer: CellTokenizer,
        *,
        label_key: str = "cell_type",
        neighbours: int = 15,
    ) -> None:
        self.path, self.tokenizer, self.neighbours = path, tokenizer, neighbours
        self.names, self.labels = np.unique(read_labels(path, label_key), return_inverse=True)

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """`probe_accuracy`, the share of the cells whose neighbours' majority has their label."""
        embedding = embed_whole(self.path, CellEncoder(model, self.tokenizer), part="cell")
        kept = np.flatnonzero(self.names[self.labels] != "")
        reference, cells = kept[::2], kept[1::2]
        near, _ = nearest_neighbours(embedding[cells], embedding[reference], self.neighbours)
        votes = vote(self.labels[reference], near, len(self.names))
        return {"probe_accuracy": float((votes.argmax(axis=1) == self.labels[cells]).mean())}


__all__ = ["NeighbourProbe"]
