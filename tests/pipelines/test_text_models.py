"""A language model that reads cells goes through the verbs of every family."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoProcessor

from state_hf import annotate, finetune, perturb
from tests.cell2sentence_models import COUNTS, MODEL, NAMES, TYPES, adata, processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that does not say by what it is padded, with a token of its own for that."""
    folder = tmp_path_factory.mktemp("text")
    made = processor()
    made.tokenizer.pad_token = made.tokenizer.convert_ids_to_tokens(5)
    made.save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    assert model.config.pad_token_id is None
    model.save_pretrained(folder / "model")
    whole = anndata.concat([adata(), adata()], index_unique="-")
    whole.obs_names = [f"c{number}" for number in range(60)]
    whole.write_h5ad(folder / "cells.h5ad")
    return folder


def test_a_classifier_reads_the_last_token_of_every_cell(folder, tmp_path):
    tuned = finetune(
        folder / "cells.h5ad", tmp_path / "out", model=folder / "model", epochs=1, val_share=0, device="cpu"
    )
    found = pd.read_csv(tmp_path / "out" / "test_predictions.csv", index_col=0)
    assert tuned.scores.loc["fine-tuned"].between(0, 1).all()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    made = AutoProcessor.from_pretrained(tmp_path / "out")
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    for name, row in found.iterrows():
        number = cells.obs_names.get_loc(name)
        encoding = made.encode_cells(cells.X[[number]], list(cells.var_names), first_cell=number)
        with torch.no_grad():
            share = model(**encoding).logits.softmax(-1)[0]
        assert share.max().item() == pytest.approx(row["share"], abs=1e-5)
        assert model.config.id2label[int(share.argmax())] == row["predicted"]


def test_a_head_is_fitted_and_used_again(folder, tmp_path):
    cells = folder / "cells.h5ad"
    first = annotate(cells, tmp_path / "1.csv", model=folder / "model", reference=cells, fit_head=tmp_path / "head")
    again = annotate(cells, tmp_path / "2.csv", model=tmp_path / "head")
    pd.testing.assert_frame_equal(first, again)
    assert (first["predicted_cell_type"] == TYPES * 2).mean() > 0.5


def test_genes_are_perturbed_in_silico(folder, tmp_path):
    perturb(folder / "cells.h5ad", folder / "model", output=tmp_path / "out.parquet", genes=["FCGR3A", "PPBP"])
    effects = pd.read_parquet(tmp_path / "out.parquet").set_index("perturbation")
    top = processor().ranked_genes(COUNTS, NAMES)
    row = processor().rows["PPBP"]
    # A gene that is not among a cell's first is not in its sentence.
    assert effects.loc["PPBP", "cells"] == 2 * (top == row).any(axis=1).sum()
    assert np.isfinite(effects["gene_cosine" if "gene_cosine" in effects else effects.columns[2]]).all()
