"""Cell labels by the nearest neighbours of an embedding."""

from pathlib import Path

import numpy as np
import torch
from anndata.io import read_elem

from state_hf.data.anndata_files import open_store
from state_hf.data.cell_blocks import open_cells
from state_hf.modeling.state_embedding import StateEmbeddingModel
from state_hf.pipelines.cell_embedder import CellEmbedder
from state_hf.tokenization.gene_names import resolve_genes
from state_hf.tokenization.input_scale import check_input_type
from state_hf.tokenization.state_embedding import StateEmbeddingTokenizer

# Distances of so many pairs are held at once.
_PAIRS = 2**24


def nearest_neighbours(cells: np.ndarray, reference: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest cells of a reference, by the Euclidean distance of their embeddings.

    Args:
        cells: (cells, dimensions).
        reference: (reference cells, dimensions).
        number: Neighbours of each cell.

    Returns:
        (cells, number) their rows in the reference, nearest first, and their distances.
    """
    target = torch.from_numpy(np.ascontiguousarray(reference, dtype=np.float32))
    number = min(number, len(reference))
    rows, distances = [], []
    for block in torch.from_numpy(np.ascontiguousarray(cells, dtype=np.float32)).split(
        max(1, _PAIRS // len(reference))
    ):
        near = torch.cdist(block, target).topk(number, largest=False)
        rows.append(near.indices)
        distances.append(near.values)
    return torch.cat(rows).numpy(), torch.cat(distances).numpy()


def vote(labels: np.ndarray, neighbours: np.ndarray, number_of_labels: int) -> np.ndarray:
    """(cells, labels) shares of a cell's neighbours that have each label.

    Args:
        labels: (reference cells,) label numbers.
        neighbours: (cells, neighbours) rows of the reference.
        number_of_labels: How many labels there are.
    """
    shares = np.zeros((len(neighbours), number_of_labels))
    np.add.at(shares, (np.arange(len(neighbours))[:, None], labels[neighbours]), 1)
    return shares / neighbours.shape[1]


def read_labels(path: str | Path, key: str) -> np.ndarray:
    """A column of obs as text; "" where a cell has no label.

    Raises:
        ValueError: There is no such column (the message lists what there is).
    """
    with open_store(Path(path), "r") as store:
        obs = read_elem(store["obs"])
    if key not in obs:
        raise ValueError(f"{path} has no column {key!r} in obs; it has {', '.join(map(str, obs.columns))}")
    return obs[key].astype(object).where(obs[key].notna(), "").astype(str).to_numpy(dtype=object)


def embed_file(
    path: str | Path,
    model: StateEmbeddingModel,
    tokenizer: StateEmbeddingTokenizer,
    *,
    input_type: str = "auto",
    layer: str | None = None,
) -> np.ndarray:
    """(cells, dimensions) embeddings of all cells of a file, in memory."""
    model.eval()
    embedder = CellEmbedder(model, tokenizer)
    with open_cells(path, layer=layer) as cells:
        genes = resolve_genes(cells.var, tokenizer)
        scale = check_input_type(cells.sample(1000), input_type)  # type: ignore[arg-type]
        blocks = embedder.embed(cells, genes, input_type=scale, ranges=_ranges(cells.num_cells))
        return np.concatenate([rows for _, rows in sorted(blocks, key=lambda block: block[0])])


def _ranges(num_cells: int, block: int = 1024) -> list[tuple[int, int]]:
    return [(start, min(start + block, num_cells)) for start in range(0, num_cells, block)]


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
        tokenizer: StateEmbeddingTokenizer,
        *,
        label_key: str = "cell_type",
        neighbours: int = 15,
    ) -> None:
        self.path, self.tokenizer, self.neighbours = path, tokenizer, neighbours
        self.names, self.labels = np.unique(read_labels(path, label_key), return_inverse=True)

    def __call__(self, model: StateEmbeddingModel) -> dict[str, float]:
        """`probe_accuracy`, the share of the cells whose neighbours' majority has their label."""
        with torch.inference_mode():
            embedding = embed_file(self.path, model, self.tokenizer)
        kept = np.flatnonzero(self.names[self.labels] != "")
        reference, cells = kept[::2], kept[1::2]
        near, _ = nearest_neighbours(embedding[cells], embedding[reference], self.neighbours)
        votes = vote(self.labels[reference], near, len(self.names))
        return {"probe_accuracy": float((votes.argmax(axis=1) == self.labels[cells]).mean())}


__all__ = ["NeighbourProbe", "embed_file", "nearest_neighbours", "read_labels", "vote"]
