"""Folders of Geneformer become stock models with a tokenizer: the same outputs, nothing lost, and nothing guessed."""

import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
)

from state_hf import GeneformerTokenizer, convert, inspect
from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from tests.geneformer_models import COUNTS, FOLDER, IDS, dictionaries, expected, lists, ragged

# A GPU's or another library's arithmetic differs by some units in the last place of float32, which 3 layers add up.
CLOSE = {"rtol": 0, "atol": 2e-5}
MODELS = ("v1/model", "v1/cell_classifier", "v1/gene_classifier", "v2/model")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("geneformer")
    for name in MODELS:
        convert(FOLDER / name, folder / name)
    return folder


@pytest.fixture
def source(tmp_path):
    """A copy of the first release that may be damaged."""
    return shutil.copytree(FOLDER / "v1", tmp_path / "v1") / "model"


@pytest.mark.parametrize("release", ["v1", "v2"])
class TestModels:
    def test_tokens(self, converted, release):
        tokenizer = AutoTokenizer.from_pretrained(converted / release / "model")
        assert isinstance(tokenizer, GeneformerTokenizer)
        assert lists(tokenizer.encode_cells(COUNTS, IDS)) == ragged(release)

    def test_hidden_states(self, converted, release):
        stored = expected(f"{release}_model")
        model = AutoModel.from_pretrained(converted / release / "model")
        inputs = {name: stored[name] for name in ("input_ids", "attention_mask")}
        output = model(**inputs, output_hidden_states=True)
        for layer, states in enumerate(output.hidden_states):
            real = stored["attention_mask"] == 1
            assert_close(states[real], stored[f"hidden.{layer}"][real], **CLOSE)

    def test_attentions_and_states_of_masked_genes(self, converted, release):
        stored = expected(f"{release}_model")
        model = AutoModel.from_pretrained(converted / release / "model", attn_implementation="eager")
        inputs = {"input_ids": stored["masked_input_ids"], "attention_mask": stored["attention_mask"]}
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        real = stored["attention_mask"] == 1
        for layer, states in enumerate(output.hidden_states):
            assert_close(states[real], stored[f"masked.hidden.{layer}"][real], **CLOSE)
        assert len(output.attentions) == model.config.num_hidden_layers
        for layer, shares in enumerate(output.attentions):
            assert_close(
                shares.transpose(1, 2)[real], stored[f"masked.attention.{layer}"].transpose(1, 2)[real], **CLOSE
            )

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_masked_genes(self, converted, release, attention):
        stored = expected(f"{release}_model")
        model = AutoModelForMaskedLM.from_pretrained(converted / release / "model", attn_implementation=attention)
        output = model(
            input_ids=stored["masked_input_ids"], attention_mask=stored["attention_mask"], labels=stored["labels"]
        )
        assert_close(output.logits, stored["logits"], **CLOSE)
        assert_close(output.loss, stored["loss"], **CLOSE)
        output.loss.backward()
        weights = dict(model.named_parameters())
        for name, gradient in stored.items():
            if name.startswith("grad."):
                found = weights[name.removeprefix("grad.")].grad
                assert (found - gradient).norm() <= 1e-4 * gradient.norm()

    def test_names_and_ids(self, converted, release):
        tokenizer = AutoTokenizer.from_pretrained(converted / release / "model")
        tokens, medians = dictionaries(release)
        assert tokenizer.get_vocab() == tokens
        assert dict(zip(tokenizer.genes, tokenizer.medians.tolist(), strict=True)) == medians
        first = tokenizer.genes[0]
        assert tokenizer("SYM0")["input_ids"] == tokenizer(first)["input_ids"] == tokenizer(f"{first}.3")["input_ids"]
        symbols = tokenizer.gene_index.report([f"SYM{row}" for row in range(47)], column="index")
        assert (symbols.by_symbol, symbols.by_id, symbols.by_alias) == (47, 0, {})


def test_classified_cells(converted):
    stored = expected("v1_classifiers")
    model = AutoModelForSequenceClassification.from_pretrained(converted / "v1/cell_classifier")
    inputs = {name: stored[name] for name in ("input_ids", "attention_mask")}
    output = model(**inputs, labels=stored["cell_labels"])
    assert_close(output.logits, stored["cell_logits"], **CLOSE)
    assert_close(output.loss, stored["cell_loss"], **CLOSE)
    assert_close(model.bert(**inputs).pooler_output, stored["cell_pooled"], **CLOSE)


def test_classified_genes(converted):
    stored = expected("v1_classifiers")
    model = AutoModelForTokenClassification.from_pretrained(converted / "v1/gene_classifier")
    inputs = {name: stored[name] for name in ("input_ids", "attention_mask")}
    output = model(**inputs, labels=stored["gene_labels"])
    real = stored["attention_mask"] == 1
    assert_close(output.logits[real], stored["gene_logits"][real], **CLOSE)
    assert_close(output.loss, stored["gene_loss"], **CLOSE)


def test_the_record_says_where_all_of_it_is_from(converted):
    record = json.loads((converted / "v1/cell_classifier/conversion.json").read_text())
    original = record["original"]
    assert (original["stage"], original["release"]) == ("fine-tuned to classify cells", "V1")
    assert set(original["sha256"]) == {
        "pytorch_model.bin",
        "token_dictionary.pkl",
        "gene_median_dictionary.pkl",
        "gene_name_id_dict.pkl",
    }
    # What is trained further keeps it.
    config = json.loads((converted / "v1/cell_classifier/config.json").read_text())
    assert config["converted_from"]["original"] == {"file": "pytorch_model.bin"}
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForSequenceClassification"])
    assert "as-the-original" in (converted / "v1/cell_classifier/README.md").read_text()


def test_labels_of_classes_and_a_licence_are_kept(source, tmp_path):
    folder = source.with_name("cell_classifier")
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "B", "1": "T", "2": "NK"}, "label2id": {"B": 0, "T": 1, "NK": 2}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "LICENSE.txt").write_text("Free.\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert inspect(folder).facts["classes"] == "B, T, NK"
    convert(folder, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "B", 1: "T", 2: "NK"}
    card = (tmp_path / "out/README.md").read_text()
    assert "[LICENSE.txt](LICENSE.txt)" in card
    record = json.loads((tmp_path / "out/conversion.json").read_text())
    assert "The README.md of the source says: apache-2.0." in record["licence"]["note"]


@pytest.mark.parametrize("name", MODELS)
def test_inspect_says_the_same_before_and_after(converted, name):
    before, after = inspect(FOLDER / name), inspect(converted / name)
    assert before.missing == after.missing == []
    for topic in ("sizes", "input", "output", "vocabulary"):
        assert before.facts[topic] == after.facts[topic]
    assert before.facts["release"] == name[:2].upper()
    assert before.facts.get("classes") == after.facts.get("classes")


def test_without_this_package_the_model_loads_and_the_tokenizer_says_what_to_install(converted):
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'state_hf':\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from transformers import AutoModelForMaskedLM, AutoTokenizer\n"
        "print(type(AutoModelForMaskedLM.from_pretrained(sys.argv[1])).__name__)\n"
        "AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(converted / "v1/model")], capture_output=True, text=True, check=False
    )
    assert "BertForMaskedLM" in done.stdout
    assert "needs the package state-hf. Install it with `pip install state-hf`" in done.stderr


def test_with_this_package_the_tokenizer_is_found_without_its_import(converted):
    program = (
        "import sys\nfrom transformers import AutoTokenizer\n"
        "print(type(AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(converted / "v1/model")], capture_output=True, text=True)
    assert done.stdout.strip() == "GeneformerTokenizer", done.stderr


# Dictionaries


def test_dictionaries_in_a_folder_of_their_own(source, tmp_path):
    shutil.rmtree(tmp_path / "apart", ignore_errors=True)
    (tmp_path / "apart").mkdir()
    for path in source.parent.glob("*.pkl"):
        path.rename(tmp_path / "apart" / path.name)
    with pytest.raises(CheckpointError, match=r"There is no token_dictionary\*\.pkl \(or \.json\) in .*dictionaries="):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", dictionaries=tmp_path / "apart")
    assert lists(AutoTokenizer.from_pretrained(tmp_path / "out").encode_cells(COUNTS, IDS)) == ragged("v1")


def test_dictionaries_as_the_repository_of_the_original_has_them(tmp_path):
    """Both releases in one tree: each model takes the one of as many tokens, and its medians."""
    package = tmp_path / "geneformer" / "gene_dictionaries_30m"
    package.mkdir(parents=True)
    for path in (FOLDER / "v1").glob("*.pkl"):
        shutil.copy(path, package / f"{path.stem}_gc30M.pkl")
    for path in (FOLDER / "v2").glob("*.pkl"):
        shutil.copy(path, package.parent)
    for release in ("v1", "v2"):
        shutil.copytree(FOLDER / release / "model", tmp_path / release)
        convert(tmp_path / release, tmp_path / f"{release}-out")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"{release}-out")
        assert lists(tokenizer.encode_cells(COUNTS, IDS)) == ragged(release)
    notes = json.loads((tmp_path / "v1-out/conversion.json").read_text())["notes"]
    assert "dictionaries: token_dictionary_gc30M.pkl and gene_median_dictionary_gc30M.pkl" in notes


def test_dictionaries_in_json(source, tmp_path):
    tokens, medians = dictionaries()
    for path in source.parent.glob("*.pkl"):
        path.unlink()
    (source / "token_dictionary.json").write_text(json.dumps(tokens))
    (source / "gene_median_dictionary.json").write_text(json.dumps(medians))
    model = convert(source, tmp_path / "out")
    assert "there is no gene_name_id_dict, so genes are known by Ensembl id alone" in model.notes
    assert lists(AutoTokenizer.from_pretrained(tmp_path / "out").encode_cells(COUNTS, IDS)) == ragged("v1")


def test_a_whole_repository_of_the_second_release_in_json(tmp_path):
    """Models side by side, continued ones too, and the dictionaries of all in the folder beside them."""
    package = tmp_path / "geneformer"
    package.mkdir()
    for path in (FOLDER / "v2").glob("*.pkl"):
        content = pickle.loads(path.read_bytes())
        plain = {name: getattr(value, "item", lambda value=value: value)() for name, value in content.items()}
        (package / f"{path.stem}.json").write_text(json.dumps(plain))
    for name in ("Geneformer-V2-38M", "Geneformer-V2-38M_CLcancer"):
        shutil.copytree(FOLDER / "v2" / "model", tmp_path / name)
        assert inspect(tmp_path / name).facts["release"] == "V2"
        convert(tmp_path / name, tmp_path / "out" / name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / name)
        assert lists(tokenizer.encode_cells(COUNTS, IDS)) == ragged("v2")
        again = load_file(tmp_path / "out" / name / "model.safetensors")
        for key, value in load_file(FOLDER / "v2" / "model" / "model.safetensors").items():
            assert torch.equal(again[key], value), key


@pytest.mark.parametrize(("model", "other"), [("v1", "v2"), ("v2", "v1")])
def test_the_dictionary_of_another_release_is_refused(model, other, tmp_path):
    with pytest.raises(CheckpointError, match=r"tokens, but .*a dictionary of another release of the model"):
        convert(FOLDER / model / "model", tmp_path / "out", dictionaries=FOLDER / other)


def test_medians_of_another_release_are_refused(source, tmp_path):
    _, medians = dictionaries()
    (source.parent / "gene_median_dictionary.pkl").write_bytes(pickle.dumps({**medians, "ENSG00000000777": 1.5}))
    with pytest.raises(CheckpointError, match=r"medians of 1 genes without a token .*ENSG00000000777"):
        convert(source, tmp_path / "out")


def test_genes_without_a_median_are_noted(source, tmp_path):
    _, medians = dictionaries()
    medians.pop(next(iter(medians)))
    (source.parent / "gene_median_dictionary.pkl").write_bytes(pickle.dumps(medians))
    model = convert(source, tmp_path / "out")
    assert "1 genes have no median, so they are never read, as in the original" in model.notes


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("token_dictionary.pkl", {"<pad>": 0, "ENSG00000000001": "1"}, "to hold token ids by name"),
        ("token_dictionary.pkl", {"<pad>": 0, "ENSG00000000001": True}, "to hold token ids by name"),
        ("gene_median_dictionary.pkl", {"ENSG00001011431": float("nan")}, "to hold medians above 0"),
        ("gene_median_dictionary.pkl", {"ENSG00001011431": 0.0}, "to hold medians above 0"),
        ("gene_name_id_dict.pkl", {"A": 3}, "to hold gene ids by name"),
        ("gene_name_id_dict.pkl", ["A"], "is no dictionary, but a list"),
    ],
)
def test_dictionaries_of_something_else_are_refused(source, tmp_path, name, content, words):
    (source.parent / name).write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tokens: {**tokens, "<pad>": 1, "<mask>": 0}, "<pad> is 1, but it is 0 in"),
        (
            lambda tokens: {gene: 2 if n == 3 else n for gene, n in tokens.items()},
            "ids are not the numbers from 0 to 48",
        ),
        (lambda tokens: {**tokens, "<mask>": 4, "ENSG00001108956": 1}, "ids of its genes are not consecutive"),
    ],
)
def test_impossible_numberings_are_refused(source, tmp_path, change, words):
    (source.parent / "token_dictionary.pkl").write_bytes(pickle.dumps(change(dictionaries()[0])))
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "out")


class _Runs:
    def __reduce__(self):
        return print, ("this ran",)


def test_code_in_a_pickle_is_refused_and_not_run(source, tmp_path, capsys):
    for path in (source.parent / "gene_median_dictionary.pkl", source / "pytorch_model.bin"):
        kept = path.read_bytes()
        path.write_bytes(pickle.dumps({"ENSG00001011431": _Runs()}))
        with pytest.raises(UnsafeCheckpointError, match=r"names builtins.print, which is code"):
            convert(source, tmp_path / "out")
        path.write_bytes(kept)
    assert "this ran" not in capsys.readouterr().out


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 41000000\n"


@pytest.mark.parametrize("name", ["model/pytorch_model.bin", "model/config.json", "gene_median_dictionary.pkl"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_POINTER, "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><title>Sign in</title>", r"is a web page \('Sign in'\)"),
        (b"", r"is empty \(0 bytes\)"),
    ],
)
def test_what_is_no_such_file_is_named(source, tmp_path, name, content, words):
    (source.parent / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["model/pytorch_model.bin", "token_dictionary.pkl"])
def test_truncated_files_are_named(source, tmp_path, name):
    path = source.parent / name
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(CheckpointError, match=path.name):
        convert(source, tmp_path / "out")


# Weights


def stored_weights(source) -> dict[str, torch.Tensor]:
    return torch.load(source / "pytorch_model.bin", weights_only=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("bert.encoder.layer.1.output.dense.weight"), "1 of the model's weights are missing: bert.enc"),
        (lambda w: w.update({"bert.extra": torch.ones(1)}), "1 weights have no place in the model: bert.extra"),
        (lambda w: w.update({"cls.predictions.transform.dense.bias": torch.ones(3)}), "dense.bias is 3 and not 24"),
        (
            lambda w: w.update({"cls.predictions.decoder.weight": torch.zeros(49, 24)}),
            "decoder.weight differs from bert.embeddings.word_embeddings.weight, of which it is a copy",
        ),
    ],
)
def test_every_weight_is_accounted_for(source, tmp_path, change, words):
    weights = stored_weights(source)
    change(weights)
    torch.save(weights, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "out")


def test_a_missing_head_is_named(source, tmp_path):
    folder = source.with_name("cell_classifier")
    weights = {name: value for name, value in stored_weights(folder).items() if not name.startswith("classifier")}
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"are missing: classifier.weight 3 x 24, classifier.bias 3"):
        convert(folder, tmp_path / "out")


def test_weights_in_every_format_of_transformers(source, converted, tmp_path):
    weights, expected_weights = stored_weights(source), load_file(converted / "v1/model/model.safetensors")
    (source / "pytorch_model.bin").unlink()
    names = sorted(weights)
    index = {name: f"pytorch_model-{1 + at % 2:05}-of-00002.bin" for at, name in enumerate(names)}
    for file in set(index.values()):
        torch.save({name: weights[name] for name in names if index[name] == file}, source / file)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    convert(source, tmp_path / "shards")
    assert_close(load_file(tmp_path / "shards/model.safetensors"), expected_weights, rtol=0, atol=0)
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: its shard pytorch_model-00002-of-00002.bin is missing"):
        convert(source, tmp_path / "out")
    save_file({name: value.clone() for name, value in weights.items()}, source / "model.safetensors")
    convert(source, tmp_path / "safe")
    assert_close(load_file(tmp_path / "safe/model.safetensors"), expected_weights, rtol=0, atol=0)


def test_a_model_that_this_version_of_transformers_saved(source, tmp_path):
    model = BertForMaskedLM.from_pretrained(source)
    model.save_pretrained(source)
    (source / "pytorch_model.bin").unlink()
    assert convert(source, tmp_path / "out").account.ignored == {}


def test_options_and_classes_that_do_not_belong_are_refused(source, tmp_path):
    with pytest.raises(CheckpointError, match=r"genes=.* has no meaning for a checkpoint of Geneformer"):
        convert(source, tmp_path / "out", genes=tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint='.*' has no meaning"):
        convert(source, tmp_path / "out", checkpoint="final.ckpt")
    with pytest.raises(CheckpointError, match="which is to hold the dictionaries, is no folder"):
        convert(source, tmp_path / "out", dictionaries=source / "config.json")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "architectures": ["BertForQuestionAnswering"]}))
    with pytest.raises(CheckpointError, match="names the class BertForQuestionAnswering; known are BertForMaskedLM"):
        convert(source, tmp_path / "out")


def test_a_bert_that_reads_text_is_none(tmp_path):
    model = BertForMaskedLM(BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(CheckpointError, match="is a bert model, which is not of this package"):
        inspect(tmp_path)
