"""Networks of genes: which pairs a model takes to be alike, or attends between; and groups of genes in them."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

# Rows of scores that are computed at once hold so many numbers.
_SCORES_AT_ONCE = 2**24


@dataclass(frozen=True)
class CosineScores:
    """Cosines between vectors of genes.

    Args:
        genes: Names.
        vectors: (genes, width).
        definition: What the vectors are.
    """

    genes: list[str]
    vectors: np.ndarray
    definition: str
    directed: bool = False

    @cached_property
    def _units(self) -> np.ndarray:
        length = np.linalg.norm(self.vectors.astype(np.float64), axis=1, keepdims=True)
        # A gene without a vector has no cosine.
        return np.divide(self.vectors, length, out=np.full(self.vectors.shape, np.nan), where=length > 0)

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """(chosen, genes) cosines."""
        return self._units[chosen] @ self._units.T


@dataclass(frozen=True)
class MatrixScores:
    """Scores that are all there.

    Args:
        genes: Names.
        matrix: (sources, targets), NaN where a pair has no score.
        definition: What they are.
        directed: Whether the matrix is not symmetric.
    """

    genes: list[str]
    matrix: np.ndarray
    definition: str
    directed: bool = True

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """(chosen, genes) scores."""
        return self.matrix[chosen]


PairScores: TypeAlias = CosineScores | MatrixScores


def network_edges(scores: PairScores, *, nearest: int | None = None, threshold: float | None = None) -> pd.DataFrame:
    """The pairs that make the network.

    Args:
        scores: Of all pairs.
        nearest: Keep a pair that is among so many highest of one of its genes; of directed scores, of its source.
        threshold: Keep the pairs with at least this score.

    Returns:
        `source`, `target` and `weight`, the highest first; of undirected scores, every pair once.

    Raises:
        ValueError: Neither of the two is given, or both.
    """
    if (nearest is None) == (threshold is None):
        raise ValueError("a network is of the nearest pairs, or of those above a threshold: give one of the two.")
    number = len(scores.genes)
    sources, targets, weights = [], [], []
    for chosen, block in _blocks(scores):
        block[np.arange(len(chosen)), chosen] = np.nan
        low = np.where(np.isnan(block), -np.inf, block)
        if threshold is not None:
            row, column = np.nonzero(low >= threshold)
        else:
            near = np.argsort(-low, axis=1, kind="stable")[:, : min(int(nearest or 0), number - 1)]
            row, column = np.repeat(np.arange(len(chosen)), near.shape[1]), near.ravel()
            kept = np.isfinite(low[row, column])
            row, column = row[kept], column[kept]
        sources.append(chosen[row])
        targets.append(column)
        weights.append(low[row, column])
    source, target, weight = map(np.concatenate, (sources, targets, weights))
    if not scores.directed:
        source, target = np.minimum(source, target), np.maximum(source, target)
        _, first = np.unique(source * number + target, return_index=True)
        source, target, weight = source[first], target[first], weight[first]
    order = np.lexsort((target, source, -weight))
    names = np.array(scores.genes, dtype=object)
    return pd.DataFrame({"source": names[source[order]], "target": names[target[order]], "weight": weight[order]})


def _blocks(scores: PairScores) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    size = max(1, _SCORES_AT_ONCE // len(scores.genes))
    for start in range(0, len(scores.genes), size):
        chosen = np.arange(start, min(start + size, len(scores.genes)))
        yield chosen, np.array(scores.rows(chosen), dtype=np.float64)


def metagenes(edges: pd.DataFrame, *, resolution: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Groups of genes by Leiden's method (Traag et al. 2019), on the weights above 0, without directions.

    Args:
        edges: Of `network_edges`.
        resolution: Of the modularity: more for more groups.
        seed: Of the method.

    Returns:
        `gene` and `metagene`, a number from 1 on, the largest group first; genes without an edge of positive weight
        are in none.

    Raises:
        ImportError: igraph or leidenalg is not installed.
    """
    try:
        import igraph
        import leidenalg
    except ImportError as error:
        raise ImportError("metagenes need Leiden; install it with: pip install 'state-hf[scanpy]'") from error
    positive = edges[edges["weight"] > 0]
    names, places = np.unique(positive[["source", "target"]].to_numpy(object).astype(str).ravel(), return_inverse=True)
    if not len(names):
        return pd.DataFrame({"gene": pd.Series(dtype=object), "metagene": pd.Series(dtype=np.int64)})
    graph = igraph.Graph(n=len(names), edges=places.reshape(-1, 2).tolist())
    found = leidenalg.find_partition(
        graph,
        leidenalg.RBConfigurationVertexPartition,
        weights=positive["weight"].tolist(),
        resolution_parameter=resolution,
        n_iterations=-1,
        seed=seed,
    ).membership
    # Numbered by size, then by the first name.
    groups = pd.Series(found, index=names)
    order = sorted(groups.groupby(groups).groups.items(), key=lambda item: (-len(item[1]), item[1][0]))
    numbers = {old: new for new, (old, _) in enumerate(order, start=1)}
    table = pd.DataFrame({"gene": names.astype(object), "metagene": groups.map(numbers).to_numpy(np.int64)})
    return table.sort_values(["metagene", "gene"], kind="stable", ignore_index=True)


def agreement(
    scores: PairScores, reference: Sequence[tuple[str, str]], *, seed: int = 0, others: Sequence[PairScores] = ()
) -> pd.DataFrame:
    """How well scores find the pairs of a reference network, beside chance and other scores.

    Pairs are those from every gene that is a source in the reference to every gene of it, of the genes that all scores
    have; of undirected scores, each once. Pairs that a score does not know come last.

    Args:
        scores: To be judged.
        reference: Pairs (source, target).
        seed: Of the order of pairs with equal scores.
        others: Further scores, for the same pairs.

    Returns:
        For each `score` (its definition): `pairs`, `true_pairs`, `auprc` (average precision) and `auprc_random`, the
        share of true pairs; `epr`, the early precision ratio (Pratapa et al. 2020): the precision of as many highest
        pairs as there are true ones, over the share of true pairs.

    Raises:
        ValueError: No pair of the reference, or every one, is among the pairs.
    """
    from sklearn.metrics import average_precision_score

    shared = set(scores.genes).intersection(*(one.genes for one in others))
    true = {(a, b) for a, b in reference if a in shared and b in shared and a != b}
    genes, sources = sorted({gene for pair in true for gene in pair}), sorted({a for a, _ in true})
    pairs = [(a, b) for a in sources for b in genes if a != b]
    if not scores.directed:
        true = {(min(pair), max(pair)) for pair in true}
        pairs = sorted({(min(pair), max(pair)) for pair in pairs})
    labels = np.array([pair in true for pair in pairs], bool)
    if not labels.any() or labels.all():
        raise ValueError(
            f"Of {len(reference):,} pairs of the reference, {len(true):,} are of genes of the network: there is "
            "nothing to tell apart."
        )
    rows = []
    for one in (scores, *others):
        places = {gene: at for at, gene in enumerate(one.genes)}
        wanted = np.array([[places[a], places[b]] for a, b in pairs])
        chosen, at = np.unique(wanted[:, 0], return_inverse=True)
        values = np.array(one.rows(chosen), dtype=np.float64)[at, wanted[:, 1]]
        values = np.where(np.isnan(values), -np.inf, values)
        # Average precision takes ties together; early precision needs an order, which is random.
        order = np.lexsort((np.random.default_rng(seed).permutation(len(values)), -values))
        share = float(labels.mean())
        ranks = np.searchsorted(np.unique(values), values)
        rows.append(
            {
                "score": one.definition,
                "pairs": len(pairs),
                "true_pairs": int(labels.sum()),
                "auprc": float(average_precision_score(labels, ranks)),
                "auprc_random": share,
                "epr": float(labels[order[: int(labels.sum())]].mean()) / share,
            }
        )
    return pd.DataFrame(rows)


def strongest_edges(edges: pd.DataFrame, number: int) -> pd.DataFrame:
    """The edges with the highest weights, for a picture."""
    kept = heapq.nlargest(number, range(len(edges)), key=edges["weight"].to_numpy(float).__getitem__)
    return edges.iloc[sorted(kept)]


def places_in_picture(edges: pd.DataFrame, *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Places of genes in a picture, each between -1 and 1, connected ones near each other."""
    import networkx

    graph = networkx.Graph()
    graph.add_weighted_edges_from(edges.itertuples(index=False, name=None))
    places: dict[Any, Any] = networkx.spring_layout(graph, seed=seed, k=2.5 / max(len(graph), 1) ** 0.5, iterations=150)
    return {str(gene): (float(x), float(y)) for gene, (x, y) in places.items()}


__all__ = [
    "CosineScores",
    "MatrixScores",
    "PairScores",
    "agreement",
    "metagenes",
    "network_edges",
    "places_in_picture",
    "strongest_edges",
]
