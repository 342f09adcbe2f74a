"""The nearest cells of a reference in an embedding, and what they vote for."""

import numpy as np
import torch

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
        near = torch.cdist(block, target).topk(number, largest=False).indices
        # cdist loses half of the digits between cells that are close; which are the nearest hardly depends on it.
        exact = torch.stack([torch.linalg.vector_norm(block - target[near[:, k]], dim=1) for k in range(number)], dim=1)
        order = exact.argsort(dim=1, stable=True)
        rows.append(near.gather(1, order))
        distances.append(exact.gather(1, order))
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


__all__ = ["nearest_neighbours", "vote"]
