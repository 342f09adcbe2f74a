"""Negative-binomial likelihood of counts."""

import torch
from torch import nn

from state_hf.modeling.losses.pairwise_distances import cell_weights, precise


class NegativeBinomialLoss(nn.Module):
    r"""Negative log-likelihood of counts under a negative binomial of mean mu and inverse overdispersion theta.

    .. math::
        -\log p(k) = -\log\Gamma(k + \theta) + \log\Gamma(\theta) + \log k!
            + \theta \log(1 + \mu / \theta) + k \log(1 + \theta / \mu)

    averaged over genes and cells. The variance is mu + mu^2 / theta.

    Args:
        eps: Smallest mean and dispersion, which keep the logarithms finite.

    References:
        - Lopez et al., Deep generative modeling for single-cell transcriptomics, 2018,
          https://doi.org/10.1038/s41592-018-0229-2

    Inputs:
        +------------+------------------------------------------+
        | Argument   | Shape                                    |
        +============+==========================================+
        | mean       | (sets, cells, genes), positive           |
        +------------+------------------------------------------+
        | counts     | (sets, cells, genes), not negative       |
        +------------+------------------------------------------+
        | dispersion | (genes,), positive                       |
        +------------+------------------------------------------+
        | mask       | (sets, cells), True for cells (optional) |
        +------------+------------------------------------------+
        | output     | (sets,), float32                         |
        +------------+------------------------------------------+

    Requirements:
        Cell i of the mean belongs to cell i of the counts. Counts are not normalised and not logarithms.

    Relations:
        - For log-normalised expression, use `EnergyDistanceLoss`.

    Example:
        >>> NegativeBinomialLoss()(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), torch.ones(1))
        tensor([0.6931])
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(
        self,
        mean: torch.Tensor,
        counts: torch.Tensor,
        dispersion: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if mean.shape != counts.shape:
            raise ValueError(
                f"The likelihood compares cell by cell, but there are {tuple(mean.shape)} means and "
                f"{tuple(counts.shape)} counts."
            )
        mean = precise(mean, mask).clamp(min=self.eps)
        counts = precise(counts, mask)
        theta = precise(dispersion).clamp(min=self.eps)
        improbability = (
            torch.lgamma(theta)
            + torch.lgamma(counts + 1)
            - torch.lgamma(counts + theta)
            + theta * torch.log1p(mean / theta)
            + counts * torch.log1p(theta / mean)
        )
        return (improbability.mean(dim=-1) * cell_weights(mean, mask)).sum(dim=1)

    @property
    def citation(self) -> str:
        """BibTeX of the paper."""
        return """
@article{lopez2018deep,
    title = "Deep generative modeling for single-cell transcriptomics",
    author = "Lopez, Romain and Regier, Jeffrey and Cole, Michael B. and Jordan, Michael I. and Yosef, Nir",
    journal = "Nature Methods",
    volume = "15",
    pages = "1053--1058",
    year = "2018",
}
"""


__all__ = ["NegativeBinomialLoss"]
