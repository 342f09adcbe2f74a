"""A language model embeds cells like any model, over the tokens of a cell alone."""

import anndata
import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GPT2Config, GPT2Model

from state_hf import convert, embed
from state_hf.inference.cell_encoder import CellEncoder
from tests.cell2sentence_models import COUNTS, MODEL, NAMES, adata, expected, processor

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "genes.txt").write_text("\n".join(NAMES))
    convert(MODEL, folder / "model", genes=folder / "genes.txt")
    return folder / "model"


def prompts() -> dict[str, torch.Tensor]:
    """Those of the original, with the padding behind them."""
    stored = expected("embedding_and_generation")
    lengths = stored["attention_mask"].sum(dim=1)
    ids = [row[-length:] for row, length in zip(stored["input_ids"], lengths, strict=True)]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


@pytest.mark.parametrize(
    ("pooling", "stored"), [("mean_all", "embedding_mean_real_tokens"), ("last", "embedding_last_token")]
)
def test_cells_are_those_of_the_original(converted, pooling, stored):
    encoder = CellEncoder.from_pretrained(converted)
    encoder.tokenizer.cell_pooling = pooling
    with encoder.evaluating():
        cells = encoder.states(prompts()).cell
    assert_close(cells, expected("embedding_and_generation")[stored], **CLOSE)
    if pooling == "mean_all":
        assert_close(cells, expected("embedding_and_generation")["embedding_one_by_one"], **CLOSE)
        averaged_padding = expected("embedding_and_generation")["embedding_reference_mean_with_padding"]
        assert (cells - averaged_padding).abs().max() > 0.01


@pytest.mark.parametrize("task", ["cell_type_prediction", "cell_type_generation"])
def test_logits_and_losses_are_those_of_the_original(converted, task):
    stored = expected(f"model.{task}")
    inputs = {name: stored[name] for name in ("input_ids", "attention_mask", "labels")}
    output = AutoModelForCausalLM.from_pretrained(converted)(**inputs)
    real = stored["attention_mask"].bool()
    assert_close(output.logits[real], stored["logits"][real], **CLOSE)
    assert_close(output.loss, stored["loss"], **CLOSE)


def test_means_over_genes_leave_the_prompt_out(converted):
    encoder = CellEncoder.from_pretrained(converted)
    encoder.tokenizer.cell_pooling = "mean"
    with encoder.evaluating():
        states = encoder.states(encoder.tokenizer.encode_cells(COUNTS[:3], NAMES), output_genes=True)
    for cell in range(3):
        assert_close(states.cell[cell], states.genes[cell][states.gene_rows[cell] >= 0].mean(dim=0), **CLOSE)


def test_files_are_embedded_whatever_the_batch_and_runs_go_on(converted, tmp_path):
    adata().write_h5ad(tmp_path / "cells.h5ad")
    output = embed(tmp_path / "cells.h5ad", converted, output=tmp_path / "out.h5ad")
    rows = anndata.read_h5ad(output).obsm["X_cell2sentence"]
    for batch_size in (1, 7):
        again = embed(adata(), converted, batch_size=batch_size).obsm["X_cell2sentence"]
        np.testing.assert_allclose(again, rows, atol=1e-5)
    assert anndata.read_h5ad(output).uns["X_cell2sentence"]["task"] == "cell_type_prediction"
    embed(tmp_path / "cells.h5ad", converted, output=output, resume=True)
    with pytest.raises(ValueError, match=r"made with other settings: .*task was 'cell_type_prediction'"):
        embed(tmp_path / "cells.h5ad", converted, output=output, resume=True, task="embedding")


def test_another_layer(converted):
    last, before = (embed(adata(), converted, hidden_layer=layer).obsm["X_cell2sentence"] for layer in (-1, -2))
    assert np.abs(last - before).max() > 0.01
    with pytest.raises(ValueError, match=r"the model has the layers -1 \(last\) to -3 \(input\)"):
        embed(adata(), converted, hidden_layer=-4)


def test_perturbed_cells_move(converted):
    encoder = CellEncoder.from_pretrained(converted)
    encoding = encoder.tokenizer.encode_cells(COUNTS[:3], NAMES)
    gene = encoder.tokenizer.rows["FCGR3A"]
    with encoder.evaluating():
        before = encoder.states(encoding).cell
        after = encoder.states(encoder.tokenizer.set_genes(encoding, [gene], "delete")).cell
    has = torch.tensor(COUNTS[:3, gene] > 0)
    moved = (1 - torch.cosine_similarity(before, after)) > 1e-6
    assert torch.equal(moved, has)


def test_a_model_that_does_not_say_how_wide_it_is_gets_a_batch_size():
    config = GPT2Config(vocab_size=345, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    embedded = embed(adata(), GPT2Model(config), tokenizer=processor())
    assert embedded.obsm["X_cell2sentence"].shape == (30, 16)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    with pytest.raises(ValueError, match=r"The tokenizer has \d+ tokens, but the model has 300"):
        embed(adata(), GPT2Model(config), tokenizer=processor())


def test_a_model_that_lies_partly_on_the_disk(converted, tmp_path):
    whole = AutoModelForCausalLM.from_pretrained(converted)
    parts = {f"gpt_neox.{name}": "cpu" for name in ("embed_in", "layers.0", "final_layer_norm", "rotary_emb")}
    parted = AutoModelForCausalLM.from_pretrained(
        converted, device_map={**parts, "gpt_neox.layers.1": "disk", "lm_head": "cpu"}, offload_folder=tmp_path
    )
    assert any(tensor.is_meta for tensor in parted.state_dict().values())
    ours, theirs = (embed(adata(), model, tokenizer=str(converted)) for model in (parted, whole))
    np.testing.assert_allclose(ours.obsm["X_cell2sentence"], theirs.obsm["X_cell2sentence"], atol=1e-6)
    records = [embedded.uns["X_cell2sentence"]["model_sha256"] for embedded in (ours, theirs)]
    assert records[0] == records[1]


@pytest.mark.parametrize(("dtype", "close"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_half_precisions_are_finite_and_close(converted, dtype, close):
    whole, half = (embed(adata(), converted, dtype=kind).obsm["X_cell2sentence"] for kind in ("float32", dtype))
    assert np.isfinite(half).all()
    # Eight and eleven bits, over two layers.
    assert np.abs(half - whole).max() < close * np.abs(whole).max()


def test_a_quantised_checkpoint_is_placed_and_never_moved(converted, monkeypatch):
    from transformers import AutoConfig, AutoModel

    given = {}
    model = AutoModel.from_pretrained(converted)
    config = AutoConfig.from_pretrained(converted)
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}

    def load(name, **options):
        given.update(options)
        return model, {"missing_keys": []}

    def refuse(*args, **kwargs):
        raise AssertionError("a quantised model cannot be moved")

    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *args, **options: config)
    monkeypatch.setattr(AutoModel, "from_pretrained", load)
    monkeypatch.setattr(model, "to", refuse)
    CellEncoder.from_pretrained(converted, tokenizer=processor(), device=torch.device("cpu"))
    assert given["device_map"] == {"": torch.device("cpu")}
