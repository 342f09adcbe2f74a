"""Strictness: what is checked, asked for, recorded and said."""

import json
import pickle
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from state_hf import StateEmbeddingForMaskedExpression, StateTransitionConfig, StateTransitionForPerturbation
from state_hf.conversion.arc_state.to_arc import convert_to_arc
from state_hf.conversion.convert import convert
from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.inspection import inspect
from tests.conversion.conftest import FIXTURES, STATE_EMBEDDING, STATE_TRANSITION

SE, ST = STATE_EMBEDDING / "small", STATE_TRANSITION / "llama_causal_rotary"


@pytest.fixture
def run(tmp_path):
    """A copy of a run's folder, to be damaged."""
    return shutil.copytree(STATE_TRANSITION / "decoder", tmp_path / "run")


@pytest.fixture
def embedding(tmp_path):
    """A copy of a State Embedding checkpoint's folder, to be damaged."""
    return shutil.copytree(SE, tmp_path / "se")


def rewritten(path, change):
    """Change what a checkpoint holds."""
    content = torch.load(path, weights_only=False)  # a fixture of this repository
    change(content)
    torch.save(content, path)


def drop(name):
    return lambda content: content["state_dict"].pop(name)


def put(name, *shape):
    return lambda content: content["state_dict"].update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("project_out.0.bias"), r"1 of the model's weights are missing: project_out.0.bias 16"),
        (put("project_out.0.bias", 3), r"project_out.0.bias is 3 and not 16"),
        (put("unheard.of", 2), "1 weights have no place in the model: unheard.of"),
        (put("transformer_backbone.layers.7.mlp.up_proj.weight", 2, 2), "have no place in the model"),
        (lambda c: c["hyper_parameters"].update(hidden_dim=32), "do not have the shape"),
        (lambda c: c["hyper_parameters"].update(transformer_backbone_key="mamba"), "'mamba' backbone"),
        (lambda c: c["hyper_parameters"].update(pert_dim=9), "do not have the shape"),
        (lambda c: c["state_dict"].clear(), "no weights"),
        (lambda c: c["state_dict"].update(pert_encoder="text"), "is no tensor"),
        (lambda c: c.update(state_dict={"linear.weight": torch.ones(1)}), "neither a State Embedding nor"),
    ],
)
def test_a_run_that_does_not_fit(change, message, run, tmp_path):
    rewritten(run / "checkpoints" / "final.ckpt", change)
    with pytest.raises(CheckpointError, match=message):
        convert(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("bin_encoder.weight"), "bin_encoder.weight"),
        (drop("count_encoder.0.weight"), "no expression encoder"),
        (put("decoder.1.weight", 16, 31), "decoder.1.weight is 16 x 31 and not 16 x 32"),
        (lambda c: c.update(cfg_yaml="a: &a [1]\nb: *a"), "refers to its own parts"),
        (lambda c: c.update(cfg_yaml="a: !!python/object/apply:os.system [ls]"), "not YAML of plain values"),
        (lambda c: c["protein_embeds_dict"].update(GENE0=torch.zeros(24)), "is not that of"),
        (lambda c: c["protein_embeds_dict"].update(GENE0=torch.zeros(3)), "another width"),
        (lambda c: c["hyper_parameters"].update(nlayers=5), "are missing"),
    ],
)
def test_a_state_embedding_that_does_not_fit(change, message, embedding, tmp_path):
    rewritten(embedding / "se.ckpt", change)
    with pytest.raises(CheckpointError, match=message):
        convert(embedding, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_malicious_maps_beside_a_checkpoint(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    for file in ("var_dims.pkl", "batch_onehot_map.torch", "pert_onehot_map.pt"):
        good = (run / file).read_bytes()
        (run / file).write_bytes(pickle.dumps({"control": Evil()}))
        with pytest.raises(UnsafeCheckpointError, match=rf"{file} is refused: it names (builtins|__builtin__)\.eval"):
            convert(run, tmp_path / "out")
        (run / file).write_bytes(good)
    assert not (tmp_path / "ran").exists()


def test_files_of_torch_in_the_place_of_others(run, tmp_path):
    (run / "pert_onehot_map.pt").write_bytes(b"not a pickle")
    with pytest.raises(CheckpointError, match=r"pert_onehot_map\.pt is neither a file of torch\.save nor"):
        convert(run, tmp_path / "out")


class TestNames:
    def test_genes_are_asked_for(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"predicts 8 genes.*genes="):
            convert(ST, tmp_path / "out")

    def test_genes_from_a_list(self, tmp_path):
        (tmp_path / "genes.txt").write_text("".join(f"G{i}\n" for i in range(8)))
        model = convert(ST, tmp_path / "out", genes=tmp_path / "genes.txt")
        assert model.vocabulary.genes == tuple(f"G{i}" for i in range(8))
        assert StateTransitionForPerturbation.from_pretrained(tmp_path / "out").vocabulary.genes[0] == "G0"

    def test_genes_of_another_number(self, tmp_path):
        (tmp_path / "genes.txt").write_text("G1\nG2\n")
        with pytest.raises(CheckpointError, match=r"has 8 genes, but .*genes.txt names 2"):
            convert(ST, tmp_path / "out", genes=tmp_path / "genes.txt")

    @pytest.mark.parametrize("place", ["uns", "highly_variable", "var"])
    def test_genes_from_anndata(self, place, tmp_path):
        names = [f"G{i}" for i in range(8 if place == "var" else 12)]
        var = pd.DataFrame(index=names)
        adata = anndata.AnnData(np.zeros((2, len(names)), np.float32), var=var)
        expected = names[:8]
        if place == "highly_variable":
            adata.var["highly_variable"] = [i >= 4 for i in range(12)]
            expected = names[4:]
        elif place == "uns":
            adata.uns["X_hvg"] = {"var_names": np.array(names[2:10])}
            expected = names[2:10]
        adata.write_h5ad(tmp_path / "screen.h5ad")
        model = convert(ST, tmp_path / "out", genes=tmp_path / "screen.h5ad")
        assert list(model.vocabulary.genes) == expected

    def test_perturbations_are_asked_for(self, run, tmp_path):
        (run / "pert_onehot_map.pt").unlink()
        with pytest.raises(CheckpointError, match=r"no pert_onehot_map.pt.*perturbations="):
            convert(run, tmp_path / "out")
        (tmp_path / "names.txt").write_text("a\nb\nnon-targeting\nd\n")
        model = convert(run, tmp_path / "out", perturbations=tmp_path / "names.txt")
        assert model.vocabulary.control_perturbation == "non-targeting"

    def test_perturbations_with_feature_vectors(self, run, tmp_path):
        vectors = {name: torch.rand(4) for name in ("a", "b", "non-targeting")}
        torch.save(vectors, run / "pert_onehot_map.pt")
        convert(run, tmp_path / "out")
        model = StateTransitionForPerturbation.from_pretrained(tmp_path / "out").eval()
        assert model.config.perturbation_features == "vectors"
        control = torch.rand(1, 6, 8)
        by_id = model(control, torch.tensor([1])).predicted_cells
        by_vector = model(control, perturbation_features=vectors["b"][None]).predicted_cells
        torch.testing.assert_close(by_id, by_vector)

    def test_names_of_a_gene_table_are_asked_for(self, embedding, tmp_path):
        rewritten(embedding / "se.ckpt", lambda c: c.pop("protein_embeds_dict"))
        with pytest.raises(CheckpointError, match=r"does not name the 60 genes.*genes="):
            convert(embedding, tmp_path / "out")
        assert convert(embedding, tmp_path / "out", unnamed_genes=True).tokenizer is None
        assert inspect(tmp_path / "out").missing == ["names of the gene table's rows (genes.txt)"]

    def test_a_gene_table_is_asked_for(self, embedding, tmp_path):
        def without(content):
            torch.save(content.pop("protein_embeds_dict"), tmp_path / "table.pt")
            content["state_dict"].pop("pe_embedding.weight")

        rewritten(embedding / "se.ckpt", without)
        with pytest.raises(CheckpointError, match=r"no gene table.*gene_embeddings="):
            convert(embedding, tmp_path / "out")
        convert(embedding, tmp_path / "out", gene_embeddings=tmp_path / "table.pt")
        table = load_file(FIXTURES / "state_embedding" / "small" / "model.safetensors")["pe_embedding.weight"]
        written = load_file(tmp_path / "out" / "model.safetensors")["pe_embedding.weight"]
        assert torch.equal(written, table)


class TestAttention:
    def test_as_arc_state_loads_it(self, tmp_path):
        model = convert(ST, tmp_path / "out", unnamed_genes=True)
        assert (model.config.is_causal, model.config.position_embedding_type) == (True, "rotary")
        assert "attention: causal (the checkpoint does not say" in model.notes[0]

    def test_as_the_user_says(self, tmp_path):
        model = convert(ST, tmp_path / "out", unnamed_genes=True, attention="bidirectional", positions="none")
        assert (model.config.is_causal, model.config.position_embedding_type) == (False, "none")
        assert "bidirectional (set by the user); positions: none (set by the user)" in model.notes[0]
        output = StateTransitionForPerturbation.from_pretrained(tmp_path / "out").eval()
        cells, order = torch.rand(1, 6, 8), torch.tensor([3, 1, 5, 0, 2, 4])
        with torch.no_grad():
            ids = torch.tensor([0])
            straight, turned = (output(c, ids).predicted_cells for c in (cells, cells[:, order]))
        torch.testing.assert_close(turned, straight[:, order], rtol=0, atol=1e-5)

    def test_flags_that_do_not_fit(self, tmp_path):
        with pytest.raises(ValueError, match="GPT-2 backbone has no rotary"):
            convert(STATE_TRANSITION / "gpt2_causal", tmp_path / "out", positions="rotary")
        with pytest.raises(ValueError, match=r"attention=\.\.\. has no meaning"):
            convert(SE, tmp_path / "out", attention="causal")
        with pytest.raises(ValueError, match=r"gene_embeddings=\.\.\. has no meaning"):
            convert(ST, tmp_path / "out", gene_embeddings="x.pt")


def test_adapters_are_merged(run, tmp_path):
    """q_proj of layer 0 with an adapter of rank 2 and scale 6 / 2: W + 3 B A, by hand."""
    plain_name = "transformer_backbone.layers.0.self_attn.q_proj.weight"
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    before = {}

    def wrap(content):
        state = content["state_dict"]
        before["weight"] = state[plain_name]
        for name in [name for name in state if name.startswith("transformer_backbone.")]:
            wrapped = name.replace("backbone.", "backbone.base_model.model.")
            if name == plain_name:
                stem = wrapped.removesuffix(".weight")
                state[f"{stem}.base_layer.weight"] = state.pop(name)
                state[f"{stem}.lora_A.default.weight"], state[f"{stem}.lora_B.default.weight"] = down, up
            else:
                state[wrapped] = state.pop(name)
        content["hyper_parameters"]["lora"] = {"enable": True, "r": 2, "alpha": 6}

    rewritten(run / "checkpoints" / "final.ckpt", wrap)
    convert(run, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")[plain_name]
    torch.testing.assert_close(merged, before["weight"] + 3 * (up @ down))


def test_weights_under_the_originals_names_in_safetensors(tmp_path):
    """A folder of an earlier port: config.json with the original's names, and original keys."""
    source = shutil.copytree(FIXTURES / "state_embedding" / "small", tmp_path / "port")
    (source / "expected.safetensors").unlink()
    (source / "genes.txt").write_text("".join(f"G{i}\n" for i in range(60)))
    convert(source, tmp_path / "out")
    model = StateEmbeddingForMaskedExpression.from_pretrained(tmp_path / "out")
    assert model.config.num_attention_heads == 4
    weights = load_file(source / "model.safetensors")
    assert torch.equal(model.state_embedding.gene_table.weight, weights["pe_embedding.weight"])


def test_a_checkpoint_of_several_is_chosen(run, tmp_path):
    folder = run / "checkpoints"
    shutil.copyfile(folder / "final.ckpt", folder / "step=2.ckpt")
    (folder / "final.ckpt").rename(folder / "step=4.ckpt")
    with pytest.raises(CheckpointError, match=r"has several checkpoints \(step=2.ckpt, step=4.ckpt\); choose one"):
        convert(run, tmp_path / "out")
    assert convert(run, tmp_path / "out", checkpoint="step=2.ckpt").origin["file"] == "step=2.ckpt"
    with pytest.raises(CheckpointError, match=r"no checkpoint 'step=9\.ckpt'"):
        convert(run, tmp_path / "out2", checkpoint="step=9.ckpt")


def test_shards_and_what_is_beside_them(tmp_path):
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    convert(SE, whole)
    convert(SE, sharded, max_shard_bytes=50_000)
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    models = [StateEmbeddingForMaskedExpression.from_pretrained(folder).state_dict() for folder in (whole, sharded)]
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())
    assert str(inspect(sharded)).endswith("nothing")
    next(sharded.glob("model-00002*")).unlink()
    assert "its shard model-00002" in inspect(sharded).missing[0]


def test_the_record_and_the_licence(run, tmp_path):
    (run / "LICENSE").write_text("Only for non-commercial use.\n")
    convert(run, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == "Only for non-commercial use.\n"
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["licence"]["files"] == ["LICENSE"]
    assert "non-commercial" in record["licence"]["note"]
    assert record["original"]["hyper_parameters"]["embed_key"] == "X_state"
    assert record["ignored_weights"] == {
        "the backbone's token and position tables": ["transformer_backbone.embed_tokens.weight"]
    }


def test_an_output_is_replaced_only_on_request(tmp_path):
    output = tmp_path / "out"
    convert(SE, output)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(SE, output)
    (output / "other").write_text("x")
    convert(SE, output, overwrite=True)
    assert not (output / "other").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class TestToArc:
    def test_a_model_that_was_made_here(self, tmp_path):
        """Without a record of a conversion, everything comes from the configuration and the vocabulary."""
        convert(STATE_TRANSITION / "decoder", tmp_path / "st")
        convert_to_arc(tmp_path / "st", tmp_path / "with")
        (tmp_path / "st" / "conversion.json").unlink()
        model = StateTransitionForPerturbation.from_pretrained(tmp_path / "st")
        model.save_pretrained(tmp_path / "saved")
        convert_to_arc(tmp_path / "saved", tmp_path / "without")
        content = [torch.load(tmp_path / name / "checkpoints" / "final.ckpt") for name in ("with", "without")]
        assert content[0]["state_dict"].keys() == content[1]["state_dict"].keys()
        backbone = content[1]["hyper_parameters"]["transformer_backbone_kwargs"]
        assert backbone["bidirectional_attention"] is True
        config = yaml.safe_load((tmp_path / "without" / "config.yaml").read_text())
        assert config["data"]["kwargs"]["control_pert"] == "non-targeting"

    def test_what_arc_state_does_not_have(self, tmp_path):
        convert(ST, tmp_path / "st", unnamed_genes=True, attention="bidirectional")
        with pytest.raises(CheckpointError, match="is bidirectional with rotary positions, and arc-state"):
            convert_to_arc(tmp_path / "st", tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_fitted_offsets_are_not_dropped(self, tmp_path):
        model = StateTransitionForPerturbation(
            StateTransitionConfig(
                input_dim=4,
                num_perturbations=2,
                perturbation_dim=2,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                use_perturbation_offsets=True,
            )
        )
        model.save_pretrained(tmp_path / "st")
        with pytest.raises(CheckpointError, match="adds offsets to its output"):
            convert_to_arc(tmp_path / "st", tmp_path / "run")

    def test_names_of_outputs(self, converted, tmp_path):
        folder = converted(SE)
        with pytest.raises(ValueError, match=r"ends in \.ckpt"):
            convert_to_arc(folder, tmp_path / "folder")
        (tmp_path / "x.ckpt").write_text("")
        with pytest.raises(FileExistsError, match="overwrite=True"):
            convert_to_arc(folder, tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError, match="not a model folder"):
            convert_to_arc(SE, tmp_path / "y.ckpt")


class TestInspect:
    @pytest.mark.parametrize("name", sorted(path.name for path in STATE_TRANSITION.iterdir()))
    def test_runs(self, name):
        text = str(inspect(STATE_TRANSITION / name))
        assert "State Transition checkpoint of arc-state (final.ckpt" in text
        assert "4 perturbations (KLF1, non-targeting, TP53, GATA1; control 'non-targeting')" in text
        assert ("names of the 8 predicted genes" in text) == (name == "llama_causal_rotary")

    def test_a_state_embedding_and_what_it_became(self, converted):
        before, after = inspect(SE / "se.ckpt"), inspect(converted(SE))
        for topic in ("sizes", "input", "output", "attention", "vocabulary"):
            assert before.facts[topic] == after.facts[topic]
        assert before.missing == after.missing == []

    @pytest.mark.parametrize("model_type", ["state_of_others", "bert"])
    def test_a_checkpoint_beside_a_configuration_of_others(self, model_type, embedding):
        (embedding / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
        assert inspect(embedding).missing == []

    def test_a_model_of_others(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(CheckpointError, match="is a bert model, which is not of this package"):
            inspect(tmp_path)

    def test_missing_weights_and_files(self, converted, tmp_path):
        folder = shutil.copytree(converted(STATE_TRANSITION / "decoder"), tmp_path / "st")
        (folder / "vocabulary.json").unlink()
        weights = load_file(folder / "model.safetensors")
        weights.pop("project_out.0.bias")
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        missing = inspect(folder).missing
        assert missing == ["1 weights: project_out.0.bias", "names of perturbations (vocabulary.json)"]

    def test_what_cannot_be_converted_is_said(self, run):
        (run / "pert_onehot_map.pt").unlink()
        assert "have no names" in inspect(run).missing[0]

    def test_nothing_there(self):
        with pytest.raises(FileNotFoundError, match="owner/name"):
            inspect("no-such-file.ckpt")
