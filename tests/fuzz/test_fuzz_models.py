"""Model folders of any content: configurations, vocabularies, tokenizers, and weights."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from state_hf import (
    PerturbationBaseline,
    PerturbationBaselineConfig,
    load_gene_table,
)
from state_hf.configuration.model_folders import loading_from
from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary
from state_hf.conversion.safetensors_file import read_safetensors, read_weights
from state_hf.data.screens.perturbation_features import read_perturbation_features
from state_hf.gene_embeddings.gene_table import GeneTable
from state_hf.inference.cell_predictor import load_perturbation_model
from state_hf.inference.loading import load_model, load_tokenizer
from tests.fuzz.cases import fuzzed, one_case
from tests.fuzz.damaged_bytes import byte_damages, damaged
from tests.fuzz.damaged_values import value_damages
from tests.tiny_models import save_state_embedding, state_transition_model

GENES = [f"GENE{number}" for number in range(12)]
JSON_WORDS = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"1e999", b"NaN", b"-", b"\\ud800", b"dtype", b"F32"]


@pytest.fixture(scope="module")
def embedding_folder(folder):
    return save_state_embedding(folder / "embedding", GENES)


@pytest.fixture(scope="module")
def transition_folder(folder):
    vocabulary = PerturbationVocabulary(["non-targeting", "A", "B"], "non-targeting", ["b"], ["T"], GENES)
    state_transition_model(vocabulary).save_pretrained(folder / "transition")
    return folder / "transition"


@pytest.fixture(scope="module")
def baseline_folder(folder):
    config = PerturbationBaselineConfig(
        method="perturbation_ridge", input_dim=len(GENES), num_perturbations=3, perturbation_dim=3, num_cell_types=1
    )
    baseline = PerturbationBaseline(config)
    baseline.vocabulary = PerturbationVocabulary(["non-targeting", "A", "B"], "non-targeting", ["b"], ["T"], GENES)
    baseline.save_pretrained(folder / "baseline")
    return folder / "baseline"


def copy_of(source):
    target = source.with_name(f"damaged-{source.name}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def use_embedding_model(path):
    model = load_model(path)
    tokenizer = load_tokenizer(path, model)
    ids = torch.tensor([[model.config.cls_token_id, 1, 2]])
    with torch.no_grad():
        output = model(input_ids=ids, expression=torch.ones(1, 3), attention_mask=torch.ones_like(ids))
    assert output.cell_embedding.shape == (1, model.config.output_dim)
    assert torch.isfinite(output.cell_embedding).all()
    assert len(tokenizer.genes) == model.config.num_genes


def use_transition_model(path):
    model = load_perturbation_model(path).eval()
    with torch.no_grad():
        control = torch.zeros(1, 4, model.config.input_dim)
        output = model(control, perturbation_ids=torch.zeros(1, dtype=torch.long))
    assert torch.isfinite(output.predicted_cells).all()


def damage_json(path, damages):
    path.write_text(json.dumps(damaged(json.loads(path.read_text()), damages)))


EMBEDDING_FIELDS = ["hidden_act", "dtype", "model_type", "architectures", "auto_map", "attn_implementation", "d_model"]


@fuzzed
@given(file=st.sampled_from(["config.json", "tokenizer_config.json"]), damages=value_damages(EMBEDDING_FIELDS))
def test_embedding_configuration(embedding_folder, file, damages):
    path = copy_of(embedding_folder)
    damage_json(path / file, damages)
    with one_case():
        use_embedding_model(path)


@fuzzed
@given(
    file=st.sampled_from(["config.json", "vocabulary.json"]),
    damages=value_damages(["gene_decoder", "output_dim", "head_dim", "loss", "backbone", "quantization_config"]),
)
def test_transition_configuration(transition_folder, file, damages):
    path = copy_of(transition_folder)
    damage_json(path / file, damages)
    with one_case():
        use_transition_model(path)


@fuzzed
@given(
    file=st.sampled_from(["config.json", "vocabulary.json"]),
    damages=value_damages(["method", "context_profile", "perturbation_profile", "feature_scale", "model_type"]),
)
def test_baseline_configuration(baseline_folder, file, damages):
    path = copy_of(baseline_folder)
    damage_json(path / file, damages)
    with one_case():
        use_transition_model(path)


@fuzzed
@given(damages=byte_damages(JSON_WORDS), file=st.sampled_from(["config.json", "vocabulary.json"]))
def test_json_of_any_bytes(transition_folder, file, damages):
    path = copy_of(transition_folder)
    (path / file).write_bytes(damaged((path / file).read_bytes(), damages))
    with one_case():
        if file == "config.json":
            with loading_from(path):
                AutoConfig.from_pretrained(path, trust_remote_code=False)
        else:
            PerturbationVocabulary.load(path / file)


def with_header(content, change):
    """A safetensors file whose header went through `change`, with its length made right again."""
    length = struct.unpack("<Q", content[:8])[0]
    header = change(content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def damaged_tensors(content, how, damages, values):
    if how == "bytes":
        return damaged(content, damages)
    if how == "header bytes":
        return with_header(content, lambda header: damaged(header, damages))
    return with_header(content, lambda header: json.dumps(damaged(json.loads(header), values)).encode())


HOW = st.sampled_from(["bytes", "header bytes", "header values"])


@fuzzed
@given(how=HOW, damages=byte_damages(JSON_WORDS), values=value_damages(["__metadata__"]))
def test_safetensors(folder, embedding_folder, how, damages, values):
    path = folder / "model.safetensors"
    content = (embedding_folder / "model.safetensors").read_bytes()
    path.write_bytes(damaged_tensors(content, how, damages, values))
    with one_case(path.name):
        for stored in read_safetensors(path).values():
            assert tuple(stored.load().shape) == stored.shape


@fuzzed
@given(how=HOW, damages=byte_damages(JSON_WORDS), values=value_damages(["gene_table.weight"]))
def test_weights_of_a_model(embedding_folder, how, damages, values):
    path = copy_of(embedding_folder)
    weights = path / "model.safetensors"
    weights.write_bytes(damaged_tensors(weights.read_bytes(), how, damages, values))
    with one_case(path.name):
        use_embedding_model(path)


@fuzzed
@given(damages=value_damages(["weight_map"]))
def test_index_of_shards(folder, embedding_folder, damages):
    path = folder / "shards"
    path.mkdir(exist_ok=True)
    shutil.copyfile(embedding_folder / "model.safetensors", path / "model-1.safetensors")
    index = {"metadata": {"total_size": 10}, "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(damaged(index, damages)))
    with one_case(path.name):
        assert read_weights(path)


@pytest.fixture(scope="module")
def table_folder(folder):
    GeneTable(GENES, torch.arange(36.0).reshape(12, 3), {"model": "x"}).save_pretrained(folder / "table")
    return folder / "table"


@fuzzed
@given(
    file=st.sampled_from(["gene_table.safetensors", "genes.txt", "gene_table.json"]),
    damages=byte_damages(JSON_WORDS),
    how=HOW,
    values=value_damages(),
)
def test_gene_table(table_folder, file, how, damages, values):
    path = copy_of(table_folder)
    content = (path / file).read_bytes()
    is_tensors = file.endswith("safetensors")
    (path / file).write_bytes(
        damaged_tensors(content, how, damages, values) if is_tensors else damaged(content, damages)
    )
    with one_case(path.name):
        table = load_gene_table(path)
        assert table.embeddings.shape == (len(table.genes), table.width)


FEATURES = b"name,one,two\nA,1.0,2.0\nB,3.0,4.0\nnon-targeting,0,0\n"


@fuzzed
@given(kind=st.sampled_from(["csv", "tsv", "safetensors"]), how=HOW, damages=byte_damages(), values=value_damages())
def test_perturbation_features(folder, table_folder, kind, how, damages, values):
    path = folder / f"features.{kind}"
    if kind == "safetensors":
        content = damaged_tensors((table_folder / "gene_table.safetensors").read_bytes(), how, damages, values)
    else:
        content = damaged(FEATURES if kind == "csv" else FEATURES.replace(b",", b"\t"), damages)
    path.write_bytes(content)
    with one_case(path.name):
        features = read_perturbation_features(path)
        assert len({vector.shape for vector in features.values()}) == 1
        assert all(np.isfinite(vector).all() for vector in features.values())
