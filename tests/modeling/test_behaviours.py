"""What every model class must do: one list of behaviours, run over all of them."""

import copy
import inspect

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close


def tensors(output) -> dict[str, torch.Tensor]:
    return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


def scalar_of(output) -> torch.Tensor:
    return output.loss if output.get("loss") is not None else sum(v.float().sum() for v in tensors(output).values())


def run(model, inputs):
    with torch.no_grad():
        return tensors(model(**inputs))


def cells(model, inputs) -> torch.Tensor:
    """What the model, without heads, says of the cells: an embedding, or the mean over a stock model's states."""
    known = inspect.signature(model.base_model.forward).parameters
    output = run(model.base_model, {name: value for name, value in inputs.items() if name in known})
    if "cell_embedding" in output:
        return output["cell_embedding"]
    weights = inputs["attention_mask"] / inputs["attention_mask"].sum(dim=1, keepdim=True)
    return (output["last_hidden_state"] * weights[..., None].to(output["last_hidden_state"].dtype)).sum(dim=1)


def test_a_saved_model_is_the_same_model(case, tmp_path):
    model, inputs = case
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    # Not bit for bit: a weight mapped from a file is aligned differently, and picks another kernel.
    assert_close(run(loaded, inputs), run(model, inputs), rtol=1e-5, atol=1e-5)


def test_a_sharded_model_is_the_same_model(case, tmp_path):
    model, _ = case
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_close(type(model).from_pretrained(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_and_close(case, dtype, tmp_path):
    model, inputs = case
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=dtype)
    expected, got = cells(model, inputs), cells(half, inputs)
    assert got.dtype == dtype
    assert all(value.isfinite().all() for value in run(half, inputs).values())
    cosine = torch.cosine_similarity(got.float(), expected)
    assert cosine.min() > 0.99


def test_gradients_reach_every_trainable_weight(case):
    model, inputs = case
    model.train()
    scalar_of(model(**inputs)).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    # The bare model's outputs are summed, so all of its weights take part; so do the heads' through the loss.
    assert not missing


def test_gradient_checkpointing_changes_nothing(case):
    model, inputs = case
    other = copy.deepcopy(model)
    other.activation_checkpointing_enable()
    gradients = []
    for m in (model, other):
        m.train()
        scalar_of(m(**inputs)).backward()
        gradients.append({name: p.grad for name, p in m.named_parameters() if p.grad is not None})
    assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    "attention",
    # The compiler that flex attention runs through warns about itself, many times over.
    ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.filterwarnings("ignore"))],
)
def test_attention_backends_agree(case, attention, tmp_path):
    if attention == "flex_attention" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch compiles flex attention for processors from AVX2 on")
    model, inputs = case
    inputs["attention_mask"][1, -3:] = 0
    model.save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path, attn_implementation=attention)
    assert other.config._attn_implementation == attention
    assert_close(cells(other, inputs), cells(model, inputs), rtol=1e-5, atol=1e-5)


def test_lora_attaches_trains_and_merges(case):
    # In double: the step below makes weights of any size, over which single precision loses several digits.
    model, inputs = case
    model.double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    expected = run(model, inputs)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules="all-linear"))
    assert_close(run(adapted, inputs), expected)
    scalar_of(adapted(**inputs)).backward()
    trained = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1).step()
    changed = run(adapted, inputs)
    assert_close(run(adapted.merge_and_unload(), inputs), changed, rtol=1e-4, atol=1e-4)


def test_hidden_states_and_attentions_on_request(case):
    model, inputs = case
    model.set_attn_implementation("eager")
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    assert len(output.attentions) == model.config.num_hidden_layers


def test_tuples_on_request(case):
    model, inputs = case
    output = model(**inputs, return_dict=False)
    assert isinstance(output, tuple)


def test_compiles_to_the_same_values(case):
    model, inputs = case
    expected = run(model, inputs)
    # A language model is its own encoder.
    getattr(model.base_model, "encoder", model.base_model).compile(fullgraph=True, backend="aot_eager")
    assert_close(run(model, inputs), expected, rtol=1e-5, atol=1e-5)
