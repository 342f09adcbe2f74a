"""Energy distance: by hand, against a slow twin, and where float32 is at its limits."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from state_hf.modeling.losses import EnergyDistanceLoss


def twin(x, y):
    """The definition, pair by pair, in double."""

    def mean_distance(a, b):
        return torch.stack([torch.stack([(p - q).norm() for q in b]).mean() for p in a]).mean()

    pairs = zip(x.double(), y.double(), strict=True)
    return torch.stack([mean_distance(a, b) - mean_distance(a, a) / 2 - mean_distance(b, b) / 2 for a, b in pairs])


def test_by_hand():
    # Cells 0 and 2 on a line against one cell at 5: between (5 + 3) / 2, within (0 + 2 + 2 + 0) / 4 and 0.
    x, y = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[5.0]]])
    assert EnergyDistanceLoss()(x, y).item() == 4 - 0.5
    # Two points: their distance, by Pythagoras.
    x, y = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])
    assert EnergyDistanceLoss()(x, y).item() == 5.0


def test_gradient_by_hand():
    # x0 = 0 goes towards 5 with 1/2 and away from x1 = 2 with 1/4; x1 towards 5 with 1/2 and away from 0 with 1/4.
    x = torch.tensor([[[0.0], [2.0]]], requires_grad=True)
    EnergyDistanceLoss()(x, torch.tensor([[[5.0]]])).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[-0.5 + 0.25], [-0.5 - 0.25]]]))


@settings(max_examples=40)
@example(3, 3, 4, 1, 0.0, 2**32 - 1)  # on a line, two cells nearly meet
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 12),
    st.sampled_from([0.0, 100.0]),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_definition(sets, cells, target_cells, features, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sets, cells, features, generator=generator) + offset
    y = torch.randn(sets, target_cells, features, generator=generator) + offset + 1
    torch.testing.assert_close(EnergyDistanceLoss()(x, y).double(), twin(x, y), rtol=1e-5, atol=1e-5)


def test_gradient_equals_that_of_finite_differences():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)
    y = torch.randn(2, 5, 3, dtype=torch.double, requires_grad=True)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert torch.autograd.gradcheck(EnergyDistanceLoss(), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: EnergyDistanceLoss()(x, y, mask), (x, y))


def test_a_target_without_gradient_gets_none():
    x, y = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    EnergyDistanceLoss()(x, y).sum().backward()
    assert y.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equal_sets_have_distance_0_and_no_gradient(scale):
    torch.manual_seed(0)
    x = (scale * torch.randn(2, 40, 300)).requires_grad_()
    value = EnergyDistanceLoss()(x, x.detach().clone())
    value.sum().backward()
    assert (value.abs() < 1e-5 * scale).all()
    assert x.grad.abs().max() < 1e-6


def test_coinciding_cells_have_a_finite_gradient():
    # A ReLU makes cells that are all zero: the same cell many times, in prediction and target.
    x = torch.zeros(1, 5, 8)
    x[0, 3:] = torch.rand(2, 8)
    y = torch.zeros(1, 4, 8)
    y[0, 0] = 1
    x.requires_grad_()
    EnergyDistanceLoss()(x, y).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() <= 1


def test_cells_close_together_and_far_from_the_target_keep_their_digits():
    # Predictions that have collapsed: within 1e-4 of one another, at 1e2 of the target. What pulls them apart is all
    # that training has, and it must not be lost to the rounding of 1e2 squared.
    torch.manual_seed(0)
    x = 1e-4 * torch.randn(1, 30, 50)
    y = torch.randn(1, 30, 50) - 15
    gradients = []
    for dtype in (torch.float32, torch.float64):
        cells = x.detach().clone().to(dtype).requires_grad_()
        EnergyDistanceLoss()(cells, y.to(dtype)).sum().backward()
        gradients.append(cells.grad.double())
    pull_apart = [gradient - gradient.mean(dim=1, keepdim=True) for gradient in gradients]
    assert (pull_apart[0] - pull_apart[1]).norm() < 1e-3 * pull_apart[1].norm()


@pytest.mark.parametrize("features", [20, 2000])
def test_float32_is_exact_to_a_millionth(features):
    torch.manual_seed(0)
    y = 3 * torch.rand(2, 256, features) * (torch.rand(2, 256, features) < 0.3)
    x = 3 * torch.rand(2, 256, features) * (torch.rand(2, 256, features) < 0.35)
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        cells = x.detach().clone().to(dtype).requires_grad_()
        value = EnergyDistanceLoss()(cells, y.to(dtype))
        value.sum().backward()
        values.append(value.double())
        gradients.append(cells.grad.double())
    assert ((values[0] - values[1]).abs() / values[1]).max() < 1e-6
    assert (gradients[0] - gradients[1]).norm() < 2e-6 * gradients[1].norm()


def test_half_precision_is_added_in_single():
    torch.manual_seed(0)
    x = torch.rand(2, 64, 200).bfloat16().requires_grad_()
    y = (torch.rand(2, 64, 200) + 0.1).bfloat16()
    value = EnergyDistanceLoss()(x, y)
    value.sum().backward()
    assert value.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(value, EnergyDistanceLoss()(x.float(), y.float()))


def test_more_sets_than_a_block_holds(monkeypatch):
    monkeypatch.setattr("state_hf.modeling.losses.energy_distance._BLOCK_ELEMENTS", 130)
    torch.manual_seed(0)
    x, y = torch.randn(5, 6, 10, dtype=torch.double, requires_grad=True), torch.randn(5, 4, 10, dtype=torch.double)
    torch.testing.assert_close(EnergyDistanceLoss()(x, y), twin(x, y))
    assert torch.autograd.gradcheck(EnergyDistanceLoss(), (x, y))


# torch's own: what dynamo does to trace an autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_break():
    torch.manual_seed(0)
    x, y = torch.randn(2, 6, 10), torch.randn(2, 4, 10)
    results = []
    for loss in (EnergyDistanceLoss(), torch.compile(EnergyDistanceLoss(), backend="aot_eager", fullgraph=True)):
        cells = x.clone().requires_grad_()
        value = loss(cells, y)
        value.sum().backward()
        results.append((value.detach(), cells.grad))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("distance", [1e-15, 1e-3, 1e10])
def test_two_cells_are_as_far_apart_as_they_are(distance):
    value = EnergyDistanceLoss()(torch.zeros(1, 1, 3), torch.full((1, 1, 3), distance))
    assert value.item() == pytest.approx(math.sqrt(3) * distance, rel=1e-6)
