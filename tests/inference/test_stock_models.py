"""A family on a stock model embeds cells like one with classes of its own: its tokenizer says how states are pooled."""

import logging
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForMaskedLM

from state_hf import StateEmbeddingModel, convert, embed
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.loading import load_model, model_digest
from tests.geneformer_models import COUNTS, FOLDER, IDS, expected

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    for release in ("v1", "v2"):
        convert(FOLDER / release / "model", folder / release)
    return folder


def cells(*, number: int = len(COUNTS)) -> anndata.AnnData:
    counts = np.concatenate([COUNTS] * 4)[:number].astype(np.float32)
    return anndata.AnnData(
        counts, var=pd.DataFrame(index=IDS), obs=pd.DataFrame(index=[f"c{i}" for i in range(number)])
    )


@pytest.mark.parametrize(
    ("release", "layer", "stored"),
    [
        ("v1", -1, "cell_emb.layer0"),
        ("v1", -2, "cell_emb.layer-1"),
        ("v2", -1, "cls_emb.layer0"),
        ("v2", -2, "cls_emb.layer-1"),
    ],
)
def test_cells_of_the_chosen_layer(converted, release, layer, stored):
    encoder = CellEncoder.from_pretrained(converted / release, hidden_layer=layer)
    encoding = encoder.tokenizer.encode_cells(COUNTS[:3], IDS)
    assert_close(encoder.states(encoding).cell, expected(f"{release}_model")[stored], **CLOSE)


@pytest.mark.parametrize(("layer", "stored"), [(-1, "cell_emb.layer0"), (-2, "cell_emb.layer-1")])
def test_means_leave_special_tokens_out(converted, layer, stored):
    encoder = CellEncoder.from_pretrained(converted / "v2", hidden_layer=layer)
    encoder.tokenizer.cell_pooling = "mean"
    encoding = encoder.tokenizer.encode_cells(COUNTS[:3], IDS)
    cell = encoder.states(encoding).cell
    assert_close(cell, expected("v2_model")[stored], **CLOSE)
    if layer == -2:
        # Third-party code says it otherwise: without the first state, the mean of the next (length - 2).
        assert_close(cell, expected("v2_model")[f"{stored}.drop_first_then_length_minus_2"], **CLOSE)


def test_states_of_genes(converted):
    encoder = CellEncoder.from_pretrained(converted / "v1")
    encoding = encoder.tokenizer.encode_cells(COUNTS[:3], IDS)
    states = encoder.states(encoding, output_genes=True)
    known = states.gene_rows >= 0
    assert_close(states.genes[known], expected("v1_model")["hidden.3"][known], **CLOSE)
    assert torch.equal(states.gene_rows[known], encoding["input_ids"][known] - 2)


@pytest.mark.parametrize(("layer", "name"), [(-1, "layer0"), (-2, "layer-1")])
@pytest.mark.parametrize("change", ["delete", "overexpress"])
def test_perturbed_cells_have_the_effects_of_the_original(converted, change, layer, name):
    """What an in-silico perturbation needs is there for any family: rows of genes, changed encodings, states."""
    stored = expected("perturbation")
    encoder = CellEncoder.from_pretrained(converted / "v1", hidden_layer=layer)
    tokenizer = encoder.tokenizer
    encoding = tokenizer.encode_cells(COUNTS, IDS)
    for number in range(3):
        tokens = stored[f"{name}.cell{number}.{change}.tokens"]
        rows = torch.tensor([tokenizer.genes.index(gene) for gene in tokenizer.convert_ids_to_tokens(tokens.tolist())])
        copies = {key: values[number].expand(len(rows), -1) for key, values in encoding.items()}
        before = encoder.states(copies, output_genes=True)
        after = encoder.states(tokenizer.set_genes(copies, rows[:, None], change), output_genes=True)
        for at, row in enumerate(rows):
            others = [(s.gene_rows[at] >= 0) & (s.gene_rows[at] != row) for s in (before, after)]
            cosines = torch.cosine_similarity(before.genes[at, others[0]], after.genes[at, others[1]])
            assert_close(cosines, stored[f"{name}.cell{number}.{change}.gene_cos"][at], **CLOSE)


def test_files_are_embedded_and_interrupted_runs_can_go_on(converted, tmp_path):
    adata = cells(number=20)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    output = tmp_path / "out.h5ad"
    embed(tmp_path / "cells.h5ad", converted / "v1", output=output)
    embedded = anndata.read_h5ad(output)
    again = embed(adata, converted / "v1", batch_size=3)
    np.testing.assert_allclose(embedded.obsm["X_geneformer"], again.obsm["X_geneformer"], atol=1e-5)
    assert embedded.uns["X_geneformer"]["hidden_layer"] == -1
    # The same model is known again, though its checkpoint has no pooler.
    embed(tmp_path / "cells.h5ad", converted / "v1", output=output, resume=True)
    with pytest.raises(ValueError, match=r"made with other settings: .*hidden_layer"):
        embed(tmp_path / "cells.h5ad", converted / "v1", output=output, resume=True, hidden_layer=-2)


def test_a_pooler_that_the_checkpoint_lacks_is_not_drawn_at_random(converted, caplog):
    with caplog.at_level(logging.WARNING):
        one, other = load_model(converted / "v1"), load_model(converted / "v1")
    assert one.pooler is None
    assert model_digest(one) == model_digest(other)
    assert "newly initialized" not in caplog.text
    with_head = AutoModelForMaskedLM.from_pretrained(converted / "v1")
    assert model_digest(load_model(with_head)) == model_digest(one)


def test_a_lacking_weight_is_still_refused(converted, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(converted / "v1", tmp_path / "v1")
    weights = load_file(folder / "model.safetensors")
    weights.pop("bert.encoder.layer.2.output.dense.bias")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is incomplete: 1 of its model's weights are missing"):
        load_model(folder)


@pytest.mark.parametrize("layer", [0, 1, -5, 1.5, "last"])
def test_layers_that_there_are_not(converted, layer):
    with pytest.raises(ValueError, match=r"the model has the layers -1 \(last\) to -4 \(input\)"):
        CellEncoder.from_pretrained(converted / "v1", hidden_layer=layer)


def test_models_that_say_what_a_cell_is_have_no_choice_of_a_layer(tiny_model):
    with pytest.raises(ValueError, match="StateEmbeddingModel says itself what a cell is"):
        CellEncoder.from_pretrained(
            StateEmbeddingModel.from_pretrained(tiny_model), tokenizer=tiny_model, hidden_layer=-2
        )


def test_bad_cells_are_named(converted):
    adata = cells()
    adata.X[2] = 0
    with pytest.raises(ValueError, match=r"1 of 6 cells express no gene of the vocabulary.* the first is cell 2"):
        embed(adata, converted / "v1")
    unknown = cells()
    unknown.var_names = [f"G{column}" for column in range(len(IDS))]
    with pytest.raises(ValueError, match="Only 0 of the dataset's 54 genes are among the vocabulary's 47"):
        embed(unknown, converted / "v1")
    scaled = cells()
    scaled.X = np.log1p(scaled.X)
    with pytest.raises(ValueError, match="said to be counts, but they look like log1p"):
        embed(scaled, converted / "v1")
    from_logs = embed(scaled, converted / "v1", input_type="log1p").obsm["X_geneformer"]
    np.testing.assert_allclose(from_logs, embed(cells(), converted / "v1").obsm["X_geneformer"], atol=1e-6)


def test_a_tokenizer_of_another_release_is_refused(converted):
    with pytest.raises(ValueError, match="The tokenizer has 51 tokens, but the model has 49"):
        CellEncoder.from_pretrained(converted / "v1", tokenizer=converted / "v2")
