"""Means over residues and proteins: by hand, against fair-esm, and whatever the batches are."""

import argparse
import sys

import numpy as np
import pytest
import torch
from transformers import EsmcConfig, EsmcModel, EsmConfig, EsmModel

from state_hf.gene_embeddings.protein_embedder import ProteinEmbedder, windows
from state_hf.gene_embeddings.protein_fasta import RESIDUES
from state_hf.gene_embeddings.protein_models import ProteinModel, load_protein_model


class CountingModel(ProteinModel):
    """Gives a residue its place among the letters, the place times 10, and garbage for all that is no residue."""

    def __init__(self):
        letters = {letter: number for number, letter in enumerate(RESIDUES)}
        super().__init__(
            torch.nn.Linear(1, 1),
            letters=letters,
            cls=50,
            eos=51,
            pad=52,
            width=2,
            window=4,
            longest=None,
            name="counting",
        )
        self.seen = []

    def hidden(self, tokens):
        self.seen += tokens.tolist()
        return torch.stack([tokens, 10 * tokens], dim=-1)


def test_means_by_hand():
    # A is 0, C is 1, D is 2, E is 3, F is 4.
    embedder = ProteinEmbedder(CountingModel())
    rows = embedder.embed([["AC"], ["AC", "FFFF"], ["ACDEF"]])
    # Mean of a protein, then of the proteins, however long: (0.5 + 4) / 2. ACDEF is read as AC and DEF.
    assert rows.tolist() == [[0.5, 5.0], [2.25, 22.5], [2.0, 20.0]]
    assert rows.dtype == np.float32


def test_a_protein_of_several_genes_is_read_once():
    model = CountingModel()
    ProteinEmbedder(model).embed([["AC"], ["AC", "D"], ["D"]])
    assert len(model.seen) == 2


@pytest.mark.parametrize(
    ("length", "lengths"), [(1, [1]), (4, [4]), (5, [2, 3]), (8, [4, 4]), (9, [3, 3, 3]), (13, [3, 3, 3, 4])]
)
def test_windows_are_as_few_and_as_even_as_can_be(length, lengths):
    parts = windows("A" * length, 4)
    assert list(map(len, parts)) == lengths


def test_against_fair_esm(fair_esm, esm_folder):
    # Largest difference seen: 2e-6 of values around 1.
    embedder = ProteinEmbedder(load_protein_model(esm_folder))
    rows = embedder.embed_proteins(fair_esm["proteins"])
    np.testing.assert_allclose(rows, fair_esm["expected"].numpy(), atol=1e-4, rtol=0)


def test_fair_esm_itself(fair_esm, esm_folder, tmp_path):
    """Runs where fair-esm is installed: its backend reads a file of the original's format."""
    pytest.importorskip("esm.model.esm2", reason="fair-esm is not installed")
    from tests.fixtures.make_fair_esm import HEADS, LAYERS, WIDTH, tiny_model

    options = argparse.Namespace(
        encoder_layers=LAYERS, encoder_embed_dim=WIDTH, encoder_attention_heads=HEADS, token_dropout=True
    )
    weights = {f"encoder.sentence_encoder.{name}": tensor for name, tensor in tiny_model().state_dict().items()}
    path = tmp_path / "esm2_tiny.pt"
    torch.save({"cfg": {"model": options}, "model": weights}, path)
    proteins = [*fair_esm["proteins"], "MKTAYIAKQR" * 200]
    ours = ProteinEmbedder(load_protein_model(esm_folder), batch_tokens=3000).embed_proteins(proteins)
    theirs = ProteinEmbedder(load_protein_model(path), batch_tokens=100).embed_proteins(proteins)
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_batches_change_nothing(esm_folder):
    generator = np.random.default_rng(0)
    proteins = ["".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), size)) for size in (3, 80, 17, 150, 42, 1)]
    model = load_protein_model(esm_folder)
    single = np.concatenate([ProteinEmbedder(model, window=60).embed_proteins([protein]) for protein in proteins])
    together = ProteinEmbedder(model, window=60, batch_tokens=10_000).embed_proteins(proteins)
    np.testing.assert_allclose(single, together, atol=1e-5, rtol=0)


def test_a_window_is_a_protein_of_its_own(esm_folder):
    embedder = ProteinEmbedder(load_protein_model(esm_folder), window=10)
    first, second, whole = embedder.embed_proteins(["MKTAYIAKQR", "GGPLAN", "MKTAYIAKGGPLAN"])
    del first, second
    parts = embedder.embed_proteins(["MKTAYIA", "KGGPLAN"])
    np.testing.assert_allclose(whole, parts.mean(axis=0), atol=1e-5)


def test_half_precision_is_close(esm_folder, fair_esm):
    embedder = ProteinEmbedder(load_protein_model(esm_folder, dtype=torch.bfloat16))
    rows = embedder.embed([[protein] for protein in fair_esm["proteins"]])
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, fair_esm["expected"].numpy(), atol=0.1)


def test_memory_that_does_not_suffice_halves_the_batches(esm_folder, caplog):
    model = load_protein_model(esm_folder)
    wanted = ProteinEmbedder(model).embed_proteins(["MKT"] * 7 + ["MK"])
    hidden = model.hidden

    def little_memory(tokens):
        if len(tokens) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return hidden(tokens)

    model.hidden = little_memory
    embedder = ProteinEmbedder(model)
    np.testing.assert_allclose(embedder.embed_proteins(["MKT"] * 7 + ["MK"]), wanted, atol=1e-6)
    assert embedder.batch_tokens < 8192


def test_esmc(tmp_path):
    from transformers import EsmcTokenizer

    torch.manual_seed(0)
    config = EsmcConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    EsmcModel(config).save_pretrained(tmp_path)
    EsmcTokenizer().save_pretrained(tmp_path)
    model = load_protein_model(tmp_path)
    embedder = ProteinEmbedder(model)
    assert (embedder.window, model.width) == (2046, 16)
    alone = embedder.embed_proteins(["MKTAYI"])
    padded = embedder.embed_proteins(["MKTAYI", "ACDEFGHIKLMN"])[:1]
    np.testing.assert_allclose(alone, padded, atol=1e-5)
    tokens = EsmcTokenizer()("MKTAYI", return_tensors="pt")
    with torch.no_grad():
        hidden = model.network(**tokens).last_hidden_state[0, 1:-1]
    np.testing.assert_allclose(alone[0], hidden.mean(dim=0).numpy(), atol=1e-6)


def test_learned_positions_limit_the_window(esm_folder, tmp_path):
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=26,
    )
    EsmModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_text((esm_folder / name).read_text())
    model = load_protein_model(tmp_path)
    assert np.isfinite(ProteinEmbedder(model).embed_proteins(["M" * model.longest])).all()
    with pytest.raises(ValueError, match="positions for 22 residues; the window is 23"):
        ProteinEmbedder(model, window=23)


def test_weights_that_are_nan_are_refused(esm_folder):
    model = load_protein_model(esm_folder)
    model.network.embeddings.word_embeddings.weight[:] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        ProteinEmbedder(model).embed([["MKT"]])


def test_other_models_are_refused(tmp_path):
    from state_hf import StateEmbeddingConfig

    StateEmbeddingConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'state_embedding' model, not a protein language model"):
        load_protein_model(tmp_path)


def test_missing_fair_esm_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "esm.data", None)
    with pytest.raises(ImportError, match=r"pip install 'state-hf\[fair-esm\]'"):
        load_protein_model(tmp_path / "esm2_t6.pt")
