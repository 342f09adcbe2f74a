"""Effects by features: of perturbations, and of the levels of contexts."""

from typing import Literal

import numpy as np
import torch
from torch import nn

Likeness = Literal["linear", "gaussian", "nearest"]


class FeatureEffects(nn.Module):
    """Effects of things by their features: a sum over known ones, the supports, weighted by how alike they are.

    Features x are standardised, z = (x - centre) / scale, as the supports s are. Likeness is "linear", z s; "gaussian",
    exp(-|z - s|^2 / (2 length^2)), 0 for what is like nothing known; or "nearest", 1 for the nearest support and 0 for
    others. Nothing trains the numbers.

    Args:
        supports: Number of supports.
        dim: Features.
        width: Width of an effect.
        likeness: "linear", "gaussian" or "nearest".
    """

    def __init__(self, supports: int, dim: int, width: int, likeness: Likeness) -> None:
        super().__init__()
        self.likeness = likeness
        self.centre, self.scale = _constant(dim), _constant(dim)
        self.support, self.weights = _constant(supports, dim), _constant(supports, width)
        self.length = _constant()

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        features: np.ndarray,
        *,
        likeness: Likeness,
        centre: np.ndarray,
        scale: np.ndarray | float,
        width: int,
        length: float = 1.0,
    ) -> "FeatureEffects":
        """Effects by their likeness to these features, (supports, dim), in double precision; the weights are 0."""
        supports, dim = features.shape
        effects = cls(supports, dim, width, likeness).double()
        effects.centre.copy_(torch.from_numpy(centre))
        effects.scale.copy_(torch.as_tensor(scale, dtype=torch.float64).expand(dim))
        effects.support.copy_(effects.standardised(torch.from_numpy(features).double()))
        effects.length.fill_(length)
        return effects

    def standardised(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, dim). Features around the centre, in units of the scale."""
        return (features - self.centre) / self.scale

    def alike(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, supports). How alike the supports features (rows, dim) are."""
        return self._alike(self.standardised(features))

    def among_supports(self) -> np.ndarray:
        """(supports, supports). How alike the supports are."""
        return np.asarray(self._alike(self.support))

    def _alike(self, found: torch.Tensor) -> torch.Tensor:
        if self.likeness == "linear":
            return found @ self.support.T
        # Not from products: in single precision they lose what tells near ones apart.
        exact = found.dtype != torch.float64
        mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist_if_necessary"
        distances = torch.cdist(found, self.support, compute_mode=mode)
        if self.likeness == "nearest":
            return nn.functional.one_hot(distances.argmin(dim=1), len(self.support)).to(found)
        return torch.exp(-distances.square() / (2 * self.length.square()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, width). Effects by features (rows, dim)."""
        return self.alike(features) @ self.weights

    @torch.no_grad()
    def with_supports(self, support: np.ndarray) -> "FeatureEffects":
        """The same for other supports, (supports, dim), that are standardised already; the weights are 0."""
        supports, dim = support.shape
        other = FeatureEffects(supports, dim, self.weights.shape[1], self.likeness).to(self.centre)
        for name in ("centre", "scale", "length"):
            getattr(other, name).copy_(getattr(self, name))
        other.support.copy_(torch.from_numpy(support))
        return other

    @torch.no_grad()
    def set_weights(self, weights: np.ndarray) -> None:
        """Set the weights, (supports, width)."""
        self.weights.copy_(torch.from_numpy(weights))

    @torch.no_grad()
    def of_array(self, features: np.ndarray) -> np.ndarray:
        """(rows, width). `forward` of an array (rows, dim)."""
        return np.asarray(self(self._rows(features)).cpu())

    @torch.no_grad()
    def alike_array(self, features: np.ndarray) -> np.ndarray:
        """(rows, supports). `alike` of an array (rows, dim)."""
        return np.asarray(self.alike(self._rows(features)).cpu())

    def _rows(self, features: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(features)).to(self.centre)


def _constant(*shape: int) -> nn.Parameter:
    """A parameter, so that it is saved and moved with the model, that nothing trains."""
    return nn.Parameter(torch.zeros(shape), requires_grad=False)


__all__ = ["FeatureEffects", "Likeness"]
