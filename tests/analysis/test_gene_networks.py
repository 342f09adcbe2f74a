"""Networks are those of the definitions, worked out pair by pair, and find what was planted."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from state_hf.analysis.gene_networks import (
    CosineScores,
    MatrixScores,
    agreement,
    metagenes,
    network_edges,
    places_in_picture,
)
from state_hf.analysis.gene_states import ranked_attention

NAMES = [f"G{number:02}" for number in range(30)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def pairs_of(edges) -> set:
    return set(zip(edges["source"], edges["target"], strict=True))


def test_edges_above_a_threshold(rng, monkeypatch):
    monkeypatch.setattr("state_hf.analysis.gene_networks._SCORES_AT_ONCE", 100)
    vectors = rng.normal(size=(30, 5))
    vectors[4] = 0
    edges = network_edges(CosineScores(NAMES, vectors, "cosine"), threshold=0.5)
    wanted = {}
    for a in range(30):
        for b in range(a + 1, 30):
            norm = np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b])
            if norm and vectors[a] @ vectors[b] / norm >= 0.5:
                wanted[NAMES[a], NAMES[b]] = vectors[a] @ vectors[b] / norm
    assert pairs_of(edges) == set(wanted)
    np.testing.assert_allclose(edges["weight"], sorted(wanted.values(), reverse=True))
    assert not {"G04"} & {*edges["source"], *edges["target"]}


@pytest.mark.parametrize("directed", [True, False])
def test_edges_of_the_nearest(rng, directed):
    matrix = rng.random((30, 30))
    if not directed:
        matrix = (matrix + matrix.T) / 2
    matrix[3, 7] = matrix[7, 3] = np.nan
    edges = network_edges(MatrixScores(NAMES, matrix, "made up", directed), nearest=4)
    wanted = set()
    for a in range(30):
        near = [b for b in np.argsort(-np.nan_to_num(matrix[a], nan=-1), kind="stable") if b != a][:4]
        wanted |= {(NAMES[a], NAMES[b]) if directed else tuple(sorted((NAMES[a], NAMES[b]))) for b in near}
    assert pairs_of(edges) == wanted
    assert edges["weight"].is_monotonic_decreasing


def test_one_way_to_choose_pairs(rng):
    scores = MatrixScores(NAMES, rng.random((30, 30)), "made up")
    for options in ({}, {"nearest": 3, "threshold": 0.5}):
        with pytest.raises(ValueError, match="give one of the two"):
            network_edges(scores, **options)


def test_planted_groups_are_found_again(rng):
    pytest.importorskip("leidenalg")
    groups = np.repeat([0, 1, 2], [14, 10, 6])
    vectors = np.eye(3)[groups] + 0.05 * rng.normal(size=(30, 3))
    edges = network_edges(CosineScores(NAMES, vectors, "cosine"), nearest=5)
    found = metagenes(edges, seed=1)
    assert found["gene"].tolist() == NAMES
    assert found["metagene"].tolist() == [1] * 14 + [2] * 10 + [3] * 6
    pd.testing.assert_frame_equal(found, metagenes(edges, seed=1))
    assert not len(metagenes(edges.assign(weight=-1.0)))


def test_attentions_are_ranked_by_rows_then_by_columns(rng):
    attention = torch.from_numpy(rng.random((3, 7, 7)))
    attention[0, 2, :3] = 0.5
    wanted = np.zeros((7, 7))
    for head in attention.numpy():
        rows = np.stack([rankdata(row) - 1 for row in head]) / 7
        wanted += np.stack([rankdata(column) - 1 for column in rows.T], axis=1) / 7
    np.testing.assert_allclose(ranked_attention(attention), wanted / 3)


@pytest.mark.parametrize("directed", [True, False])
def test_agreement_with_a_known_network(rng, directed):
    true = {("G00", NAMES[b]) for b in range(1, 8)} | {("G10", NAMES[b]) for b in range(11, 15)}
    matrix = rng.random((30, 30))
    for a, b in true:
        matrix[NAMES.index(a), NAMES.index(b)] += 0.7
    if not directed:
        matrix = np.maximum(matrix, matrix.T)
    scores = MatrixScores(NAMES, matrix, "planted", directed)
    random = MatrixScores(NAMES[:25], rng.random((25, 25)), "random", directed)
    table = agreement(scores, [*true, ("G00", "elsewhere"), ("G29", "G28")], others=[random])
    genes = [name for name in NAMES if any(name in pair for pair in true)]
    pairs = [(a, b) for a in ("G00", "G10") for b in genes if a != b and (directed or (a, b) != ("G10", "G00"))]
    # No pair of two genes that are no source of the known network: of these it says nothing.
    labels = [pair in true for pair in pairs]
    values = [matrix[NAMES.index(a), NAMES.index(b)] for a, b in pairs]
    row = table.iloc[0]
    assert (row["pairs"], row["true_pairs"]) == (len(pairs), 11)
    assert row["auprc"] == pytest.approx(average_precision_score(labels, values))
    assert row["auprc_random"] == pytest.approx(11 / len(pairs))
    best = np.array(labels)[np.argsort(-np.array(values))][:11].mean()
    assert row["epr"] == pytest.approx(best * len(pairs) / 11)
    assert table["auprc"][1] < table["auprc"][0]
    with pytest.raises(ValueError, match="nothing to tell apart"):
        agreement(scores, [("a", "b")])


def test_a_score_that_knows_no_pair_is_chance(rng):
    blank = MatrixScores(NAMES, np.full((30, 30), np.nan), "blank")
    reference = [("G00", NAMES[b]) for b in range(1, 6)] + [("G10", "G11")]
    row = agreement(blank, reference).iloc[0]
    assert row["auprc"] == pytest.approx(row["auprc_random"])


def test_connected_genes_are_drawn_near_each_other():
    edges = pd.DataFrame({"source": ["a", "b", "x"], "target": ["b", "c", "y"], "weight": [1.0, 1.0, 1.0]})
    places = places_in_picture(edges, seed=3)
    assert set(places) == set("abcxy")
    assert places == places_in_picture(edges, seed=3)
    assert np.abs(list(places.values())).max() <= 1 + 1e-9
