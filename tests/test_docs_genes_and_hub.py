"""The examples of docs/gene-embeddings.md and docs/hub.md run as they stand, and print what the pages say."""

import shutil

import pytest
import torch

from state_hf import GeneTable, StateEmbeddingForMaskedExpression
from tests.documentation_pages import run_page
from tests.gene_embeddings.conftest import esm_folder, fair_esm
from tests.model_cards.conftest import hub
from tests.tiny_models import save_state_embedding

__all__ = ["esm_folder", "fair_esm", "hub"]


@pytest.fixture
def folder(tmp_path, esm_folder):
    """The folders that the pages name: esm2, model; and proteins.fa."""
    (tmp_path / "proteins.fa").write_text(">MOUSE1\nMKTAYIAKQR\n>LYZ\nMKGG\n>TP53\nMKGGA\n>TP53\nMEEPQ\n")
    shutil.copytree(esm_folder, tmp_path / "esm2")
    genes = ["TP53", "ALK", "CD4", "CD8A"]
    save_state_embedding(
        tmp_path / "model", genes, model_class=StateEmbeddingForMaskedExpression, gene_embedding_dim=32
    )
    return tmp_path


def test_gene_embeddings(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    run_page("gene-embeddings.md", capsys)
    assert (folder / "model-with-mouse" / "genes.txt").read_text().split() == [
        "TP53",
        "ALK",
        "CD4",
        "CD8A",
        "LYZ",
        "MOUSE1",
    ]


def test_hub(folder, hub, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    GeneTable(["A"], torch.zeros(1, 2)).save_pretrained("genes")
    run_page("hub.md", capsys)
    assert {name for _, name in hub.repositories} == {
        "someone/my-model",
        "someone/my-genes",
        "someone/expression_error",
    }
    assert "second" in hub.repositories["models", "someone/my-model"].branches
