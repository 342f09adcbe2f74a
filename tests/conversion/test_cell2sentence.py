"""A language model's folder becomes the same model with a processor of cells, and what it lacks is named."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoProcessor, GPT2Config, GPT2LMHeadModel

from state_hf import convert, inspect
from state_hf.conversion.errors import CheckpointError
from tests.cell2sentence_models import COUNTS, FOLDER, MODEL, NAMES, adata


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    adata().write_h5ad(folder / "cells.h5ad")
    labels = folder / "labels.txt"
    labels.write_text("B cell\nT cell\nmonocyte\n")
    convert(MODEL, folder / "model", genes=folder / "cells.h5ad", templates=FOLDER / "templates.json", labels=labels)
    return folder / "model"


def test_plain_transformers_loads_the_same_model(converted):
    ours, theirs = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (converted, MODEL))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (converted / "generation_config.json").read_bytes() == (MODEL / "generation_config.json").read_bytes()
    assert json.loads((converted / "config.json").read_text())["model_type"] == "gpt_neox"


def test_the_processor_writes_as_the_original(converted):
    made = AutoProcessor.from_pretrained(converted)
    assert (made.response_separator, made.states_requested, made.task) == ("", True, "cell_type_prediction")
    assert made.labels == ["B cell", "T cell", "monocyte"]
    assert made.genes == [name.upper() for name in NAMES]
    (prompt,) = made.prompts("cell_type_prediction", ["ACTB"])
    assert prompt.startswith("Here are the 200 strongest genes of one Homo sapiens cell")


def test_what_it_is_said_to_be(converted):
    before, after = str(inspect(MODEL)), str(inspect(converted))
    assert "causal language model of transformers (GPTNeoXForCausalLM)" in before
    assert "missing  its genes (genes.txt)" in before
    assert "Cell2Sentence model (GPTNeoXForCausalLM)" in after
    assert "26 genes: ACTB, CD3D" in after
    card = (converted / "README.md").read_text()
    assert "licences of their own" in card
    assert "| Labels | B cell, T cell, monocyte |" in card
    record = json.loads((converted / "conversion.json").read_text())
    assert record["original"]["sha256"].keys() == {"model.safetensors"}
    assert record["notes"][0] == "genes: 26 symbols from the index of var of cells.h5ad"


def test_ensembl_ids_beside_symbols_become_other_names(tmp_path):
    ids = [f"ENSG{number:011}" for number in range(len(NAMES))]
    var = pd.DataFrame({"gene_name": pd.array(NAMES, dtype=object)}, index=ids)
    anndata.AnnData(COUNTS.astype(np.float32), var=var).write_h5ad(tmp_path / "cells.h5ad")
    convert(MODEL, tmp_path / "model", genes=tmp_path / "cells.h5ad")
    made = AutoProcessor.from_pretrained(tmp_path / "model")
    assert made.genes == [name.upper() for name in NAMES]
    assert made.sentences(COUNTS, ids) == made.sentences(COUNTS, NAMES)


def test_names_of_another_case_are_written_alike_and_said(tmp_path):
    (tmp_path / "genes.txt").write_text("Actb\nACTB\nCD19\n")
    model = convert(MODEL, tmp_path / "model", genes=tmp_path / "genes.txt")
    assert "1 names occur again, or differ in case only, and are written alike" in model.notes
    assert AutoProcessor.from_pretrained(tmp_path / "model").genes == ["ACTB", "CD19"]


def test_a_model_with_tied_weights_and_names_of_earlier_versions(tmp_path):
    config = GPT2Config(vocab_size=345, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODEL / name, tmp_path / "gpt2" / name)
    weights = load_file(tmp_path / "gpt2" / "model.safetensors")
    # As the library has saved it: without the prefix, and with the mask of causal attention.
    old = {name.removeprefix("transformer."): value for name, value in weights.items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(old, tmp_path / "gpt2" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "genes.txt").write_text("\n".join(NAMES))
    done = convert(tmp_path / "gpt2", tmp_path / "model", genes=tmp_path / "genes.txt")
    assert list(done.account.ignored) == ["tables that the library computes itself"]
    ids = torch.arange(1, 20)[None]
    assert_close(AutoModelForCausalLM.from_pretrained(tmp_path / "model")(ids).logits, model(ids).logits)


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="has no list of the genes that it is to read; name a file"):
        convert(MODEL, tmp_path / "out")
    (tmp_path / "ids.txt").write_text("ENSG00000000001\nENSG00000000002\n")
    with pytest.raises(CheckpointError, match="names genes by Ensembl id; a sentence is made of symbols"):
        convert(MODEL, tmp_path / "out", genes=tmp_path / "ids.txt")
    genes = tmp_path / "genes.txt"
    genes.write_text("\n".join(NAMES))
    broken = shutil.copytree(MODEL, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.bias"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 of the model's weights are missing: gpt_neox"):
        convert(broken, tmp_path / "out", genes=genes)
    pointer = shutil.copytree(MODEL, tmp_path / "pointer")
    (pointer / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="LFS"):
        convert(pointer, tmp_path / "out", genes=genes)
    without = shutil.copytree(MODEL, tmp_path / "without")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (without / name).unlink()
    with pytest.raises(CheckpointError, match="does not give the names of genes back: are its files there"):
        convert(without, tmp_path / "out", genes=genes)
    with pytest.raises(CheckpointError, match=r"dictionaries=\.\.\. has no meaning for a checkpoint of Cell2Sentence"):
        convert(MODEL, tmp_path / "out", dictionaries=tmp_path)
    assert not (tmp_path / "out").exists()
