"""Negative-binomial likelihood of counts."""

import pytest
import torch

from state_hf.modeling.losses import NegativeBinomialLoss


def test_by_hand():
    # With dispersion 1 it is geometric: p(k) = (1/(1+m)) (m/(1+m))^k, so for m = 1 half of it at 0, an eighth at 2.
    mean, counts = torch.ones(1, 1, 2), torch.tensor([[[0.0, 2.0]]])
    expected = -(torch.tensor(1 / 2).log() + torch.tensor(1 / 8).log()) / 2
    torch.testing.assert_close(NegativeBinomialLoss()(mean, counts, torch.ones(2)), expected.unsqueeze(0))


def test_equals_torch_distributions():
    torch.manual_seed(0)
    mean, theta = torch.rand(2, 5, 4) * 10 + 0.1, torch.rand(4) * 5 + 0.1
    counts = torch.poisson(mean)
    other = torch.distributions.NegativeBinomial(theta, probs=mean / (mean + theta))
    expected = -other.log_prob(counts).mean(dim=(1, 2))
    torch.testing.assert_close(NegativeBinomialLoss()(mean, counts, theta), expected, rtol=1e-4, atol=1e-5)


def test_zero_mean_is_finite():
    mean = torch.zeros(1, 1, 2, requires_grad=True)
    NegativeBinomialLoss()(mean, torch.tensor([[[0.0, 3.0]]]), torch.ones(2)).sum().backward()
    assert mean.grad.isfinite().all()


def test_padding_changes_nothing():
    torch.manual_seed(0)
    mean, counts, theta = torch.rand(1, 3, 4) + 0.1, torch.ones(1, 3, 4), torch.ones(4)
    padded = [torch.cat([z, torch.full((1, 2, 4), float("nan"))], dim=1) for z in (mean, counts)]
    mask = torch.tensor([[True, True, True, False, False]])
    loss = NegativeBinomialLoss()
    torch.testing.assert_close(loss(*padded, theta, mask), loss(mean, counts, theta))


def test_wants_pairs():
    with pytest.raises(ValueError, match="cell by cell"):
        NegativeBinomialLoss()(torch.ones(1, 3, 2), torch.ones(1, 2, 2), torch.ones(2))
