"""What holds of every State Transition model: symmetries of sets, perturbations in all their forms, names."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from state_hf import PerturbationVocabulary, StateTransitionConfig, StateTransitionForPerturbation

SETS, CELLS, FEATURES, PERTURBATIONS, GENES = 3, 5, 8, 4, 7
SMALL = {
    "input_dim": FEATURES, "perturbation_dim": PERTURBATIONS, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "cell_set_length": CELLS, "dropout": 0.0,
    # At the usual 0.02 so small a model hardly looks at its inputs, and no property of it could fail.
    "initializer_range": 0.3,
}  # fmt: skip
KINDS = {
    "llama": {},
    "gpt2": {"backbone": "gpt2"},
    "tokens": {"use_batch_token": True, "use_confidence_token": True, "num_batches": 2},
    "batch_encoder": {"use_batch_encoder": True, "num_batches": 2, "predict_residual": False},
    "all_genes": {"output_space": "all", "num_encoder_layers": 2, "num_decoder_layers": 2},
    "decoder": {"feature_key": "X_emb", "gene_decoder": "residual", "gene_dim": GENES,
                "gene_decoder_hidden_sizes": [8, 8]},
    "negative_binomial": {"feature_key": "X_emb", "gene_decoder": "negative_binomial", "gene_dim": GENES,
                          "gene_decoder_hidden_sizes": [8]},
    "mask_attention": {"mask_attention": True},
    "chunks": {"num_loss_chunks": 3, "loss": "gaussian_mmd"},
}  # fmt: skip


def make_model(kind="llama", **fields) -> StateTransitionForPerturbation:
    torch.manual_seed(0)
    return StateTransitionForPerturbation(StateTransitionConfig(**{**SMALL, **KINDS[kind], **fields})).eval()


def make_inputs(model, *, cells=CELLS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "control": torch.rand(SETS, cells, FEATURES, generator=generator),
        "target": torch.rand(SETS, cells, FEATURES, generator=generator),
        "perturbation_ids": torch.tensor([1, 3, 0]),
        "batch_ids": torch.tensor([0, 1, 1]),
    }
    if model.gene_decoder is not None:
        inputs["target_expression"] = torch.randint(0, 9, (SETS, cells, GENES), generator=generator).float()
    return inputs


def outputs_of(model, inputs):
    with torch.no_grad():
        return model(**inputs)


@pytest.fixture(params=KINDS)
def model(request):
    return make_model(request.param)


def test_cells_in_another_order_are_predicted_in_that_order(model):
    inputs = make_inputs(model)
    order = torch.tensor([4, 0, 3, 1, 2])
    moved = {**inputs, "control": inputs["control"][:, order], "target": inputs["target"].flip(1)}
    if "target_expression" in inputs:
        moved["target_expression"] = inputs["target_expression"].flip(1)
    one, other = outputs_of(model, inputs), outputs_of(model, moved)
    assert_close(other.predicted_cells, one.predicted_cells[:, order], rtol=1e-4, atol=1e-5)
    if one.predicted_expression is not None:
        assert_close(other.predicted_expression, one.predicted_expression[:, order], rtol=1e-4, atol=1e-5)
    # The negative-binomial likelihood compares cell with cell.
    if model.config.gene_decoder != "negative_binomial":
        assert_close(other.loss, one.loss, rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), padding=st.integers(1, 3), seed=st.integers(0, 9))
def test_padding_changes_nothing(kind, padding, seed):
    model = make_model(kind)
    inputs = make_inputs(model, seed=seed)
    padded = dict(inputs)
    for name in ("control", "target", "target_expression"):
        if name in inputs:
            junk = torch.full((SETS, padding, inputs[name].shape[-1]), float("nan"))
            padded[name] = torch.cat([inputs[name], junk], dim=1)
    mask = torch.cat([torch.ones(SETS, CELLS), torch.zeros(SETS, padding)], dim=1).bool()
    one, other = outputs_of(model, inputs), outputs_of(model, {**padded, "cell_mask": mask, "target_mask": mask})
    assert_close(other.predicted_cells[:, :CELLS], one.predicted_cells, rtol=1e-4, atol=1e-5)
    assert not other.predicted_cells[:, CELLS:].any()
    assert_close(other.loss, one.loss, rtol=1e-4, atol=1e-5)


def test_the_other_sets_of_a_batch_do_not_matter(model):
    inputs = make_inputs(model)
    alone = {name: value[1:2] for name, value in inputs.items()}
    whole, one = outputs_of(model, inputs), outputs_of(model, alone)
    assert_close(one.predicted_cells, whole.predicted_cells[1:2], rtol=1e-4, atol=1e-5)


def test_an_id_is_a_one_hot_vector_and_a_combination_their_sum():
    model = make_model(num_encoder_layers=2)
    control = make_inputs(model)["control"]
    one_hot = torch.eye(PERTURBATIONS)[[1, 3, 0]]
    by_id = outputs_of(model, {"control": control, "perturbation_ids": torch.tensor([1, 3, 0])})
    assert_close(outputs_of(model, {"control": control, "perturbation_features": one_hot}), by_id)
    pairs = torch.tensor([[1, 2], [3, -1], [0, 1]])
    doses = torch.tensor([[1.0, 0.5], [2.0, 9.0], [1.0, 1.0]])
    vectors = torch.tensor([[0, 1, 0.5, 0], [0, 0, 0, 2], [1, 1, 0, 0]])
    combined = outputs_of(model, {"control": control, "perturbation_ids": pairs, "dose": doses})
    expected = outputs_of(model, {"control": control, "perturbation_features": vectors})
    assert_close(combined.predicted_cells, expected.predicted_cells)


def test_a_table_of_features_is_looked_up_by_id():
    model = make_model(perturbation_features="vectors", perturbation_dim=3, num_perturbations=2)
    control, table = make_inputs(model)["control"], model.state_transition.perturbation_table.weight
    ids = torch.tensor([1, 0, 1])
    by_id = outputs_of(model, {"control": control, "perturbation_ids": ids})
    by_features = outputs_of(model, {"control": control, "perturbation_features": table[ids].detach()})
    assert_close(by_id.predicted_cells, by_features.predicted_cells)


def test_every_trainable_weight_learns(model):
    model.train()
    model(**make_inputs(model)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []


def test_gradient_checkpointing_changes_nothing(model):
    other = copy.deepcopy(model)
    other.activation_checkpointing_enable()
    for one in (model, other):
        one.train()
        one(**make_inputs(model)).loss.backward()
    for (name, weight), same in zip(model.named_parameters(), other.parameters(), strict=True):
        assert_close(same.grad, weight.grad, msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_backends_agree(model, attention):
    inputs = make_inputs(model)
    expected = outputs_of(model, inputs).predicted_cells
    model.set_attn_implementation(attention)
    assert_close(outputs_of(model, inputs).predicted_cells, expected, rtol=1e-4, atol=1e-5)


def test_names_are_saved_with_the_model_and_checked(tmp_path):
    model = make_model()
    names = PerturbationVocabulary([*"ABC", "control"], "control", (), ("T",), [f"g{n}" for n in range(FEATURES)])
    model.vocabulary = names
    model.save_pretrained(tmp_path)
    assert StateTransitionForPerturbation.from_pretrained(tmp_path).vocabulary == names
    with pytest.raises(ValueError, match="names 2 perturbations, but the model has 4"):
        model.vocabulary = PerturbationVocabulary(["A", "B"])
    with pytest.raises(ValueError, match="names 1 genes, but the model has 8"):
        model.vocabulary = PerturbationVocabulary(list("ABCD"), genes=["g0"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturbation_ids": None}, "Give either perturbation_ids or perturbation_features"),
        ({"control": torch.zeros(3, 5, 2)}, "this model reads sets x cells x 8 features"),
        ({"perturbation_ids": None, "perturbation_features": torch.zeros(3, 9)}, "have the width 9"),
        ({"target_expression": torch.zeros(3, 5, 7)}, "decodes no genes"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    model = make_model()
    inputs = {**make_inputs(model), **changes}
    with pytest.raises(ValueError, match=message):
        model(**{name: value for name, value in inputs.items() if value is not None})


def test_a_batch_is_asked_for():
    model = make_model("batch_encoder")
    inputs = make_inputs(model)
    del inputs["batch_ids"]
    with pytest.raises(ValueError, match="it needs batch_ids"):
        model(**inputs)
