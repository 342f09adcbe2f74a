"""What every loss between sets of cells must do, whatever it computes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from state_hf.modeling.losses import SET_LOSSES, FeatureChunksLoss, make_set_loss

REFERENCE = Path(__file__).parents[2] / "fixtures" / "losses" / "expected.safetensors"
UNPAIRED = [name for name in SET_LOSSES if name != "mse"]
ARGUMENTS = {"gaussian_mmd": {"bandwidth": 3.0}}

seeds = st.integers(0, 2**32 - 1)


def loss_of(name):
    return make_set_loss(name, **ARGUMENTS.get(name, {}))


def cells(seed, *shape):
    return 3 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["energy", "sinkhorn", "gaussian_mmd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_against_geomloss(name, dtype):
    reference = load_file(REFERENCE)
    x = reference["x"].to(dtype).requires_grad_()
    value = loss_of(name)(x, reference["y"].to(dtype))
    value.sum().backward()
    # geomloss takes 1e-4 for the distance of a cell to itself: less of it by (1/7 + 1/9) / 2 of 1e-4.
    floor = 1e-4 * (1 / 7 + 1 / 9) / 2 if name == "energy" else 0
    # The Sinkhorn iterations pass float32's rounding on, divided by their temperature.
    rtol = 1e-4 if name == "sinkhorn" and dtype == torch.float32 else 1e-6
    torch.testing.assert_close(value.double() - floor, reference[f"{name}.value"], rtol=rtol, atol=0)
    gradient = reference[f"{name}.gradient"]
    assert (x.grad - gradient).norm() <= rtol * gradient.norm()


@pytest.mark.parametrize("name", SET_LOSSES)
@settings(max_examples=10)
@given(seed=seeds)
def test_not_negative_and_0_for_equal_sets(name, seed):
    x, y = cells(seed, 2, 5, 4), cells(seed + 1, 2, 5, 4)
    loss = loss_of(name)
    assert (loss(x, y) > 0).all()
    torch.testing.assert_close(loss(x, x.clone()), torch.zeros(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", UNPAIRED)
@settings(max_examples=10)
@given(seed=seeds)
def test_the_order_of_cells_is_of_no_account(name, seed):
    x, y = cells(seed, 2, 6, 4), cells(seed + 1, 2, 5, 4)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    loss = loss_of(name)
    torch.testing.assert_close(loss(x[:, order], y.flip(1)), loss(x, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SET_LOSSES)
@settings(max_examples=10)
@given(seed=seeds, padding=st.sampled_from([0.0, 1e6, float("nan")]))
def test_padding_changes_nothing(name, seed, padding):
    x, y = cells(seed, 2, 5, 4), cells(seed + 1, 2, 5, 4)
    mask = torch.arange(7).expand(2, -1) < 5
    padded = [torch.cat([z, torch.full((2, 2, 4), padding)], dim=1) for z in (x, y)]
    results = []
    for arguments in ((x, y), (*padded, mask, mask)):
        predicted = arguments[0].clone().requires_grad_()
        value = loss_of(name)(predicted, *arguments[1:])
        value.sum().backward()
        results.append((value.detach(), predicted.grad[:, :5]))
        assert (predicted.grad[:, 5:] == 0).all()
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SET_LOSSES)
@settings(max_examples=10)
@given(seed=seeds)
def test_a_set_does_not_see_the_others(name, seed):
    x, y = cells(seed, 3, 5, 4), cells(seed + 1, 3, 5, 4)
    loss = loss_of(name)
    among_others = [torch.cat([z[:1], 50 * z[1:]]) for z in (x, y)]
    torch.testing.assert_close(loss(*among_others)[:1], loss(x[:1], y[:1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SET_LOSSES)
def test_an_empty_set_gives_0_and_no_gradient(name):
    x = cells(0, 2, 5, 4).requires_grad_()
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1] = False
    value = loss_of(name)(x, cells(1, 2, 5, 4), mask, mask)
    value.sum().backward()
    assert value[1] == 0
    assert (x.grad[1] == 0).all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", SET_LOSSES)
def test_has_a_citation(name):
    assert "author" in loss_of(name).citation


def test_the_mean_squared_error_wants_pairs():
    with pytest.raises(ValueError, match="cell by cell"):
        loss_of("mse")(cells(0, 1, 3, 4), cells(0, 1, 4, 4))


def test_an_unknown_loss_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"no loss 'wasserstein'.*'energy'"):
        make_set_loss("wasserstein")


def test_chunks_are_averaged():
    x, y = cells(0, 2, 5, 7), cells(1, 2, 5, 7)
    energy = loss_of("energy")
    expected = (energy(x[..., :4], y[..., :4]) + energy(x[..., 4:], y[..., 4:])) / 2
    torch.testing.assert_close(make_set_loss("energy", chunks=2)(x, y), expected)


def test_shuffled_chunks_keep_predicted_and_real_features_together():
    x, y = cells(0, 1, 5, 8), cells(1, 1, 5, 8)
    shuffled = FeatureChunksLoss(loss_of("energy"), 4, shuffle=True)
    torch.manual_seed(0)
    assert shuffled(x, x.clone()).abs() < 1e-6
    assert shuffled(x, y) != shuffled(x, y)
