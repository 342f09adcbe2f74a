"""`state-hf network` on models and files: scores are those of one cell after the other, and files say what they are."""

import json
from pathlib import Path

import anndata
import networkx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from state_hf import convert, network
from state_hf.cli import main
from state_hf.inference.cell_encoder import CellEncoder
from tests.geneformer_models import COUNTS, FOLDER, IDS
from tests.pipelines.conftest import make_cells
from tests.tiny_models import GENES

CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(scope="module")
def geneformer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "v2"
    convert(FOLDER / "v2" / "model", folder)
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    counts = np.concatenate([COUNTS] * 3).astype(np.float32)
    counts[np.random.default_rng(0).random(counts.shape) < 0.2] = 0
    obs = pd.DataFrame({"side": np.arange(18) % 2}, index=[f"c{number}" for number in range(18)]).astype(str)
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=IDS)).write_h5ad(path)
    return path


def weights(edges: pd.DataFrame) -> dict:
    return {(a, b): weight for a, b, weight in edges.itertuples(index=False, name=None)}


def states_and_attentions(folder, cells):
    """Every cell alone: gene -> state of the last layer, and its attentions."""
    encoder = CellEncoder.from_pretrained(folder)
    encoder.model.set_attn_implementation("eager")
    found = []
    adata = anndata.read_h5ad(cells)
    for row in adata.X:
        encoding = encoder.tokenizer.encode_cells(row[None], list(adata.var_names))
        with torch.no_grad():
            output = encoder.model(**encoding, output_attentions=True)
        genes = encoder.tokenizer.decode_cells(encoding["input_ids"])[0]
        inside = slice(1, 1 + len(genes))
        found.append((genes, output.last_hidden_state[0, inside], output.attentions[-1][0, :, inside, inside]))
    return found


def test_input_embeddings_need_no_cells(geneformer, tmp_path):
    result = network(geneformer, tmp_path / "out.parquet", threshold=0.3)
    encoder = CellEncoder.from_pretrained(geneformer)
    table, genes = encoder.model.get_input_embeddings().weight.detach(), encoder.tokenizer.genes
    ids = dict(zip(genes, encoder.tokenizer.convert_tokens_to_ids(genes), strict=True))
    assert len(result.edges)
    for (a, b), weight in weights(result.edges).items():
        assert weight == pytest.approx(float(torch.cosine_similarity(table[ids[a]], table[ids[b]], dim=0)), abs=1e-6)
    stored = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"state_hf"])
    assert stored["record"]["definition"] == "cosine of the genes' input embeddings"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet"), result.edges)


def test_contextual_states_are_averaged_over_the_cells_that_express_a_gene(geneformer, cells, tmp_path):
    result = network(geneformer, tmp_path / "out.parquet", data=cells, kind="contextual", min_cells=4, nearest=46)
    sums, number = {}, {}
    for genes, states, _ in states_and_attentions(geneformer, cells):
        for gene, state in zip(genes, states.double(), strict=True):
            sums[gene] = sums.get(gene, 0) + state
            number[gene] = number.get(gene, 0) + 1
    known = {gene for gene in sums if number[gene] >= 4}
    assert {*result.edges["source"], *result.edges["target"]} == known
    assert len(result.edges) == len(known) * (len(known) - 1) / 2
    for (a, b), weight in weights(result.edges).items():
        wanted = torch.cosine_similarity(sums[a] / number[a], sums[b] / number[b], dim=0)
        assert weight == pytest.approx(float(wanted), abs=2e-6)


def test_scores_of_expression_are_those_of_numpy(geneformer, cells, tmp_path):
    from state_hf.analysis.coexpression import expression_scores
    from state_hf.inference.embedding_task import inspect_source

    encoder = CellEncoder.from_pretrained(geneformer)
    options = {"layer": None, "gene_column": None, "input_type": "counts", "model": {"name": "", "sha256": ""}}
    task = inspect_source(cells, encoder, for_file=True, **options)
    names = [name for name in IDS if name in encoder.tokenizer.genes][:12]
    rows = np.array([encoder.tokenizer.genes.index(name) for name in names])
    positions = np.array([0, 2, 3, 5, 8, 9, 10, 16])
    found = expression_scores(task, positions, rows, names)
    counts = anndata.read_h5ad(cells).X[positions]
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)[:, [IDS.index(name) for name in names]]
    with np.errstate(invalid="ignore", divide="ignore"):
        np.testing.assert_allclose(found[0].matrix, np.abs(np.corrcoef(logs.T)), atol=1e-6)
    np.testing.assert_allclose(found[1].matrix, logs.mean(axis=0)[:, None] + logs.mean(axis=0), rtol=1e-6)


def ranked(attention):
    from scipy.stats import rankdata

    size = attention.shape[-1]
    heads = [(rankdata(head, axis=1) - 1) / size for head in attention.double().numpy()]
    return np.mean([(rankdata(head, axis=0) - 1) / size for head in heads], axis=0)


def test_attentions_of_one_condition_minus_the_other(geneformer, cells, tmp_path):
    options = {"condition_key": "side", "condition": "1", "control": "0", "min_cells": 2, "nearest": 46}
    result = network(geneformer, tmp_path / "out.parquet", data=cells, kind="attention", **options)
    sums: list[dict] = [{}, {}]
    for position, (genes, _, attention) in enumerate(states_and_attentions(geneformer, cells)):
        ranks = ranked(attention)
        for i, target in enumerate(genes):
            for j, source in enumerate(genes):
                sums[position % 2].setdefault((source, target), []).append(ranks[i, j])
    found, checked = weights(result.edges), 0
    for pair, values in sums[1].items():
        if pair[0] != pair[1] and len(values) >= 2 and len(sums[0].get(pair, [])) >= 2:
            # Ranks jump where rounding swaps two probabilities: a few pairs in a thousand.
            checked += abs(found[pair] - (np.mean(values) - np.mean(sums[0][pair]))) < 1e-9
    assert len(found) - checked <= 0.01 * len(found)
    assert result.record["definition"].endswith("condition minus control")


@pytest.mark.parametrize("kind", ["input", "contextual", "attention"])
def test_another_family_by_the_same_words(tiny_model, tmp_path, kind):
    make_cells(20).write_h5ad(tmp_path / "cells.h5ad")
    result = network(
        tiny_model,
        tmp_path / "out.parquet",
        data=tmp_path / "cells.h5ad",
        kind=kind,
        max_genes=30,
        nearest=3,
        min_cells=2,
    )
    assert {*result.edges["source"], *result.edges["target"]} <= set(GENES)
    assert np.isfinite(result.edges["weight"]).all()
    assert result.record["genes_scored"] == 30


def test_everything_is_written_and_said(geneformer, cells, tmp_path, capsys):
    pytest.importorskip("leidenalg")
    known = [IDS[number] for number in range(4)]
    reference = "source,target\n" + "".join(f"{known[0]},{gene}\n" for gene in known[1:3]) + f"{known[3]},{known[1]}\n"
    (tmp_path / "known.csv").write_text(reference)
    files = {name: tmp_path / f"out.{suffix}" for name, suffix in
             (("output", "parquet"), ("graphml", "graphml"), ("gene-sets", "gmt"), ("report", "html"))}  # fmt: skip
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    words += ["--kind", "contextual", "--reference", str(tmp_path / "known.csv"), "--device", "cpu", "--min-cells", "1"]
    assert main(["network", str(cells), "--model", str(geneformer), *words]) == 0
    said = capsys.readouterr()
    assert "metagene 1:" in said.out
    assert "AUPRC" in said.out
    assert "absolute correlation of log1p expression" in said.out
    assert "mean log1p expression of the two genes" in said.out
    edges = pd.read_parquet(files["output"])
    graph = networkx.read_graphml(files["graphml"])
    assert {frozenset(pair) for pair in graph.edges} == {frozenset(pair) for pair in weights(edges)}
    assert graph.graph["definition"].startswith("cosine of the genes' mean states")
    sets = [line.split("\t") for line in files["gene-sets"].read_text().splitlines()]
    assert sets[0][0] == "metagene_1"
    assert sorted(gene for one in sets for gene in one[2:]) == sorted(graph.nodes)
    assert {graph.nodes[gene]["metagene"] for gene in sets[0][2:]} == {1}
    page = files["report"].read_text(encoding="utf-8")
    assert "<svg" in page
    assert "Agreement with the known network" in page
    assert main(["network", str(cells), "--model", str(geneformer), *words]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "attention"], "is of cells: name the file with data"),
        (["--nearest", "3", "--threshold", "0.1"], "give one of the two"),
        (["--genes", "nothing", "at-all"], "'nothing', 'at-all' are no gene of the model"),
        (["--threshold", "1.5"], "has a score from 1.5 on"),
        (["--condition", "a"], "go together"),
        (["--gene-sets", "sets.txt"], "sets.txt has to end in .gmt"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(geneformer, tmp_path, capfd, words, message):
    command = ["network", "--model", str(geneformer), "--device", "cpu", "--output", str(tmp_path / "out.parquet")]
    assert main([*command, *words]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("state-hf network: ")
    assert message in error
    assert not list(tmp_path.iterdir())
