"""What is particular to the State Embedding model."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from state_hf import StateEmbeddingConfig, StateEmbeddingForMaskedExpression, StateEmbeddingModel
from tests.modeling.conftest import CELLS, GENES, TOKENS, sentences, state_embedding_config


@pytest.fixture(scope="module")
def model():
    # In double precision two ways to one result are apart by far less than any mistake would bring.
    torch.manual_seed(0)
    return StateEmbeddingModel(state_embedding_config()).double().eval()


def embed(model, **inputs):
    with torch.no_grad():
        return model(**inputs)


def test_the_primers_snippet_runs_on_a_local_folder(tmp_path):
    StateEmbeddingModel(state_embedding_config(gene_embedding_dim=5120)).save_pretrained(tmp_path)
    model = StateEmbeddingModel.from_pretrained(tmp_path)
    input_ids = torch.randn((1, 1, 5120), dtype=torch.float32)
    mask = torch.ones((1, 1, 5120), dtype=torch.bool)
    mask[:, :, 2560:] = False
    outputs = model(input_ids, mask)
    assert outputs["gene_output"].shape == (1, 1, 24)
    assert outputs.cell_embedding.norm().item() == pytest.approx(1)


def test_the_embedding_is_the_cells_then_the_datasets(model):
    output = embed(model, **sentences())
    assert output.embedding.shape == (CELLS, model.config.embedding_dim) == (CELLS, 24 + 10)
    assert_close(output.cell_embedding.norm(dim=-1), torch.ones(CELLS).double())
    assert output.gene_output.shape == (CELLS, TOKENS + 1, 24)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_genes_does_not_matter(model, seed):
    inputs = sentences()
    order = torch.randperm(TOKENS - 1, generator=torch.Generator().manual_seed(seed)) + 1
    shuffled = {k: torch.cat([v[:, :1], v[:, order]], dim=1) for k, v in inputs.items()}
    assert_close(embed(model, **shuffled).embedding, embed(model, **inputs).embedding)


@settings(max_examples=20)
@given(padding=st.integers(1, 12), cell=st.integers(0, CELLS - 1))
def test_padding_and_the_other_cells_do_not_matter(model, padding, cell):
    inputs = sentences()
    alone = {k: v[cell : cell + 1] for k, v in inputs.items()}
    padded = {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, padding), value=model.config.pad_token_id),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, padding)),
        "expression": torch.nn.functional.pad(inputs["expression"], (0, padding), value=7.0),
    }
    expected = embed(model, **alone).embedding[0]
    for output_genes in (True, False):
        got = embed(model, **padded, output_genes=output_genes).embedding[cell]
        assert_close(got, expected)


def test_without_gene_outputs_the_embedding_is_the_same(model):
    whole, special = (embed(model, **sentences(), output_genes=o) for o in (True, False))
    assert special.gene_output is None
    assert_close(special.embedding, whole.embedding)


def test_the_id_of_the_first_token_does_not_matter(model):
    inputs = sentences()
    expected = embed(model, **inputs).embedding
    inputs["input_ids"][:, 0] = 3
    assert_close(embed(model, **inputs).embedding, expected, rtol=0, atol=0)


def test_expression_matters(model):
    inputs = sentences()
    expected = embed(model, **inputs).embedding
    inputs["expression"] = inputs["expression"] * 3
    assert (embed(model, **inputs).embedding - expected).abs().max() > 1e-4


def test_gene_features_are_computed_once_and_again_when_weights_change():
    model = StateEmbeddingModel(state_embedding_config()).double().eval()
    calls = []
    model.gene_encoder.register_forward_hook(lambda module, args, output: calls.append(output.shape[0]))
    embed(model, **sentences())
    assert calls.count(GENES) == 1
    embed(model, **sentences())
    assert calls.count(GENES) == 1
    before = embed(model, **sentences()).embedding
    with torch.no_grad():
        model.gene_encoder.dense.weight.mul_(1.5)
    after = embed(model, **sentences()).embedding
    assert calls.count(GENES) == 2
    assert not torch.allclose(before, after)
    assert_close(after, model(**sentences()).embedding)  # with gradients: nothing is cached
    model.to(torch.bfloat16)
    assert embed(model, **sentences()).embedding.dtype == torch.bfloat16


def test_gene_features_may_be_cached_in_inference_mode(model):
    with torch.inference_mode():
        first = model(**sentences()).embedding
    assert_close(embed(model, **sentences()).embedding, first.clone(), rtol=0, atol=0)


def test_a_long_sentence_trains_through_the_whole_table_and_a_short_one_through_its_genes():
    torch.manual_seed(0)
    model = StateEmbeddingModel(state_embedding_config(train_gene_table=True)).double()
    gradients = []
    for repeats in (1, 6):  # 3 cells x 9 genes are fewer than the table's 40, 18 x 9 are more
        inputs = {k: v.repeat(repeats, 1) for k, v in sentences().items()}
        model.zero_grad()
        model(**inputs).embedding.square().sum().div(repeats).backward()
        gradients.append(model.gene_table.weight.grad.clone())
    assert_close(gradients[0], gradients[1])


def test_the_gene_table_is_fixed_unless_asked_for():
    assert not StateEmbeddingModel(state_embedding_config()).gene_table.weight.requires_grad


def test_decoded_expression_is_the_same_alone_and_in_a_batch():
    model = StateEmbeddingForMaskedExpression(state_embedding_config()).double().eval()
    genes = torch.tensor([4, 9, 33])
    with torch.no_grad():
        output = model(**sentences(), target_ids=genes)
        alone = model.decode_expression(
            output.cell_embedding[1:2], genes, dataset_embedding=output.dataset_embedding[1:2]
        )
        assert output.predicted_expression.shape == (CELLS, 3)
        assert_close(output.predicted_expression[1:2], alone)
        deeper = model.decode_expression(
            output.cell_embedding, genes, dataset_embedding=output.dataset_embedding, read_depth=8.0
        )
        assert not torch.allclose(deeper, output.predicted_expression)


def test_labels_of_minus_100_are_ignored():
    model = StateEmbeddingForMaskedExpression(state_embedding_config()).eval()
    target_ids = torch.arange(8).expand(CELLS, 8)
    labels = torch.rand(CELLS, 8, generator=torch.Generator().manual_seed(0))
    labels[:, 5:] = -100
    whole = model(**sentences(), target_ids=target_ids, labels=labels)
    part = model(**sentences(), target_ids=target_ids[:, :5], labels=labels[:, :5])
    assert_close(whole.loss, part.loss)
    expected = (part.predicted_expression - labels[:, :5]).square().mean()
    assert_close(part.expression_loss, expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "either input_ids or inputs_embeds"),
        ({"input_ids": torch.ones(1, 3).long(), "inputs_embeds": torch.ones(1, 3, 16)}, "either"),
        ({"input_ids": torch.ones(1, 3).long(), "expression": torch.ones(1, 4)}, r"expression has the shape \(1, 4\)"),
        ({"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.ones(1, 9)}, r"attention_mask has the shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, inputs, message):
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_targets_that_do_not_fit_are_refused():
    model = StateEmbeddingForMaskedExpression(state_embedding_config(use_dataset_token=False))
    with pytest.raises(ValueError, match="labels need target_ids"):
        model(**sentences(), labels=torch.ones(CELLS, 2))
    with pytest.raises(ValueError, match="no dataset token"):
        model(**sentences(), dataset_labels=torch.ones(CELLS).long())
    with_token = StateEmbeddingForMaskedExpression(state_embedding_config())
    with pytest.raises(ValueError, match="needs dataset_embedding"):
        with_token.decode_expression(torch.ones(1, 24), torch.tensor([1]))


def test_original_field_names_are_accepted():
    config = StateEmbeddingConfig(token_dim=1280, emsize=512, nhead=8, d_hid=1024, nlayers=4, bins=12, dropout=0.2)
    assert (config.gene_embedding_dim, config.hidden_size, config.num_attention_heads) == (1280, 512, 8)
    assert (config.intermediate_size, config.num_hidden_layers, config.num_expression_bins) == (1024, 4, 12)
    assert config.hidden_dropout_prob == 0.2
    assert config.d_model == config.emsize == 512


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 16}, "multiple of num_attention_heads"),
        ({"num_genes": 0}, "num_genes must be at least 1"),
        ({"hidden_size": "large"}, "hidden_size"),
        ({"cls_expression": "gene_4"}, "cls_expression"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        StateEmbeddingConfig(**fields)


def test_saved_weights_carry_the_original_names_and_load_compiled_ones(tmp_path):
    torch.manual_seed(0)
    model = StateEmbeddingModel(state_embedding_config()).eval()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights["transformer_encoder.layers.0.qkv_proj.weight"].shape == (96, 32)
    assert "pe_embedding.weight" in weights
    compiled = {}
    for name, value in weights.items():
        part, _, rest = name.partition(".")
        wrapped = part in ("transformer_encoder", "decoder", "binary_decoder")
        compiled[f"{part}._orig_mod.{rest}" if wrapped else name] = value
    save_file(compiled, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = StateEmbeddingModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_close(embed(loaded, **sentences()).embedding, embed(model, **sentences()).embedding, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_without_a_gene_table_takes_embeddings_and_refuses_ids(tmp_path):
    StateEmbeddingModel(state_embedding_config()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["pe_embedding.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = StateEmbeddingModel.from_pretrained(tmp_path)
    model(inputs_embeds=torch.ones(1, 4, 16))
    with pytest.raises(ValueError, match="no gene table"):
        model(**sentences())


def test_an_offloaded_model_is_the_same_model(tmp_path):
    model = StateEmbeddingModel(state_embedding_config()).eval()
    model.save_pretrained(tmp_path)
    # Older releases of accelerate refuse a model that is on the disk as a whole.
    names = [name for name, _ in model.named_children()]
    places = {**dict.fromkeys(names, "disk"), names[-1]: "cpu"}
    loaded = StateEmbeddingModel.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offload")
    assert loaded.gene_table.weight.is_meta
    assert_close(embed(loaded, **sentences()).embedding, embed(model, **sentences()).embedding, rtol=1e-5, atol=1e-5)


def test_auto_classes(tmp_path):
    model = StateEmbeddingForMaskedExpression(state_embedding_config())
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), StateEmbeddingConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), StateEmbeddingModel)
    assert isinstance(AutoModelForPreTraining.from_pretrained(tmp_path), StateEmbeddingForMaskedExpression)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_importing_state_hf_imports_neither_torch_nor_transformers():
    done = python("import sys, state_hf; print({'torch', 'transformers', 'anndata', 'numba'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr


LOAD = "import sys; from transformers import AutoModel; AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)"


def test_a_checkpoint_loads_as_remote_code_without_importing_state_hf(tmp_path):
    StateEmbeddingModel(state_embedding_config()).save_pretrained(tmp_path)
    assert "AutoModel" in json.loads((tmp_path / "config.json").read_text())["auto_map"]
    done = python(LOAD, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_says_what_to_install(tmp_path):
    StateEmbeddingModel(state_embedding_config()).save_pretrained(tmp_path)
    hide = "import sys; sys.modules['state_hf'] = None; "
    done = python(hide + LOAD, str(tmp_path))
    assert done.returncode != 0
    assert "pip install state-hf" in done.stderr


def test_saving_again_copies_no_code(tmp_path):
    StateEmbeddingModel(state_embedding_config()).save_pretrained(tmp_path / "a")
    model = AutoModel.from_pretrained(tmp_path / "a", trust_remote_code=True)
    model.save_pretrained(tmp_path / "b")
    saved = {"README.md", "config.json", "model.safetensors", "state_hf_classes.py"}
    assert {p.name for p in (tmp_path / "b").iterdir()} == saved
